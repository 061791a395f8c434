"""The classifier: which recorded calls an error crosses as in backprop, against the rule."""

import enum
import linecache
import re
from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor
from torch.autograd.graph import Node

from lra.torch.activations import Activation
from lra.torch.audit.judge import Nature
from lra.torch.audit.nodes import (
    ADDS,
    BOUND,
    NONLINEAR,
    POWER,
    PRODUCT,
    SCALE,
    STATISTIC,
    VIEW,
    function_of,
    mixes,
    node_name,
    nodes_below,
)
from lra.torch.audit.recorder import Call, Origin, Recorder, plain_name
from lra.torch.layers import LocalActivation
from lra.torch.registry import ACTIVATION_FUNCTIONS, ACTIVATIONS, TORCH_ACTIVATIONS, WEIGHT_LAYERS

_BY_DESIGN = re.compile(r"norm|pool|softmax|attention|loss|entropy|similarity")  # torch's functions


class Kind(enum.StrEnum):
    """The kind of an operation that escapes the rule."""

    #: An elementwise nonlinear function.
    ACTIVATION = "activation"
    #: A product with weights, or another function of data and weights.
    WEIGHTS = "weights"
    #: Code whose effect on an error torch does not show.
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class Finding:
    """One operation that errors cross as in backprop, though the rule changes it.

    Attributes:
        kind: an activation or weights.
        operation: the torch function.
        module: the qualified name of the module whose forward calls it; "" for the model.
        where: "file:line" of the caller's code; "" where only torch calls it.
        parameter: the qualified names of the weights in the product, separated by ", "; "" for an
            activation.
        remedy: how to bring it under the rule.
        calls: the number of calls.
    """

    kind: Kind
    operation: str
    module: str
    where: str
    parameter: str
    remedy: str
    calls: int = 1

    def __str__(self) -> str:
        times = f", {self.calls} times" if self.calls > 1 else ""
        weights = f" with {self.parameter!r}" if self.parameter else ""
        file, _, line = self.where.rpartition(":")
        code = linecache.getline(file, int(line)).strip() if file else ""
        module = self.module or "(the model itself)"
        lines = (
            f"{self.kind}: {self.operation}{weights} in {module}{times}",
            f"{self.where}  {code}".strip(),
            f"remedy: {self.remedy}, or accept it",
        )
        return "\n    ".join(filter(None, lines))


class Classifier:
    """Classifies the calls of one forward pass."""

    def __init__(self, recorder: Recorder) -> None:
        self.recorder = recorder

    def findings(self, call: Call) -> Iterator[Finding]:
        """Yield what escapes the rule in a call: at most one activation, and each weight once."""
        if call.level == 0:
            return  # an error that arrives here only reaches parameters
        module, remedy = self.recorder.modules[call.module], ""
        if isinstance(module, LocalActivation):
            return  # its own parameters learn by autograd
        known = type(module) in WEIGHT_LAYERS or type(module) in ACTIVATIONS
        if known or isinstance(module, Activation):
            remedy = f"this {type(module).__name__} is not converted; take it out of skip="
        elif type(module).__module__.startswith("torch."):
            remedy = f"write this {type(module).__name__} with layers that lra.convert knows"

        def finding(kind: Kind, parameter: str, functional: str) -> Finding:
            where = call.module, call.where
            return Finding(kind, call.operation, *where, parameter, remedy or functional)

        plain = plain_name(call.function)
        is_activation = self._has_activation(call, plain)
        if is_activation:
            names = [cls.__name__ for cls in TORCH_ACTIVATIONS if cls.__name__.lower() == plain]
            layer = f"torch.nn.{names[0]}" if names else "an activation of torch.nn"
            yield finding(Kind.ACTIVATION, "", f"create {layer} in __init__ and call that")
        elif call.origin is Origin.HIDDEN:
            text = "write it in Python with functions of torch; lra cannot look into TorchScript"
            yield finding(Kind.UNKNOWN, "", text)
        elif call.origin is Origin.FUNCTION or (
            call.origin is Origin.OPERATOR and call.nature is Nature.OTHER
        ):
            text = (
                f"if it is an activation, call lra.register_activation({call.operation}); to leave "
                f"it on its own backward pass, name it in skip="
            )
            yield finding(Kind.UNKNOWN, "", text)
        layer = "Conv" if "conv" in plain else "Linear"
        found = [self._weights(node, call, is_activation) for node in call.nodes]
        for weights in dict.fromkeys((*filter(None, found), *call.scaled_by, *call.inside)):
            yield finding(Kind.WEIGHTS, weights, f"make it the weight of a torch.nn.{layer}")

    def _has_activation(self, call: Call, plain: str) -> bool:
        """Return whether a call is nonlinear in its data, elementwise."""
        if call.torch_function in ACTIVATION_FUNCTIONS and any(map(function_of, call.nodes)):
            return True  # registered
        if call.origin is Origin.OPERATOR:
            return call.nature is Nature.ELEMENTWISE
        if call.origin is not Origin.TORCH or _BY_DESIGN.search(plain):
            return False
        return (
            call.nature is Nature.ELEMENTWISE
            or (call.by_mask and not all(map(self._of_statistic, call.nodes)))
            or any(map(self._is_activation, call.nodes))
        )

    def _is_activation(self, node: Node) -> bool:
        """Return whether a node is nonlinear and no part of a normalization."""
        name = node_name(node)
        if name == "CopySlices":  # hides an in-place change of a part of a tensor
            name = plain_name(self.recorder.owners[node].function)
        if name in ("Maximum", "Minimum") and None not in nodes_below(node):
            one, other = map(self._unscaled, nodes_below(node))
            return one is other  # else a choice between two activations, as in a pool
        if NONLINEAR.fullmatch(name):
            return True
        power = POWER.fullmatch(name)
        users = self.recorder.users.get(node, ())
        into_statistic = any(map(STATISTIC.fullmatch, users)) and all(
            user == "Div" or STATISTIC.fullmatch(user) for user in users
        )
        normalizes = (power and into_statistic) or self._of_statistic(node)
        return bool(power or BOUND.fullmatch(name)) and not normalizes

    def _of_statistic(self, node: Node) -> bool:
        """Return whether the only data that a node reads is a statistic, such as a mean."""
        below = [n for n in nodes_below(node) if n is not None and self._level(n) == 2]
        name = node_name(below[0]) if len(below) == 1 else ""
        further = any(kind.fullmatch(name) for kind in (POWER, BOUND, SCALE, VIEW))
        return bool(STATISTIC.fullmatch(name)) or (further and self._of_statistic(below[0]))

    def _unscaled(self, node: Node | None) -> Node | None:
        """Return the node below scales and shifts of what another node computes."""
        while node is not None and (SCALE.fullmatch(node_name(node)) or "Copy" in node_name(node)):
            below = [n for n in nodes_below(node) if n is not None and self._level(n) == 2]
            if len(below) != 1:
                break
            node = below[0]
        return node

    def _weights(self, node: Node, call: Call, is_activation: bool) -> str:
        """Return the names of the weights that an error crosses at a node, or ""."""
        name = node_name(node)
        is_product = function_of(node) is None and PRODUCT.fullmatch(name)
        if not is_product and (is_activation or (function_of(node) is None and mixes(name))):
            return ""
        below = nodes_below(node)[1 if is_product and ADDS.match(name) else 0 :]
        below = below[:2] if is_product and "Conv" in name else below  # without the bias
        levels = {n: self._level(n, call) for n in below if n is not None}
        top = max(levels.values(), default=0)
        names = {name for n in levels if levels[n] < top for name in self.recorder.parameters(n)}
        frozen = call.frozen if is_product and top and None in below else ()
        return ", ".join(sorted(names) or frozen)

    def _level(self, node: Node, call: Call | None = None) -> int:
        """Return the level of the tensor behind a node, which may be inside a call."""
        if isinstance(leaf := getattr(node, "variable", None), Tensor):
            return 2 if id(leaf) in self.recorder.example else 0
        owner = self.recorder.owners[node]
        if VIEW.fullmatch(node_name(node)) or owner is call:  # a view of a weight is a weight
            below = [self._level(n, call) for n in nodes_below(node) if n is not None]
            return max(below, default=2)
        return owner.level

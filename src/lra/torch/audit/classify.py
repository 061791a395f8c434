"""The classifier: which recorded calls an error crosses as in backprop, against the rule."""

import enum
import linecache
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.autograd.graph import Node

from lra.display import printable
from lra.torch.activations import Activation
from lra.torch.audit.calls import Call, Origin
from lra.torch.audit.judge import Nature
from lra.torch.audit.recorder import Recorder, plain_name
from lra.torch.layers import LocalActivation
from lra.torch.ops.nodes import (
    ADDS,
    BOUND,
    FACTORS,
    NONLINEAR,
    POWER,
    PRODUCT,
    SCALE,
    STATISTIC,
    VIEW,
    function_of,
    is_activation,
    mixes,
    node_name,
    nodes_below,
)
from lra.torch.registry import ACTIVATION_FUNCTIONS, ACTIVATIONS, TORCH_ACTIVATIONS, WEIGHT_LAYERS
from lra.torch.visible import is_visible, visible_function

_BY_DESIGN = re.compile(r"norm|pool|softmax|attention|loss|entropy|similarity")  # torch's functions


class Kind(enum.StrEnum):
    """Name the kind of an operation that escapes the rule."""

    #: An elementwise nonlinear function.
    ACTIVATION = "activation"
    #: A product with weights, or another function of data and weights.
    WEIGHTS = "weights"
    #: Code whose effect on an error torch does not show.
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class Finding:
    """Describe one operation that errors cross as in backprop, though the rule changes it.

    Attributes:
        kind: the kind of the operation.
        operation: the torch function.
        module: the qualified name of the module whose forward calls it; "" for the model.
        where: file and line of the caller's code, as "net.py:12"; "" where only torch calls it.
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
            f"remedy: {self.remedy}",
        )
        return "\n    ".join(map(printable, filter(None, lines)))


class Classifier:
    """Classifies the calls of one forward pass.

    Args:
        recorder: the calls.
        skipped: autograd Functions and custom operators that keep their own backward pass.
    """

    def __init__(self, recorder: Recorder, skipped: Iterable[Any] = ()) -> None:
        self.recorder = recorder
        self.skipped = frozenset(skipped)

    def findings(self, call: Call) -> Iterator[Finding]:
        """Yield what escapes the rule in a call: at most one activation, and each weight once."""
        if call.level == 0:
            return  # an error that arrives here only reaches parameters
        module = self.recorder.modules[call.module]
        if isinstance(module, LocalActivation):
            return  # its own parameters learn by autograd
        if (visible_function(call.torch_function) or call.torch_function) in self.skipped:
            return

        def finding(kind: Kind, parameter: str, remedy: str, path: str = call.module) -> Finding:
            if call.outside:
                remedy = "name the method that runs it in methods="
            remedy = _of_module(module) or remedy
            return Finding(kind, call.operation, path, call.where, parameter, remedy)

        activates = self._has_activation(call)
        if activates:
            yield finding(Kind.ACTIVATION, "", _for_activation(call))
        elif call.origin is Origin.HIDDEN:
            yield finding(Kind.UNKNOWN, "", "call the Python function that it was made from")
        elif call.origin is Origin.FUNCTION or (
            call.origin is Origin.OPERATOR and call.nature is Nature.OTHER
        ):
            yield finding(Kind.UNKNOWN, "", _for_unknown(call))
        for path, weights in call.inside:
            yield finding(Kind.WEIGHTS, weights, _for_weights(call, call.nodes[0]), path)
        found = dict.fromkeys(call.scaled_by, call.nodes[0])
        found |= {self._weights(node, call, activates): node for node in call.nodes}
        for weights in filter(None, found):
            yield finding(Kind.WEIGHTS, weights, _for_weights(call, found[weights]))

    def _has_activation(self, call: Call) -> bool:
        """Return whether a call is nonlinear in its data, elementwise."""
        if call.torch_function in ACTIVATION_FUNCTIONS and any(map(function_of, call.nodes)):
            return True  # registered
        if call.origin is Origin.OPERATOR:
            return call.nature is Nature.ELEMENTWISE
        if call.origin is not Origin.TORCH or _BY_DESIGN.search(plain_name(call.function)):
            return False
        return (
            call.nature is Nature.ELEMENTWISE
            or (bool(call.selects_by) and any(self._selects(node, call) for node in call.nodes))
            or any(map(self._is_activation, call.nodes))
        )

    def _is_activation(self, node: Node) -> bool:
        """Return whether a node is nonlinear and no part of a normalization."""
        name = node_name(node)
        if name == "CopySlices":  # hides an in-place change of a part of a tensor
            name = plain_name(self.recorder.owners[node].function)
        if name in ("Maximum", "Minimum") and None not in nodes_below(node):
            one, other = map(self._source, nodes_below(node))
            return one is other  # else a choice between two activations, as in a pool
        if name == "Abs" and node._saved_self.is_complex():  # type: ignore[attr-defined]
            return False  # the length of a vector of two numbers
        if function_of(node) is not None:
            return False  # a user's Function may have the name of one of torch's
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

    def _selects(self, node: Node, call: Call) -> bool:
        """Return whether a node chooses between functions of the activation that is compared."""
        chosen = [n for n in nodes_below(node) if n is not None and self._level(n) == 2]
        sources = set(map(self._source, (*chosen, *call.selects_by)))
        return bool(chosen) and len(sources) == 1 and not self._of_statistic(node)

    def _source(self, node: Node | None) -> Node | None:
        """Return the node that elementwise functions of one input go back to."""
        while node is not None:
            below = [n for n in nodes_below(node) if n is not None and self._level(n) == 2]
            name = node_name(node)
            kinds = SCALE, NONLINEAR, POWER, BOUND
            elementwise = any(kind.fullmatch(name) for kind in kinds) or "Copy" in name
            elementwise = (elementwise or name == "Clone") and function_of(node) is None
            if len(below) != 1 or not (elementwise or is_activation(node)):
                break
            node = below[0]
        return node

    def _weights(self, node: Node, call: Call, activates: bool) -> str:
        """Return the names of the weights that an error crosses at a node, or ""."""
        name = node_name(node)
        is_product = function_of(node) is None and PRODUCT.fullmatch(name)
        if not is_product and (activates or (function_of(node) is None and mixes(name))):
            return ""
        below = nodes_below(node)[1 if is_product and ADDS.match(name) else 0 :]
        below = below[:2] if is_product and "Conv" in name else below  # without the bias
        levels = {n: self._level(n, call) for n in below if n is not None}
        top = max(levels.values(), default=0)
        if top < 2 and not call.joins_data:
            return ""
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


def _of_module(module: nn.Module) -> str:
    """Return how to bring what torch's or a known module does under the rule, or ""."""
    name = type(module).__name__
    known = type(module) in WEIGHT_LAYERS or type(module) in ACTIVATIONS
    if known or isinstance(module, Activation):
        return f"this {name} is not converted; take it out of skip= or convert the model again"
    if type(module).__module__.startswith("torch."):
        return f"write this {name} with layers that lra.convert knows"
    return ""


def _for_activation(call: Call) -> str:
    plain = plain_name(call.function)
    names = [cls.__name__ for cls in TORCH_ACTIVATIONS if cls.__name__.lower() == plain]
    if names:
        return f"create torch.nn.{names[0]} in __init__ and call that"
    return "write it as a module of its own, create that in __init__ and call it"


def _for_unknown(call: Call) -> str:
    name = call.operation
    if call.unseen and is_visible(call.torch_function):
        register = (
            f"call {name}.apply itself: what was stored before {name} was registered is not seen"
        )
    else:
        register = f"register an activation with lra.register_activation({name})"
    return f"{register}; keep the backward pass of anything else with skip=({name},)"


def _for_weights(call: Call, node: Node) -> str:
    if call.mapped:
        return "torch.vmap maps over these weights; use one module for each set of weights"
    if call.origin in (Origin.FUNCTION, Origin.OPERATOR):
        return (
            "call functions of torch instead; run the module as a black box by "
            "lra.register_weight_layer(its class, black_box=True); or keep its backward pass: "
            f"skip=({call.operation},)"
        )
    name = node_name(node)
    if not (PRODUCT.fullmatch(name) or FACTORS.fullmatch(name)):
        return "compute it by products such as torch.matmul, in which each weight has feedback"
    layer = "Conv" if "conv" in plain_name(call.function) else "Linear"
    return f"make it the weight of a torch.nn.{layer}, or use torch.matmul of two tensors"

"""The classifier: which recorded calls an error crosses as in backprop, against the rule."""

import enum
import linecache
import re
from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor
from torch.autograd.graph import Node

from lra.torch.activations import Activation
from lra.torch.audit.recorder import PRODUCT, Call, Recorder, node_name, nodes_below, plain_name
from lra.torch.layers import LocalActivation
from lra.torch.registry import ACTIVATIONS, TORCH_ACTIVATIONS, WEIGHT_LAYERS

# Names of nodes, without "Backward0", by what they do to an error.
_ADDS = re.compile(r"(Sparse)?B?[aA]dd")  # products whose first input is only added
_NONLINEAR = re.compile(
    "|".join(cls.__name__ for cls in TORCH_ACTIVATIONS)
    + r"|A?(Cos|Sin|Tan)h?|Sinc|Erf.*|Glu|Logit|PreluKernel|RreluWithNoise.*|Sgn|Sign|Round|Floor"
    r"|Ceil|Trunc|Frac|RunOnly|StraightThrough|.*(Rnn.*|Lstm.*|Gru.*)",
    re.IGNORECASE,
)
# These are nonlinear too, but beside a statistic they are part of a normalization.
_POWER = re.compile(r"Abs|Exp2?|Expm1|Log(2|10|1P)?|Pow|Reciprocal|R?[sS]qrt")
_BOUND = re.compile(r"Clamp(Min|Max)?|Maximum|Minimum")
_STATISTIC = re.compile(r"Mean|Sum|Logsumexp|Var.*|Std.*|.*Norm|A?[mM](ax|in)|.*Pool.*")
_SCALE = re.compile(r"Add|R?[sS]ub|Mul|Div|Neg")
_VIEW = re.compile(
    r"Alias|AsStrided|Chunk|Clone|Diagonal|Expand|Flip|Permute|Repeat|ReshapeAlias|Select|Slice"
    r"|Split.*|Squeeze|T|ToCopy|Transpose|Unbind|UnsafeSplit.*|(Unsafe)?View|Unsqueeze"
)
_BY_DESIGN = re.compile(r"norm|pool|softmax|attention|loss|entropy|similarity")  # functions


class Kind(enum.StrEnum):
    """The kind of an operation that escapes the rule."""

    #: An elementwise nonlinear function.
    ACTIVATION = "activation"
    #: A product with weights.
    WEIGHTS = "weights"


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
        if not _BY_DESIGN.search(plain) and any(map(self._is_activation, call.nodes)):
            names = [cls.__name__ for cls in TORCH_ACTIVATIONS if cls.__name__.lower() == plain]
            layer = f"torch.nn.{names[0]}" if names else "an activation of torch.nn"
            yield finding(Kind.ACTIVATION, "", f"create {layer} in __init__ and call that")
        layer = "Conv" if "conv" in plain else "Linear"
        for weights in dict.fromkeys(filter(None, map(self._weights, call.nodes))):
            yield finding(Kind.WEIGHTS, weights, f"make it the weight of a torch.nn.{layer}")

    def _is_activation(self, node: Node) -> bool:
        """Return whether a node is nonlinear and no part of a normalization."""
        name = node_name(node)
        if name == "CopySlices":  # hides an in-place change of a part of a tensor
            name = plain_name(self.recorder.owners[node].function)
        if name in ("Maximum", "Minimum") and None not in nodes_below(node):
            return False  # a choice between two activations, as in a pool
        if _NONLINEAR.fullmatch(name):
            return True
        power = _POWER.fullmatch(name)
        users = self.recorder.users.get(node, ())
        into_statistic = any(map(_STATISTIC.fullmatch, users)) and all(
            user == "Div" or _STATISTIC.fullmatch(user) for user in users
        )
        normalizes = (power and into_statistic) or self._of_statistic(node)
        return bool(power or _BOUND.fullmatch(name)) and not normalizes

    def _of_statistic(self, node: Node) -> bool:
        """Return whether the only data that a node reads is a statistic, such as a mean."""
        below = [n for n in nodes_below(node) if n is not None and self._level(n) == 2]
        name = node_name(below[0]) if len(below) == 1 else ""
        further = any(kind.fullmatch(name) for kind in (_POWER, _BOUND, _SCALE, _VIEW))
        return bool(_STATISTIC.fullmatch(name)) or (further and self._of_statistic(below[0]))

    def _weights(self, node: Node) -> str:
        """Return the names of the weights that an error crosses at a node, or ""."""
        name = node_name(node)
        if not PRODUCT.fullmatch(name):
            return ""
        below = nodes_below(node)[1 if _ADDS.match(name) else 0 :]
        below = below[:2] if "Conv" in name else below  # without the bias
        levels = {n: self._level(n) for n in below if n is not None}
        top = max(levels.values(), default=0)
        names = {name for n in levels if levels[n] < top for name in self._parameters(n)}
        frozen = self.recorder.owners[node].frozen if top and None in below else ()
        return ", ".join(sorted(names) or frozen)

    def _level(self, node: Node) -> int:
        """Return the level of the tensor behind a node."""
        if isinstance(leaf := getattr(node, "variable", None), Tensor):
            return 2 if id(leaf) in self.recorder.example else 0
        if _VIEW.fullmatch(node_name(node)):  # within a call, a view of a weight is a weight
            return max((self._level(n) for n in nodes_below(node) if n is not None), default=2)
        return self.recorder.owners[node].level

    def _parameters(self, node: Node) -> set[str]:
        """Return the names of the leaves below a node."""
        if isinstance(leaf := getattr(node, "variable", None), Tensor):
            return {self.recorder.names.get(id(leaf), "(a tensor that is no Parameter)")}
        return {name for n in nodes_below(node) if n is not None for name in self._parameters(n)}

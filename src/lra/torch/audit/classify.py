"""The judge: which of a forward's calls an error would cross by backprop's own rule."""

import enum
import linecache
import re
from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor
from torch.autograd.graph import Node

from lra.torch.activations import Activation
from lra.torch.audit.recorder import PRODUCT, Call, Recorder, nodes_below, plain_name, stem_of
from lra.torch.layers import LocalActivation
from lra.torch.registry import ACTIVATIONS, TORCH_ACTIVATIONS, WEIGHT_LAYERS

# The names of graph nodes, without "Backward0", by what they do to an error; after "|", of those
# kernels that do several things at once.
_ADDS = re.compile(r"(Sparse)?B?[aA]dd")  # products whose first input is only added
_BEND = re.compile(
    "|".join(cls.__name__ for cls in TORCH_ACTIVATIONS)
    + r"|A?(Cos|Sin|Tan)h?|Sinc|Erf.*|Glu|Logit|PreluKernel|RreluWithNoise.*|Sgn|Sign|Round|Floor"
    r"|Ceil|Trunc|Frac|RunOnly|StraightThrough|.*(Rnn.*|Lstm.*|Gru.*)",  # with _, of lra's own units
    re.IGNORECASE,
)
# These bend too; but beside a statistic they write out a normalisation, which passes.
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
    """What an error crosses."""

    ACTIVATION = "nonlinearity"
    WEIGHTS = "weights"


@dataclass(frozen=True)
class Finding:
    """One operation that errors cross as in backprop, though the rule says otherwise.

    Attributes:
        kind: what is crossed.
        operation: the torch function.
        module: qualified name of the module in whose forward it is called; "" for the model.
        where: "file:line" of the caller's code, or "" where only torch calls it.
        parameter: qualified name of the weight, or of several in one product; "" for
            nonlinearities.
        remedy: what to do about it.
        calls: how many times it was called.
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
        what = f" with {self.parameter!r}" if self.parameter else ""
        file, _, line = self.where.rpartition(":")
        code = linecache.getline(file, int(line)).strip() if file else ""
        lines = (
            f"{self.kind}: {self.operation}{what} in {self.module or '(the model itself)'}{times}",
            f"{self.where}  {code}".strip(),
            f"remedy: {self.remedy}, or accept it",
        )
        return "\n    ".join(filter(None, lines))


class Classifier:
    """Tells of a recorded call what escapes the rule at it."""

    def __init__(self, recorder: Recorder) -> None:
        self.recorder = recorder

    def findings(self, call: Call) -> Iterator[Finding]:
        """Judge a call: at most one nonlinearity, and each weight once."""
        if call.level == 0:
            return  # errors that come here only go on to a parameter
        if isinstance(self.recorder.modules[call.module], LocalActivation):
            return  # the same: a unit's own parameters learn by autograd
        module, remedy = self.recorder.modules[call.module], ""
        known = type(module) in WEIGHT_LAYERS or type(module) in ACTIVATIONS
        if known or isinstance(module, Activation):
            remedy = f"this {type(module).__name__} is not converted; take it out of skip="
        elif type(module).__module__.startswith("torch."):
            remedy = f"write this {type(module).__name__} with layers that lra.convert knows"

        def finding(kind: Kind, parameter: str, functional: str) -> Finding:
            where = call.module, call.where
            return Finding(kind, call.operation, *where, parameter, remedy or functional)

        plain = plain_name(call.function)
        if not _BY_DESIGN.search(plain) and any(map(self._bends, call.nodes)):
            names = [cls.__name__ for cls in TORCH_ACTIVATIONS if cls.__name__.lower() == plain]
            layer = f"torch.nn.{names[0]}" if names else "an activation of torch.nn"
            yield finding(Kind.ACTIVATION, "", f"make {layer} in __init__ and call that")
        layer = "Conv" if "conv" in plain else "Linear"
        for weight in dict.fromkeys(filter(None, map(self._weight, call.nodes))):
            yield finding(Kind.WEIGHTS, weight, f"make it the weight of a torch.nn.{layer}")

    def _bends(self, node: Node) -> bool:
        """Tell whether a node is a nonlinearity that the rule should cross."""
        stem = stem_of(node)
        if stem == "CopySlices":  # hides what was done in place to a part of a tensor
            stem = plain_name(self.recorder.owners[node].function)
        if stem in ("Maximum", "Minimum") and None not in nodes_below(node):
            return False  # a choice between two activations, as in a pool
        if _BEND.fullmatch(stem):
            return True
        power = _POWER.fullmatch(stem)
        users = self.recorder.users.get(node, ())
        into_statistic = any(map(_STATISTIC.fullmatch, users)) and all(
            user == "Div" or _STATISTIC.fullmatch(user) for user in users
        )
        normalises = (power and into_statistic) or self._of_statistic(node)
        return bool(power or _BOUND.fullmatch(stem)) and not normalises

    def _of_statistic(self, node: Node) -> bool:
        """Tell whether a mean, a sum or the like is all that a node works on."""
        below = [n for n in nodes_below(node) if n is not None and self._level(n) == 2]
        stem = stem_of(below[0]) if len(below) == 1 else ""
        further = any(kind.fullmatch(stem) for kind in (_POWER, _BOUND, _SCALE, _VIEW))
        return bool(_STATISTIC.fullmatch(stem)) or (further and self._of_statistic(below[0]))

    def _weight(self, node: Node) -> str:
        """Name the weights that an error crosses at a node on its way further down, if any."""
        stem = stem_of(node)
        if not PRODUCT.fullmatch(stem):
            return ""
        below = nodes_below(node)[1 if _ADDS.match(stem) else 0 :]
        below = below[:2] if "Conv" in stem else below  # not the bias
        levels = {n: self._level(n) for n in below if n is not None}
        top = max(levels.values(), default=0)
        names = {name for n in levels if levels[n] < top for name in self._roots(n)}
        frozen = self.recorder.owners[node].frozen if top and None in below else ()
        return ", ".join(sorted(names) or frozen)

    def _level(self, node: Node) -> int:
        if isinstance(leaf := getattr(node, "variable", None), Tensor):
            return 2 if id(leaf) in self.recorder.example else 0
        if _VIEW.fullmatch(stem_of(node)):  # in the midst of a call, a view of a weight is a weight
            return max((self._level(n) for n in nodes_below(node) if n is not None), default=2)
        return self.recorder.owners[node].level

    def _roots(self, node: Node) -> set[str]:
        if isinstance(leaf := getattr(node, "variable", None), Tensor):
            return {self.recorder.names.get(id(leaf), "(a tensor that is no Parameter)")}
        return {name for n in nodes_below(node) if n is not None for name in self._roots(n)}

"""Audit: run one forward pass, and list where errors would still cross by backprop's own rule.

The autograd graph of a forward pass is the path that errors take back. The model runs while every
torch function is watched; the graph nodes that a call adds are its own, and their names tell what
they do to an error. What counts as a weight is told by three *levels*: 0, computed from parameters
and constants alone; 1, a product of such; 2, anything of the model's input.
"""

import contextlib
import enum
import linecache
import re
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn
from torch.autograd.graph import Node
from torch.nn.parallel import DataParallel, DistributedDataParallel
from torch.overrides import TorchFunctionMode, resolve_name
from torch.utils import _pytree as pytree
from torch.utils.checkpoint import CheckpointFunction

from lra.crossing import Derivative
from lra.errors import ConversionError
from lra.feedback import Transpose
from lra.rules import Rule
from lra.torch.backward import NODES
from lra.torch.layers import NONLINEARITIES, WEIGHTS, Local, LocalForward, LocalNonlinearity

# The names of graph nodes, without "Backward0", by what they do to an error; after "|", of those
# kernels that do several things at once.
_PRODUCT = re.compile(r".*([mM][mv]|[dD]ot|Matmul|Conv.*|[lL]inear)|Addr|.*(Rnn.*|Lstm.*|Gru.*)")
_ADDS = re.compile(r"(Sparse)?B?[aA]dd")  # products whose first input is only added
_BEND = re.compile(
    "|".join(cls.__name__ for cls in NONLINEARITIES)
    + r"|A?(Cos|Sin|Tan)h?|Sinc|Erf.*|Glu|Logit|PreluKernel|RreluWithNoise.*|Sgn|Sign|Round|Floor"
    r"|Ceil|Trunc|Frac|.*(Rnn.*|Lstm.*|Gru.*)",
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
_NOT_USERS = tuple(f"{Path(path).parent}/" for path in (torch.__file__, __file__))


class Kind(enum.StrEnum):
    """What an error crosses."""

    NONLINEARITY = "nonlinearity"
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


@dataclass(frozen=True)
class Audit:
    """What an audit saw.

    Attributes:
        findings: the operations that errors cross as in backprop against the rule, as called.
        passes: what passes errors on by autograd's derivative as it should (normalisation,
            pooling, reshapes, sums, attention's products ...): functions and numbers of calls.
        crossings: how many places errors cross by the rule's own backward.
    """

    findings: tuple[Finding, ...]
    passes: dict[str, int]
    crossings: int

    @property
    def clean(self) -> bool:
        """Whether there are no findings."""
        return not self.findings

    def __str__(self) -> str:
        n = len(self.findings)
        count = "nothing" if self.clean else f"{n} operation{'s' if n > 1 else ''}"
        passes = ", ".join(f"{name} ({calls})" for name, calls in self.passes.items())
        return "\n".join(
            (
                f"audit: against the rule, errors cross {count} as in backprop",
                *(f"  - {finding}" for finding in self.findings),
                f"crossed by the rule: {self.crossings} places",
                f"passed on by design: {passes or 'nothing'}",
            )
        )


def audit(model: nn.Module, *example: Any, **kwargs: Any) -> Audit:
    """Run one forward pass, and list the operations that escape the model's rule.

    Conversion walks modules, so it cannot see a nonlinearity or a product with a parameter that
    a forward calls as a function; nor does it touch what skip= names. Errors cross those as in
    backprop, by phi'(h) d and e W. The model, its buffers and mode, the example and torch's random
    states stay as they are. Not seen: what the outputs do not depend on, what runs in no_grad or in
    an autograd.Function, what other inputs would run, and a nonlinearity made of a comparison, such
    as h * (h > 0).

    Args:
        model: a converted model.
        *example: inputs as for model(...).
        **kwargs: keyword inputs.

    Raises:
        ConversionError: for a model in which nothing is converted.
    """
    if not any(isinstance(m, Local) for m in model.modules()):
        raise ConversionError(
            f"audit: no layer of this {type(model).__name__} is converted; "
            "call lra.convert(model, rule) first"
        )
    return examine(model, example, kwargs)[0]


def examine(
    model: nn.Module,
    example: tuple[Any, ...],
    kwargs: dict[str, Any],
    rules: Iterable[Rule] | None = None,
) -> tuple[Audit, list[tuple["_Call", Finding]]]:
    """Audit, and give beside it each call with what was found at it."""
    rules = rules or [m.rule for m in model.modules() if isinstance(m, Local)]
    kinds = set()
    if any(not isinstance(rule.crossing, Derivative) for rule in rules):
        kinds.add(Kind.NONLINEARITY)
    if any(not isinstance(rule.feedback, Transpose) for rule in rules):
        kinds.add(Kind.WEIGHTS)
    while isinstance(model, (DataParallel, DistributedDataParallel)):
        model = model.module  # the wrapper would wait for a backward pass

    def copied(leaf: Any) -> Any:
        is_tensor = isinstance(leaf, Tensor)
        return leaf.detach().clone().requires_grad_(leaf.requires_grad) if is_tensor else leaf

    with _untouched(model), torch.inference_mode(False):  # which enables gradients too
        example, kwargs = pytree.tree_map(copied, (example, kwargs))
        recorder = _Recorder(model, _tensors((example, kwargs)))
        with recorder.hooks(), recorder:
            recorder.reach(_tensors(model(*example, **kwargs)))
    found: Counter[Finding] = Counter()
    where: list[tuple[_Call, Finding]] = []
    passes: Counter[str] = Counter()
    for call in recorder.calls:
        findings = [f for f in recorder.findings(call) if f.kind in kinds]
        found.update(findings)
        where += [(call, finding) for finding in findings]
        passes[call.operation] += not findings
    report = Audit(
        tuple(replace(finding, calls=calls) for finding, calls in found.items()),
        {name: calls for name, calls in passes.most_common() if calls},
        recorder.crossings,
    )
    return report, where


@dataclass(eq=False)
class _Call:
    """One call of a torch function, with the graph nodes that it added."""

    function: str
    torch_function: Any
    operation: str
    module: str
    where: str
    level: int = 2
    frozen: tuple[str, ...] = ()  # weights without a gradient, which no node leads to
    nodes: list[Node] = field(default_factory=list)


class _Recorder(TorchFunctionMode):
    """Attributes every node of the graph to a call, a module and a line of code."""

    def __init__(self, model: nn.Module, example: list[Tensor]) -> None:
        super().__init__()
        self.modules = dict(model.named_modules())
        self.names = {id(p): name for name, p in model.named_parameters()}
        self.example = {id(x) for x in example}
        # Tensors below level 2, held so that no other takes their id; with the weights in them.
        self.fixed: dict[int, tuple[Tensor, int, frozenset[str]]] = {
            id(t): (t, 0, frozenset({name if id(t) in self.names else ""}))  # "" is a buffer
            for name, t in (*model.named_parameters(), *model.named_buffers())
        }
        self.stack = [""]
        self.calls: list[_Call] = []
        self.owners: dict[Node, _Call] = {}
        self.users: dict[Node, list[str]] = {}
        self.crossings = 0

    @contextlib.contextmanager
    def hooks(self) -> Iterator[None]:
        """Follow which module's forward is running."""
        paths = {module: path for path, module in self.modules.items()}

        def before(module: nn.Module, inputs: Any) -> None:
            self.stack.append(paths[module])

        def after(module: nn.Module, inputs: Any, output: Any) -> None:
            self.sweep(_tensors(output), None)
            self.stack.pop()

        with contextlib.ExitStack() as handles:
            for module in paths:
                handles.enter_context(module.register_forward_pre_hook(before, prepend=True))
                handles.enter_context(module.register_forward_hook(after, always_call=True))
            yield

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = _tensors((args, kwargs))
        self.sweep(given, None)
        out = func(*args, **(kwargs or {}))
        made = _tensors(out) or given[:1]  # x[0] = y gives nothing, and changes x
        level = max(map(self._level_of, given), default=0)
        roots = {id(t): self.fixed[id(t)][2] for t in given if id(t) in self.fixed}
        frozen = [roots.get(id(t), ()) for t in given if not t.requires_grad and t.dim() > 1]
        name = getattr(func, "__name__", str(func))
        call = _Call(name, func, resolve_name(func) or name, self.stack[-1], "", level)
        call.frozen = tuple(sorted({name for names in frozen for name in names if name}))
        self.sweep(made, call)
        if any(_PRODUCT.fullmatch(_stem(node)) for node in call.nodes):
            scalar = level < 2 and all(t.numel() == 1 for t in made)  # as spectral norm's
            call.level = level if scalar else min(level + 1, 2)
            made_here = [t for t in given if not roots.get(id(t), True) and t.dim() > 1]
            if made_here and level < 2 and not scalar:
                call.level = 2  # a product with positions and the like: an activity
        if call.nodes:
            call.where = _where()
            self.calls.append(call)
        for t in made:
            if call.level < 2:
                self.fixed[id(t)] = (t, call.level, frozenset().union(*roots.values()))
            else:
                self.fixed.pop(id(t), None)
        return out

    def sweep(self, tensors: Iterable[Tensor], call: _Call | None) -> None:
        """Give the nodes behind the tensors that are not known yet to a call.

        Without one they came about unwatched: an autograd.Function, such as lra's own, or script.
        """
        todo = [t.grad_fn for t in tensors]
        while todo:
            node = todo.pop()
            if node is None or node in self.owners or _stem(node) == "AccumulateGrad":
                continue
            function = getattr(node, "_forward_cls", None)
            name = function.__name__ if function else _stem(node)
            owner = call or _Call(name, None, name, self.stack[-1], _where())
            owner.nodes.append(node)
            self.owners[node] = owner
            if call is None:
                self.calls.append(owner)
            todo += _below(node)

    def reach(self, outputs: list[Tensor]) -> None:
        """Keep of all nodes those that an error at the outputs reaches, and not by the rule."""
        self.sweep(outputs, None)
        reached: dict[Node, bool] = {}
        todo = [t.grad_fn for t in outputs]
        while todo:
            node = todo.pop()
            if node is None or node in reached:
                continue
            reached[node] = getattr(node, "_forward_cls", None) in NODES
            todo += _below(node)
            for below in filter(None, _below(node)):
                self.users.setdefault(below, []).append(_stem(node))
        self.crossings = sum(reached.values())
        for call in self.calls:
            call.nodes = [node for node in call.nodes if not reached.get(node, True)]
        self.calls = [call for call in self.calls if call.nodes]

    def findings(self, call: _Call) -> Iterator[Finding]:
        """Judge a call: at most one nonlinearity, and each weight once."""
        if call.level == 0:
            return  # errors that come here only go on to a parameter
        if isinstance(self.modules[call.module], LocalNonlinearity):
            return  # the same: a unit's own parameters learn by autograd
        module, remedy = self.modules[call.module], ""
        if type(module) in WEIGHTS or type(module) in NONLINEARITIES:
            remedy = f"this {type(module).__name__} is not converted; take it out of skip="
        elif type(module).__module__.startswith("torch."):
            remedy = f"write this {type(module).__name__} with layers that lra.convert knows"

        def finding(kind: Kind, parameter: str, functional: str) -> Finding:
            where = call.module, call.where
            return Finding(kind, call.operation, *where, parameter, remedy or functional)

        plain = _plain(call.function)
        if not _BY_DESIGN.search(plain) and any(map(self._bends, call.nodes)):
            names = [cls.__name__ for cls in NONLINEARITIES if cls.__name__.lower() == plain]
            layer = f"torch.nn.{names[0]}" if names else "an activation of torch.nn"
            yield finding(Kind.NONLINEARITY, "", f"make {layer} in __init__ and call that")
        layer = "Conv" if "conv" in plain else "Linear"
        for weight in dict.fromkeys(filter(None, map(self._weight, call.nodes))):
            yield finding(Kind.WEIGHTS, weight, f"make it the weight of a torch.nn.{layer}")

    def _bends(self, node: Node) -> bool:
        """Tell whether a node is a nonlinearity that the rule should cross."""
        stem = _stem(node)
        if stem == "CopySlices":  # hides what was done in place to a part of a tensor
            stem = _plain(self.owners[node].function)
        if stem in ("Maximum", "Minimum") and None not in _below(node):
            return False  # a choice between two activations, as in a pool
        if _BEND.fullmatch(stem):
            return True
        power = _POWER.fullmatch(stem)
        users = self.users.get(node, ())
        into_statistic = any(map(_STATISTIC.fullmatch, users)) and all(
            user == "Div" or _STATISTIC.fullmatch(user) for user in users
        )
        normalises = (power and into_statistic) or self._of_statistic(node)
        return bool(power or _BOUND.fullmatch(stem)) and not normalises

    def _of_statistic(self, node: Node) -> bool:
        """Tell whether a mean, a sum or the like is all that a node works on."""
        below = [n for n in _below(node) if n is not None and self._level(n) == 2]
        stem = _stem(below[0]) if len(below) == 1 else ""
        further = any(kind.fullmatch(stem) for kind in (_POWER, _BOUND, _SCALE, _VIEW))
        return bool(_STATISTIC.fullmatch(stem)) or (further and self._of_statistic(below[0]))

    def _weight(self, node: Node) -> str:
        """Name the weights that an error crosses at a node on its way further down, if any."""
        stem = _stem(node)
        if not _PRODUCT.fullmatch(stem):
            return ""
        below = _below(node)[1 if _ADDS.match(stem) else 0 :]
        below = below[:2] if "Conv" in stem else below  # not the bias
        levels = {n: self._level(n) for n in below if n is not None}
        top = max(levels.values(), default=0)
        names = {name for n in levels if levels[n] < top for name in self._roots(n)}
        frozen = self.owners[node].frozen if top and None in below else ()
        return ", ".join(sorted(names) or frozen)

    def _level(self, node: Node) -> int:
        if isinstance(leaf := getattr(node, "variable", None), Tensor):
            return 2 if id(leaf) in self.example else 0
        if _VIEW.fullmatch(_stem(node)):  # in the midst of a call, a view of a weight is a weight
            return max((self._level(n) for n in _below(node) if n is not None), default=2)
        return self.owners[node].level

    def _level_of(self, x: Tensor) -> int:
        if getattr(x.grad_fn, "_forward_cls", None) in NODES:
            return 2  # what a rule's layer gives is an activity, also of learned tokens
        if id(x) in self.fixed:
            return self.fixed[id(x)][1]
        return 0 if x.requires_grad and x.is_leaf and id(x) not in self.example else 2

    def _roots(self, node: Node) -> set[str]:
        if isinstance(leaf := getattr(node, "variable", None), Tensor):
            return {self.names.get(id(leaf), "(a tensor that is no Parameter)")}
        return {name for n in _below(node) if n is not None for name in self._roots(n)}


def _below(node: Node) -> list[Node | None]:
    return [below for below, _ in node.next_functions]


def _stem(node: Node) -> str:
    return re.sub(r"Backward\d*$", "", node.name().rpartition("::")[2])


def _plain(name: str) -> str:
    return name.replace("_", "").lower()


def _tensors(tree: Any) -> list[Tensor]:
    return [leaf for leaf in pytree.tree_leaves(tree) if isinstance(leaf, Tensor)]


def _where() -> str:
    """Give file and line of the nearest caller outside torch and lra.torch, within the audit."""
    frame = sys._getframe(1)
    while frame.f_code is not examine.__code__ and frame.f_back is not None:
        if not frame.f_code.co_filename.startswith(_NOT_USERS):
            return f"{frame.f_code.co_filename}:{frame.f_lineno}"
        frame = frame.f_back
    return ""


@contextlib.contextmanager
def _untouched(model: nn.Module) -> Iterator[None]:
    """Run on copies of the buffers, put random states back, and open up what hides the graph."""
    buffers = [(module, module._buffers.copy()) for module in model.modules()]
    clones = {id(b): b.clone() for _, own in buffers for b in own.values() if b is not None}
    devices = {p.device.index for p in model.parameters() if p.device.type == "cuda"}
    with contextlib.ExitStack() as stack:
        stack.enter_context(torch.random.fork_rng(devices))
        # A reentrant checkpoint runs without a graph, and a compiled one is a single node.
        openly = staticmethod(lambda run, preserve, *args: run(*args))
        stack.enter_context(mock.patch.object(CheckpointFunction, "apply", openly))
        if "torch._dynamo" in sys.modules:
            stack.enter_context(torch.compiler.set_stance("force_eager"))
        try:
            for module, own in buffers:
                module._buffers.update({key: clones.get(id(b)) for key, b in own.items()})
            yield
        finally:
            for module, own in buffers:
                table = module.table.added if isinstance(module, LocalForward) else ()
                drawn = {key: b for key, b in module._buffers.items() if key in table}
                module._buffers.clear()
                module._buffers.update(own | drawn)  # fixed feedback that this pass has shown

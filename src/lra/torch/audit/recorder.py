"""The recorder: which call, module and line of code each node of a forward's graph comes from."""

import contextlib
import re
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import CodeType
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import Node
from torch.overrides import TorchFunctionMode, resolve_name
from torch.utils import _pytree as pytree

from lra.torch.ops.autograd import NODES

# Graph nodes that multiply, by their names without "Backward0"; after "|", kernels that do more.
PRODUCT = re.compile(r".*([mM][mv]|[dD]ot|Matmul|Conv.*|[lL]inear)|Addr|.*(Rnn.*|Lstm.*|Gru.*)")
_NOT_USERS = f"{Path(torch.__file__).parent}/", f"{Path(__file__).parents[1]}/"


@dataclass(eq=False)
class Call:
    """One call of a torch function, with the graph nodes that it added."""

    function: str
    torch_function: Any
    operation: str
    module: str
    where: str
    level: int = 2
    frozen: tuple[str, ...] = ()  # weights without a gradient, which no node leads to
    nodes: list[Node] = field(default_factory=list)


class Recorder(TorchFunctionMode):
    """Attributes every node of the graph to a call, a module and a line of code."""

    def __init__(self, model: nn.Module, example: list[Tensor], outermost: CodeType) -> None:
        super().__init__()
        self.outermost = outermost
        self.modules = dict(model.named_modules())
        self.names = {id(p): name for name, p in model.named_parameters()}
        self.example = {id(x) for x in example}
        # Tensors below level 2, held so that no other takes their id; with the weights in them.
        self.fixed: dict[int, tuple[Tensor, int, frozenset[str]]] = {
            id(t): (t, 0, frozenset({name if id(t) in self.names else ""}))  # "" is a buffer
            for name, t in (*model.named_parameters(), *model.named_buffers())
        }
        self.stack = [""]
        self.calls: list[Call] = []
        self.owners: dict[Node, Call] = {}
        self.users: dict[Node, list[str]] = {}
        self.crossings = 0

    @contextlib.contextmanager
    def hooks(self) -> Iterator[None]:
        """Follow which module's forward is running."""
        paths = {module: path for path, module in self.modules.items()}

        def before(module: nn.Module, inputs: Any) -> None:
            self.stack.append(paths[module])

        def after(module: nn.Module, inputs: Any, output: Any) -> None:
            self.sweep(tensors_in(output), None)
            self.stack.pop()

        with contextlib.ExitStack() as handles:
            for module in paths:
                handles.enter_context(module.register_forward_pre_hook(before, prepend=True))
                handles.enter_context(module.register_forward_hook(after, always_call=True))
            yield

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = tensors_in((args, kwargs))
        self.sweep(given, None)
        out = func(*args, **(kwargs or {}))
        made = tensors_in(out) or given[:1]  # x[0] = y gives nothing, and changes x
        level = max(map(self.level_of, given), default=0)
        roots = {id(t): self.fixed[id(t)][2] for t in given if id(t) in self.fixed}
        frozen = [roots.get(id(t), ()) for t in given if not t.requires_grad and t.dim() > 1]
        name = getattr(func, "__name__", str(func))
        call = Call(name, func, resolve_name(func) or name, self.stack[-1], "", level)
        call.frozen = tuple(sorted({name for names in frozen for name in names if name}))
        self.sweep(made, call)
        if any(PRODUCT.fullmatch(stem_of(node)) for node in call.nodes):
            scalar = level < 2 and all(t.numel() == 1 for t in made)  # as spectral norm's
            call.level = level if scalar else min(level + 1, 2)
            made_here = [t for t in given if not roots.get(id(t), True) and t.dim() > 1]
            if made_here and level < 2 and not scalar:
                call.level = 2  # a product with positions and the like: an activity
        if call.nodes:
            call.where = where_called(self.outermost)
            self.calls.append(call)
        for t in made:
            if call.level < 2:
                self.fixed[id(t)] = (t, call.level, frozenset().union(*roots.values()))
            else:
                self.fixed.pop(id(t), None)
        return out

    def sweep(self, tensors: Iterable[Tensor], call: Call | None) -> None:
        """Give the nodes behind the tensors that are not known yet to a call.

        Without one they came about unwatched: an autograd.Function, such as lra's own, or script.
        """
        todo = [t.grad_fn for t in tensors]
        while todo:
            node = todo.pop()
            if node is None or node in self.owners or stem_of(node) == "AccumulateGrad":
                continue
            function = getattr(node, "_forward_cls", None)
            name = function.__name__ if function else stem_of(node)
            owner = call or Call(name, None, name, self.stack[-1], where_called(self.outermost))
            owner.nodes.append(node)
            self.owners[node] = owner
            if call is None:
                self.calls.append(owner)
            todo += nodes_below(node)

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
            todo += nodes_below(node)
            for below in filter(None, nodes_below(node)):
                self.users.setdefault(below, []).append(stem_of(node))
        self.crossings = sum(reached.values())
        for call in self.calls:
            call.nodes = [node for node in call.nodes if not reached.get(node, True)]
        self.calls = [call for call in self.calls if call.nodes]

    def level_of(self, x: Tensor) -> int:
        """Give a tensor's level."""
        if getattr(x.grad_fn, "_forward_cls", None) in NODES:
            return 2  # what a rule's layer gives is an activity, also of learned tokens
        if id(x) in self.fixed:
            return self.fixed[id(x)][1]
        return 0 if x.requires_grad and x.is_leaf and id(x) not in self.example else 2


def nodes_below(node: Node) -> list[Node | None]:
    """Give the nodes that an error goes on to."""
    return [below for below, _ in node.next_functions]


def stem_of(node: Node) -> str:
    """Give a node's name without what all of them have."""
    return re.sub(r"Backward\d*$", "", node.name().rpartition("::")[2])


def plain_name(name: str) -> str:
    """Give a function's name in a form to compare."""
    return name.replace("_", "").lower()


def tensors_in(tree: Any) -> list[Tensor]:
    """Give the tensors among arguments or results."""
    return [leaf for leaf in pytree.tree_leaves(tree) if isinstance(leaf, Tensor)]


def where_called(outermost: CodeType) -> str:
    """Give file and line of the nearest caller outside torch and lra.torch, within the audit."""
    frame = sys._getframe(1)
    while frame.f_code is not outermost and frame.f_back is not None:
        if not frame.f_code.co_filename.startswith(_NOT_USERS):
            return f"{frame.f_code.co_filename}:{frame.f_lineno}"
        frame = frame.f_back
    return ""

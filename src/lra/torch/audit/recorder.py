"""The recorder: attributes each node of a forward pass's graph to a call, a module and a line.

It also gives each tensor a *level*, which separates weights from data: 0 for parameters, constants
and what is computed from them; 1 for products of those; 2 for anything that depends on the input.
"""

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

# Names of nodes that multiply, without "Backward0". After "|": kernels that do more than that.
PRODUCT = re.compile(r".*([mM][mv]|[dD]ot|Matmul|Conv.*|[lL]inear)|Addr|.*(Rnn.*|Lstm.*|Gru.*)")
_LIBRARIES = f"{Path(torch.__file__).parent}/", f"{Path(__file__).parents[1]}/"


@dataclass(eq=False)
class Call:
    """One call of a torch function, with the nodes that it added to the graph.

    Attributes:
        function: the function's name.
        torch_function: the function; None for code that was not intercepted.
        operation: its qualified name.
        module: the qualified name of the module whose forward called it.
        where: "file:line" of the user's code; "" where only torch calls it.
        level: the level of the result.
        frozen: the names of weights in it that require no gradient, and so have no node.
        nodes: the nodes.
    """

    function: str
    torch_function: Any
    operation: str
    module: str
    where: str
    level: int = 2
    frozen: tuple[str, ...] = ()
    nodes: list[Node] = field(default_factory=list)


class Recorder(TorchFunctionMode):
    """A torch function mode that records the calls of one forward pass.

    Args:
        model: the model.
        example: the tensors of its input.
        outermost: the code object at which the search for the user's line stops.
    """

    def __init__(self, model: nn.Module, example: list[Tensor], outermost: CodeType) -> None:
        super().__init__()
        self.outermost = outermost
        self.modules = dict(model.named_modules())
        self.names = {id(p): name for name, p in model.named_parameters()}
        self.example = {id(x) for x in example}
        # Tensors below level 2, with their level and the names of the weights in them. They are
        # held so that no other tensor takes their id.
        self.fixed: dict[int, tuple[Tensor, int, frozenset[str]]] = {
            id(t): (t, 0, frozenset({name if id(t) in self.names else ""}))  # "" is a buffer
            for name, t in (*model.named_parameters(), *model.named_buffers())
        }
        self.running = [""]
        self.calls: list[Call] = []
        self.owners: dict[Node, Call] = {}
        self.users: dict[Node, list[str]] = {}
        self.crossings = 0

    @contextlib.contextmanager
    def module_hooks(self) -> Iterator[None]:
        """Track the module whose forward is running."""
        paths = {module: path for path, module in self.modules.items()}

        def before(module: nn.Module, inputs: Any) -> None:
            self.running.append(paths[module])

        def after(module: nn.Module, inputs: Any, output: Any) -> None:
            self.claim_nodes(tensors_in(output), None)
            self.running.pop()

        with contextlib.ExitStack() as handles:
            for module in paths:
                handles.enter_context(module.register_forward_pre_hook(before, prepend=True))
                handles.enter_context(module.register_forward_hook(after, always_call=True))
            yield

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        inputs = tensors_in((args, kwargs))
        self.claim_nodes(inputs, None)
        out = func(*args, **(kwargs or {}))
        outputs = tensors_in(out) or inputs[:1]  # x[0] = y returns nothing, and changes x
        level = max(map(self.level_of, inputs), default=0)
        weights = {id(t): self.fixed[id(t)][2] for t in inputs if id(t) in self.fixed}
        frozen = [weights.get(id(t), ()) for t in inputs if not t.requires_grad and t.dim() > 1]
        name = getattr(func, "__name__", str(func))
        call = Call(name, func, resolve_name(func) or name, self.running[-1], "", level)
        call.frozen = tuple(sorted({name for names in frozen for name in names if name}))
        self.claim_nodes(outputs, call)
        if any(PRODUCT.fullmatch(node_name(node)) for node in call.nodes):
            scalar = level < 2 and all(t.numel() == 1 for t in outputs)  # as spectral norm's
            call.level = level if scalar else min(level + 1, 2)
            computed = [t for t in inputs if not weights.get(id(t), True) and t.dim() > 1]
            if computed and level < 2 and not scalar:
                call.level = 2  # a product with positions and the like is data
        if call.nodes:
            call.where = line_of_caller(self.outermost)
            self.calls.append(call)
        for t in outputs:
            if call.level < 2:
                self.fixed[id(t)] = (t, call.level, frozenset().union(*weights.values()))
            else:
                self.fixed.pop(id(t), None)
        return out

    def claim_nodes(self, tensors: Iterable[Tensor], call: Call | None) -> None:
        """Attribute the new nodes behind some tensors to a call.

        Args:
            tensors: inputs or outputs.
            call: the call that created them; None for code that was not intercepted, such as an
                autograd Function or TorchScript. Each node then becomes a call.
        """
        todo = [t.grad_fn for t in tensors]
        while todo:
            node = todo.pop()
            if node is None or node in self.owners or node_name(node) == "AccumulateGrad":
                continue
            function = getattr(node, "_forward_cls", None)
            name = function.__name__ if function else node_name(node)
            owner = call or Call(name, None, name, self.running[-1], line_of_caller(self.outermost))
            owner.nodes.append(node)
            self.owners[node] = owner
            if call is None:
                self.calls.append(owner)
            todo += nodes_below(node)

    def select_reached(self, outputs: list[Tensor]) -> None:
        """Count the nodes of the rule, and drop all others that no error from the outputs reaches.

        Args:
            outputs: the model's outputs.
        """
        self.claim_nodes(outputs, None)
        by_rule: dict[Node, bool] = {}
        todo = [t.grad_fn for t in outputs]
        while todo:
            node = todo.pop()
            if node is None or node in by_rule:
                continue
            by_rule[node] = getattr(node, "_forward_cls", None) in NODES
            todo += nodes_below(node)
            for below in filter(None, nodes_below(node)):
                self.users.setdefault(below, []).append(node_name(node))
        self.crossings = sum(by_rule.values())
        for call in self.calls:
            call.nodes = [node for node in call.nodes if not by_rule.get(node, True)]
        self.calls = [call for call in self.calls if call.nodes]

    def level_of(self, x: Tensor) -> int:
        """Return the level of a tensor."""
        if getattr(x.grad_fn, "_forward_cls", None) in NODES:
            return 2  # a converted layer's output is data, even if computed from learned tokens
        if id(x) in self.fixed:
            return self.fixed[id(x)][1]
        return 0 if x.requires_grad and x.is_leaf and id(x) not in self.example else 2


def nodes_below(node: Node) -> list[Node | None]:
    """Return the nodes that a node sends errors to."""
    return [below for below, _ in node.next_functions]


def node_name(node: Node) -> str:
    """Return a node's name without namespace and "Backward0"."""
    return re.sub(r"Backward\d*$", "", node.name().rpartition("::")[2])


def plain_name(name: str) -> str:
    """Return a function's name in lower case, without underscores."""
    return name.replace("_", "").lower()


def tensors_in(tree: Any) -> list[Tensor]:
    """List the tensors among arguments or results."""
    return [leaf for leaf in pytree.tree_leaves(tree) if isinstance(leaf, Tensor)]


def line_of_caller(outermost: CodeType) -> str:
    """Return "file:line" of the nearest caller outside torch and lra.torch, or "".

    Args:
        outermost: the code object at which the search stops.
    """
    frame = sys._getframe(1)
    while frame.f_code is not outermost and frame.f_back is not None:
        if not frame.f_code.co_filename.startswith(_LIBRARIES):
            return f"{frame.f_code.co_filename}:{frame.f_lineno}"
        frame = frame.f_back
    return ""

"""The recorder: attributes each node of a forward pass's graph to a call, a module and a line.

It also gives each tensor a *level*, which separates weights from data: 0 for parameters, constants
and what is computed from them; 1 for products of those; 2 for anything that depends on the input.
"""

import contextlib
import sys
from collections.abc import Iterable, Iterator
from types import CodeType
from typing import Any

import torch
from torch import Tensor, nn
from torch._functorch.autograd_function import custom_function_call
from torch.autograd.graph import Node
from torch.overrides import TorchFunctionMode, resolve_name
from torch.utils import _pytree as pytree

from lra.torch.audit.calls import Call, Origin, caller, line_of, scripts_in
from lra.torch.audit.judge import judge
from lra.torch.layers import Local, LocalWeights
from lra.torch.layers.active import active
from lra.torch.ops.nodes import (
    FACTORS,
    PRODUCT,
    VIEW,
    by_rule,
    function_of,
    is_known,
    node_name,
    nodes_below,
)
from lra.torch.ops.ops import physical
from lra.torch.registry import is_operator, multiplies_units
from lra.torch.visible import visible_function

_CALL = nn.Module._call_impl.__code__


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
        self.used: set[str] = set()  # the parameters that the outputs depend on
        self.unclear: set[Any] = set()  # autograd Functions of weights and of tensors unknown
        self.running = [""]
        self.calls: list[Call] = []
        self.owners: dict[Node, Call] = {}
        self.users: dict[Node, list[str]] = {}
        self.crossings = 0
        self._products: dict[int, Call] = {}  # the last product with weights in a fixed tensor
        # Comparisons of activations, with the nodes of these. They are held as `fixed` is.
        self._masks: dict[int, tuple[Tensor, frozenset[Node]]] = {}
        self._detached: dict[int, tuple[Tensor, frozenset[Node]]] = {}
        self._without_grad: list[tuple[set[CodeType], str, frozenset[str]]] = []

    @contextlib.contextmanager
    def module_hooks(self) -> Iterator[None]:
        """Track the module whose forward is running."""
        paths = {module: path for path, module in self.modules.items()}

        def before(module: nn.Module, args: Any, kwargs: Any) -> None:
            self.claim_nodes(tensors_in((args, kwargs)), None)
            self.running.append(paths.get(module, self.running[-1]))  # hooks of a copy are shared

        def after(module: nn.Module, inputs: Any, output: Any) -> None:
            self.claim_nodes(tensors_in(output), None)
            self.running.pop()

        with contextlib.ExitStack() as handles:
            for module in paths:
                add = module.register_forward_pre_hook
                handles.enter_context(add(before, prepend=True, with_kwargs=True))
                handles.enter_context(module.register_forward_hook(after, always_call=True))
            yield

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        inputs = tensors_in((args, kwargs))
        self.claim_nodes(inputs, None)
        out = func(*args, **kwargs)
        outputs = tensors_in(out) or inputs[:1]  # x[0] = y returns nothing, and changes x
        level = max(map(self.level_of, inputs), default=0)
        weights = {id(t): self.fixed[id(t)][2] for t in inputs if id(t) in self.fixed}
        frozen = [weights.get(id(t), ()) for t in inputs if not t.requires_grad and t.dim() > 1]
        name = getattr(func, "__name__", str(func))
        call = Call(name, func, resolve_name(func) or name, self._module(), "", level)
        call.outside = len(self.running) == 1 and not active.layers
        call.frozen = tuple(sorted({name for names in frozen for name in names if name}))
        if is_operator(func):
            call.origin = Origin.OPERATOR
            call.operation = f"torch.ops.{str(func).replace('::', '.')}"
        cls = args[0] if func is custom_function_call else visible_function(func)
        if cls is not None:  # an autograd Function, inside a transform or made visible
            call.origin, call.torch_function = Origin.FUNCTION, func
            call.function = call.operation = cls.__name__
        if not torch.is_grad_enabled():
            self._note_without_grad(inputs)
        self.claim_nodes(outputs, call)
        is_product = any(PRODUCT.fullmatch(node_name(node)) for node in call.nodes)
        if is_product:
            scalar = level < 2 and all(t.numel() == 1 for t in outputs)  # as spectral norm's
            call.level = level if scalar else max(level, 1)
            computed = [t for t in inputs if not weights.get(id(t), True) and t.dim() > 1]
            if computed and level < 2 and not scalar:
                call.level = 2  # a product with positions and the like is data
        if isinstance(self.modules[self.running[-1]], LocalWeights):
            call.level = 2  # the output of a converted layer is data, even of a constant input
        if call.nodes:
            call.where = line_of(caller(self.outermost))
            self.calls.append(call)
            self._examine(call, args, kwargs, inputs, outputs)
        elif compared := self._compared(inputs):
            plain = [t for t in outputs if not (t.requires_grad or t.is_complex())]
            of_masks = [t for t in inputs if id(t) in self._masks]
            if plain_name(name) == "detach":
                self._detached |= {id(t): (t, compared) for t in plain}
            elif plain_name(name) in _COMPARISONS:
                self._masks |= {id(t): (t, compared) for t in plain}
            elif of_masks:  # a mask as numbers, for instance
                same = [t for t in plain if t.shape == of_masks[0].shape]
                self._masks |= {id(t): (t, compared) for t in same}
        found = [self._products[id(t)] for t in inputs if id(t) in self._products]
        if call.level == 2 and call.nodes and not is_product:
            for product in found:
                product.joins_data = True
        last = [call] if is_product and level == 1 else found[:1]
        for t in outputs:
            if call.level < 2:
                self._products |= {id(t): product for product in last}
                self.fixed[id(t)] = (t, call.level, frozenset().union(*weights.values()))
            else:
                self.fixed.pop(id(t), None)
        return out

    def _examine(
        self, call: Call, args: Any, kwargs: Any, inputs: list[Tensor], outputs: list[Tensor]
    ) -> None:
        """Note what the names of a call's nodes do not show."""
        if call.level < 2:
            return
        data = [t for t in inputs if self.level_of(t) == 2]
        weights = [t for t in inputs if self.level_of(t) < 2 and self._names_of(t)]
        leaves = [t for t in pytree.tree_leaves((args, kwargs)) if isinstance(t, Tensor)]
        call.mapped = any(physical(t) is not t and self._names_of(physical(t)) for t in leaves)
        (out, *_) = outputs
        names = [node_name(node) for node in call.nodes]
        elementwise = any(map(FACTORS.fullmatch, names)) and not any(map(PRODUCT.fullmatch, names))
        crossed = [t for t in data if t.requires_grad]
        if elementwise and crossed and weights and multiplies_units(crossed, weights):
            call.scaled_by = tuple(sorted({name for t in weights for name in self._names_of(t)}))
        masks = [t for t in inputs if id(t) in self._masks and t.shape == out.shape]
        call.selects_by = self._compared(masks)
        if not all(map(is_known, call.nodes)):
            call.nature = judge(call.torch_function, args, kwargs, crossed)

    def _compared(self, inputs: list[Tensor]) -> frozenset[Node]:
        """Return the nodes of the activations that inputs are, or are comparisons of."""
        found = {t.grad_fn for t in inputs if t.grad_fn is not None and self.level_of(t) == 2}
        tables = self._masks, self._detached
        masks = [table[id(t)][1] for table in tables for t in inputs if id(t) in table]
        return frozenset(found).union(*masks)

    def _names_of(self, t: Tensor) -> frozenset[str]:
        """Return the names of the weights that a tensor is made of, without buffers."""
        return self.fixed[id(t)][2] - {""} if id(t) in self.fixed else frozenset()

    def _module(self) -> str:
        """Return the name of the module whose forward, or other method, is running."""
        path: str = active.layers[-1]._lra.path if active.layers else ""
        running = self.running[-1]
        return path if path.startswith(f"{running}." if running else "") else running

    def _note_without_grad(self, inputs: list[Tensor]) -> None:
        """Note the weights used without a graph, which may be in an autograd Function."""
        weights = [t for t in inputs if t.dim() > 1 and t.requires_grad]
        names = frozenset().union(*map(self._names_of, weights))
        if not names:
            return
        codes, frame = set(), sys._getframe(1)
        while frame.f_code is not self.outermost and frame.f_back is not None:
            if frame.f_code is _CALL and isinstance(frame.f_locals["self"], Local):
                break  # a converted module follows the rule when it runs again with a graph
            codes.add(frame.f_code)
            frame = frame.f_back
        self._without_grad.append((codes, self.running[-1], names))

    def claim_nodes(self, tensors: Iterable[Tensor], call: Call | None) -> None:
        """Attribute the new nodes behind some tensors to a call.

        Args:
            tensors: inputs or outputs.
            call: the call that created them; None for code that was not intercepted, such as an
                autograd Function or TorchScript. Each node then becomes a call.
        """
        todo = [physical(t).grad_fn for t in tensors]
        hidden: Call | None = None
        while todo:
            node = todo.pop()
            if node is None or node in self.owners or node_name(node) == "AccumulateGrad":
                continue
            owner = call or self._unseen(node, hidden)
            owner.nodes.append(node)
            self.owners[node] = owner
            if call is None and owner is not hidden:
                self.calls.append(owner)
            hidden = owner if owner.origin is Origin.HIDDEN else hidden
            todo += nodes_below(node)

    def _unseen(self, node: Node, hidden: Call | None) -> Call:
        """Return a call for a node that no intercepted function created.

        Args:
            node: the node.
            hidden: the call of hidden code found just before, which the node may belong to.
        """
        cls = function_of(node)
        name = node_name(node) if cls is None else cls.__name__
        frame = caller(self.outermost)
        call = Call(name, cls, name, self._module(), line_of(frame), unseen=True)
        if cls is not None:
            call.origin = Origin.FUNCTION
            below = nodes_below(node)
            if None in below and any(n is not None and self.is_weight(n) for n in below):
                self.unclear.add(cls)
            code = getattr(cls.forward, "__code__", None)
            noted = [(path, names) for codes, path, names in self._without_grad if code in codes]
            call.inside = tuple((path, name) for path, names in noted for name in sorted(names))
        elif not (by_rule(node) or VIEW.fullmatch(name) or name == "CopySlices"):
            if hidden is not None:
                return hidden
            call.origin = Origin.HIDDEN
            scripts = scripts_in(frame)
            outside = "code outside Python (TorchScript, C++, or a derivative by torch.func)"
            call.operation = f"TorchScript {scripts}" if scripts else outside
        return call

    def select_reached(self, outputs: list[Tensor]) -> None:
        """Count the nodes of the rule, and drop all others that no error from the outputs reaches.

        Args:
            outputs: the model's outputs.
        """
        self.claim_nodes(outputs, None)
        reached: dict[Node, bool] = {}
        todo = [t.grad_fn for t in outputs]
        while todo:
            node = todo.pop()
            if node is None or node in reached:
                continue
            reached[node] = by_rule(node)
            if isinstance(leaf := getattr(node, "variable", None), Tensor):
                self.used.add(self.names.get(id(leaf), ""))
            todo += nodes_below(node)
            for below in filter(None, nodes_below(node)):
                self.users.setdefault(below, []).append(node_name(node))
        for call in self.calls:
            if call.unseen:
                call.level = 0 if all(map(self.is_weight, call.nodes)) else 2
        self.crossings = sum(reached.values())
        for call in self.calls:
            call.nodes = [node for node in call.nodes if not reached.get(node, True)]
        self.calls = [call for call in self.calls if call.nodes]

    def level_of(self, x: Tensor) -> int:
        """Return the level of a tensor."""
        if x.grad_fn is not None and by_rule(x.grad_fn):
            return 2  # a converted layer's output is data, even if computed from learned tokens
        if id(x) in self.fixed:
            return self.fixed[id(x)][1]
        node = x.grad_fn
        owner = None if node is None else self.owners.get(node)
        if node is not None and owner is not None and owner.unseen and self.is_weight(node):
            self.fixed[id(x)] = (x, 0, frozenset(self.parameters(node)))
            return 0
        return 0 if x.requires_grad and x.is_leaf and id(x) not in self.example else 2

    def is_weight(self, node: Node | None) -> bool:
        """Return whether what a node computes is made of parameters alone."""
        if node is None:
            return False  # a constant, or data that requires no gradient
        if isinstance(leaf := getattr(node, "variable", None), Tensor):
            return id(leaf) not in self.example
        owner = self.owners.get(node)
        if owner is None or owner.unseen:
            return not by_rule(node) and all(map(self.is_weight, nodes_below(node)))
        return owner.level == 0

    def parameters(self, node: Node) -> set[str]:
        """Return the names of the leaves below a node."""
        if isinstance(leaf := getattr(node, "variable", None), Tensor):
            return {self.names.get(id(leaf), "(a tensor that is no Parameter)")}
        return {name for n in nodes_below(node) if n is not None for name in self.parameters(n)}


_COMPARISONS = (
    *("gt", "lt", "ge", "le", "greater", "less", "greaterequal", "lessequal"),
    *("heaviside", "signbit"),
)


def plain_name(name: str) -> str:
    """Return a function's name in lower case, without underscores."""
    return name.replace("_", "").lower()


def tensors_in(tree: Any) -> list[Tensor]:
    """List the tensors among arguments or results; under `torch.vmap`, those behind them."""
    return [physical(leaf) for leaf in pytree.tree_leaves(tree) if isinstance(leaf, Tensor)]

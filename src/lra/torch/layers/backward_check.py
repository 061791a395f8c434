"""A check of the first backward passes: what escapes the rule in code that no example showed."""

import functools
import re
import sys
import warnings
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import Node, _engine_run_backward

from lra.crossing import Derivative
from lra.errors import LraWarning
from lra.feedback import Transpose
from lra.torch.ops.nodes import (
    ADDS,
    NONLINEAR,
    PRODUCT,
    by_rule,
    function_of,
    is_pure,
    node_name,
    nodes_below,
)
from lra.torch.ops.ops import transforming

_READS = re.compile(rf"({PRODUCT.pattern})|Embedding.*")
"""Names of nodes that make data of weights and of an input that requires no gradient."""

_PASSES = 3
"""The number of backward passes that are checked."""


def check_backward(state: Any, h: Tensor) -> None:
    """Check the graph of the first backward passes through a layer's output h.

    Code that runs outside a converted forward (`model.encode(x)`, a `training_step`, a product with
    a tied weight), or that no example showed, stays on backprop. The check warns of it once.
    """
    if torch.compiler.is_compiling():
        return
    if len(state.conversion.checked) < _PASSES and h.requires_grad and not transforming():
        h.register_hook(functools.partial(_check, state.conversion, state.rule))  # type: ignore[no-untyped-call]


def _check(conversion: Any, rule: Any, error: Tensor) -> None:
    task = torch._C._current_graph_task_id()
    model = conversion.model and conversion.model()
    unfinished = conversion.modules is None  # an example runs that finds what escapes
    if unfinished or task in conversion.checked or len(conversion.checked) >= _PASSES:
        return
    if model is None:
        return
    conversion.checked.add(task)
    found = list(dict.fromkeys(_escapes(list(_roots()), model, rule, conversion)))
    if found:
        conversion.checked.update(-i for i in range(1, _PASSES + 1))  # warn once
        warnings.warn(
            f"errors cross {', '.join(found)} as in backprop, in code that no example showed or "
            "outside a converted forward. Name a method in convert(methods=...), and show the code "
            "by examples=[...]",
            LraWarning,
            stacklevel=2,
        )


def _roots() -> Iterator[Node]:
    """Yield the nodes at which the backward passes of all threads started."""
    for frame in sys._current_frames().values():
        caller: Any = frame
        while caller is not None:
            if caller.f_code is _engine_run_backward.__code__:
                for root in caller.f_locals["t_outputs"]:
                    node = root.grad_fn if isinstance(root, Tensor) else root.node
                    if node is not None:
                        yield node
            caller = caller.f_back


def _escapes(roots: list[Node], model: nn.Module, rule: Any, conversion: Any) -> Iterator[str]:
    """Yield what escapes the rule between the losses and the model's lowest layers."""
    names = {id(p): name for name, p in model.named_parameters() if p.dim() > 1}
    order = _topological(roots)
    data: dict[Node, bool] = {}
    for node in order:
        factors = nodes_below(node)
        reads_input = _READS.fullmatch(node_name(node)) and None in factors
        further = any(n is not None and data[n] for n in factors)
        data[node] = bool(by_rule(node) or reads_input or further)
    above: set[Node] = set()  # nodes that an error reaches across a node of the rule
    for node in reversed(order):
        if function_of(node) is None and not by_rule(node) and data[node]:
            yield from _of_node(node, node in above, data, names, rule, conversion)
        if by_rule(node) or node in above:
            above.update(n for n in nodes_below(node) if n is not None)


def _of_node(
    node: Node, is_above: bool, data: dict[Node, bool], names: Any, rule: Any, conversion: Any
) -> Iterator[str]:
    """Yield what escapes the rule at one node of torch."""
    name = node_name(node)
    skipped = tuple(f"{path}." for path in conversion.skipped)
    if PRODUCT.fullmatch(name) and not isinstance(rule.feedback, Transpose):
        factors = nodes_below(node)[1 if ADDS.match(name) else 0 :]
        factors = factors[:2] if "Conv" in name else factors  # without the bias
        if any(n is not None and data[n] for n in factors):
            found = [_leaves(n, names) or () for n in factors if n is not None and not data[n]]
            weights = {leaf for leaves in found for leaf in leaves}
            yield from (
                f"a product with {leaf!r}"
                for leaf in sorted(weights)
                if not f"{leaf}.".startswith(skipped)
            )
        return
    accepted = skipped or name in conversion.accepted or isinstance(rule.crossing, Derivative)
    if is_above and not accepted and NONLINEAR.fullmatch(name):
        yield name


def _topological(roots: list[Node]) -> list[Node]:
    """List the nodes below some roots, each after those below it."""
    order: dict[Node, None] = {}
    todo: list[tuple[Node, bool]] = [(root, False) for root in roots]
    while todo:
        node, done = todo.pop()
        if done:
            order[node] = None
        elif node not in order:
            todo.append((node, True))
            todo += [(n, False) for n in nodes_below(node) if n is not None and n not in order]
    return list(order)


def _leaves(node: Node, names: dict[int, str]) -> list[str] | None:
    """List the parameters that a factor is made of; None if it is made of anything else."""
    leaf = getattr(node, "variable", None)
    if leaf is not None:
        return [names[id(leaf)]] if id(leaf) in names else None
    if by_rule(node) or not is_pure(node):
        return None
    found: list[str] = []
    for below in nodes_below(node):
        leaves = None if below is None else _leaves(below, names)
        if leaves is None:
            return None
        found += leaves
    return found

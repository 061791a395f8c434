"""tanh of compiled steps as a rational function, which takes less time than torch's own."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.fx import Graph, Node

_aten = torch.ops.aten

LARGEST = 9.02
"""From here on tanh is 1 in single precision."""

ABOVE = (
    *(1.0, 0.13382687359739498, 0.003497457782936158, 2.0635824007726196e-05),
    1.3384292892856083e-08,
)
BELOW = (
    *(1.0, 0.4671600860710292, 0.025884361349468504, 0.0003288517514876915),
    7.790250027191212e-07,
)
"""The coefficients of 1, h^2, h^4, ...: `python benchmarks/tanh.py --fit` finds them."""


def _compute(operation: Callable[..., Any], *arguments: Any) -> Any:
    return operation(*arguments)


def tanh(h: Any, do: Callable[..., Any] = _compute) -> Any:
    """Give h P(h^2) / Q(h^2), in single precision tanh but for a relative error of 4e-7.

    Args:
        h: any shape.
        do: performs an operation on its arguments, or puts it into a graph.
    """
    h = _limit(h, LARGEST, do)
    u = do(_aten.mul.Tensor, h, h)
    p, q = (_polynomial(coefficients, u, do) for coefficients in (ABOVE, BELOW))
    ratio = do(_aten.div.Tensor, do(_aten.mul.Tensor, h, p), q)
    return _limit(ratio, 1.0, do)


def _limit(value: Any, largest: float, do: Callable[..., Any]) -> Any:
    above = do(_aten.clamp_min.default, value, -largest)
    return do(_aten.clamp_max.default, above, largest)


def _polynomial(coefficients: tuple[float, ...], u: Any, do: Callable[..., Any]) -> Any:
    """Give a + b u + c u^2 + ..., by Horner's scheme."""
    *lower, last = coefficients
    value = do(_aten.mul.Tensor, u, last)
    for a in reversed(lower[1:]):
        value = do(_aten.mul.Tensor, do(_aten.add.Tensor, value, a), u)
    return do(_aten.add.Tensor, value, lower[0])


def replace_tanh(graph: Graph) -> None:
    """Put the rational function in the place of torch's tanh on a CPU, in single precision.

    Of each h it is computed once, for the way forward and for targets.
    """
    found: dict[Node, Node] = {}
    for node in graph.nodes:
        if node.op != "call_function" or node.target is not _aten.tanh.default:
            continue
        value: Tensor = node.meta["val"]
        if value.dtype != torch.float32 or value.device.type != "cpu":
            continue

        def put(operation: Any, *arguments: Any, old: Node = node) -> Node:
            new = graph.call_function(operation, arguments)
            new.meta.update(old.meta)
            return new

        (h,) = node.args
        if h not in found:
            with graph.inserting_before(node):
                found[h] = tanh(h, put)
        node.replace_all_uses_with(found[h])
        graph.erase_node(node)

"""Find the parameters below a weight in autograd's graph; that weight's feedback affects them."""

import functools
from collections.abc import Collection, Mapping
from typing import Any

from torch import Tensor, nn

from zoo.measure import Example, loss, reset

CONTRACTIONS: dict[str, tuple[int, ...]] = {
    # Node of autograd -> the operands that are multiplied. The weight is the operand computed from
    # parameters alone; if several are, such as learned queries, it is the last of them.
    "AddmmBackward0": (1, 2),
    "AddmvBackward0": (1, 2),
    "BaddbmmBackward0": (1, 2),
    "BmmBackward0": (0, 1),
    "ConvolutionBackward0": (0, 1),
    "DotBackward0": (0, 1),
    "GroupedMmBackward0": (0, 1),
    "LinearBackward0": (0, 1),
    "MmBackward0": (0, 1),
    "MvBackward0": (0, 1),
    "TrilinearBackward0": (0, 1, 2),
}
"""The products of data with a weight that sums over the weight's inputs."""

LOOKUPS = ("EmbeddingBackward0", "EmbeddingBagBackward0")
"""Nodes that turn a parameter into data, by taking rows chosen by the input."""


def below(model: nn.Module, example: Example, skipped: Collection[nn.Module] = ()) -> set[str]:
    """Return the names of the parameters whose error crosses a product with another weight.

    The remaining parameters get the same error as in backprop. An elementwise product, such as with
    the gain of a norm, does not count, nor does a weight of a skipped module. A frozen weight does.
    """
    reset(model)
    names = {p: name for name, p in model.named_parameters()}
    frozen = [p for p in names if p.is_floating_point() and not p.requires_grad]
    for parameter in frozen:
        parameter.requires_grad_()  # otherwise the graph has no node for it
    left = {p for module in skipped for p in module.parameters()}
    example = require_grad(example)

    @functools.cache
    def is_weight(node: Any) -> bool:
        if hasattr(node, "variable"):
            return node.variable in names and node.variable not in left
        if node.name() in CONTRACTIONS or node.name() in LOOKUPS:
            return False
        following = [n for n, _ in node.next_functions if n is not None]
        return bool(following) and all(map(is_weight, following))

    result: set[str] = set()
    start = (loss(model, example).grad_fn, False)
    seen, stack = {start}, [start]
    while stack:
        node, crossed = stack.pop()
        if crossed and hasattr(node, "variable") and node.variable in names:
            result.add(names[node.variable])
        following = node.next_functions
        operands = CONTRACTIONS.get(node.name(), ())
        weights = [
            i for i in operands if following[i][0] is not None and is_weight(following[i][0])
        ]
        for i, (child, _) in enumerate(following):
            across = bool(weights) and i in operands and i != weights[-1]
            state = (child, crossed or across)
            if child is not None and state not in seen:
                seen.add(state)
                stack.append(state)
    for parameter in frozen:
        parameter.requires_grad_(False)
    return result - {names[parameter] for parameter in frozen}


def require_grad(value: Any) -> Any:
    """Return inputs that require gradients, so that they appear as data in the graph."""
    if isinstance(value, Tensor):
        return value.detach().requires_grad_() if value.is_floating_point() else value
    if isinstance(value, Mapping):
        return {key: require_grad(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return type(value)(require_grad(item) for item in value)
    return value

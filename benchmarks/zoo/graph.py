"""Tell from autograd's graph which parameters lie below a weight, and so must feel its feedback."""

import functools
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from zoo.measure import Example, begin, loss

CONTRACTIONS: dict[str, tuple[int, ...]] = {
    # node of autograd: the operands that are multiplied; which is the weight is found out, and the
    # last is it where several are computed from parameters alone, as learned queries are
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
"""What turns a parameter into data: rows of it, chosen by the input."""


def below(model: nn.Module, example: Example) -> set[str]:
    """Name the parameters between which and the loss there is a product with another weight.

    The rest are the top: nothing carries an error to them but what backprop carries as well. What
    multiplies element by element, as a norm's gain does, is no such product.
    """
    begin(model)
    names = {p: name for name, p in model.named_parameters()}
    example = required(example)

    @functools.cache
    def weight(node: Any) -> bool:
        if hasattr(node, "variable"):
            return node.variable in names
        if node.name() in CONTRACTIONS or node.name() in LOOKUPS:
            return False
        following = [n for n, _ in node.next_functions if n is not None]
        return bool(following) and all(map(weight, following))

    found: set[str] = set()
    start = (loss(model, example).grad_fn, False)
    seen, waiting = {start}, [start]
    while waiting:
        node, crossed = waiting.pop()
        if crossed and hasattr(node, "variable") and node.variable in names:
            found.add(names[node.variable])
        following = node.next_functions
        operands = CONTRACTIONS.get(node.name(), ())
        weights = [i for i in operands if following[i][0] is not None and weight(following[i][0])]
        for i, (child, _) in enumerate(following):
            across = bool(weights) and i in operands and i != weights[-1]
            state = (child, crossed or across)
            if child is not None and state not in seen:
                seen.add(state)
                waiting.append(state)
    return found


def required(value: Any) -> Any:
    """Let floating inputs need gradients, so that they are told from parameters in the graph."""
    if isinstance(value, Tensor):
        return value.detach().requires_grad_() if value.is_floating_point() else value
    if isinstance(value, Mapping):
        return {key: required(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return type(value)(required(item) for item in value)
    return value

"""A model as a chain of segments: a weight layer, and what comes after it up to the next."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd
from torch.nn.modules.pooling import (
    _AdaptiveAvgPoolNd,
    _AdaptiveMaxPoolNd,
    _AvgPoolNd,
    _MaxPoolNd,
)

from lra.errors import Refusal
from lra.methods import Method
from lra.torch.methods.runs import check_model, inside, refuse

_SHAPES = (nn.Flatten, nn.Unflatten, nn.Identity)
_POOLS = (_AvgPoolNd, _MaxPoolNd, _AdaptiveAvgPoolNd, _AdaptiveMaxPoolNd)

Test = Callable[[nn.Module], bool]


@dataclass
class Segment:
    """A weight layer, and what follows it.

    Attributes:
        path: the layer's qualified name.
        layer: the weight layer.
        rest: what follows it.
    """

    path: str
    layer: nn.Module
    rest: list[nn.Module] = field(default_factory=list)

    def __call__(self, z: Tensor) -> Tensor:
        """Give what the next weight layer reads, from what this one reads."""
        for module in (self.layer, *self.rest):
            z = module(z)
        return z


@dataclass
class Chain:
    """A model taken apart.

    Attributes:
        before: modules without weights, which prepare the input.
        segments: what follows.
    """

    before: list[nn.Module] = field(default_factory=list)
    segments: list[Segment] = field(default_factory=list)


def take_apart(method: Method, model: nn.Module, unit: Test, units: str) -> Chain:
    """Take a chain apart.

    Args:
        method: the method, for messages.
        model: the model, in DistributedDataParallel or not.
        unit: tells whether a module is a unit that the method knows.
        units: what those are, for messages.

    Raises:
        MethodError: for anything but a chain of such parts.
    """
    check_model(method, model)
    chain = Chain()
    found = chain.segments
    refused: list[Refusal] = []
    for path, module in _leaves(inside(model), ""):
        if isinstance(module, nn.Linear) or (
            isinstance(module, _ConvNd) and not isinstance(module, _ConvTransposeNd)
        ):
            found.append(Segment(path, module))
        elif found and (isinstance(module, (*_SHAPES, *_POOLS)) or unit(module)):
            found[-1].rest.append(module)
        elif found or any(True for _ in module.parameters()):
            refused.append(Refusal(path, type(module).__name__, "it has no place in the chain"))
        else:
            chain.before.append(module)
    where = (
        "it takes an nn.Sequential of nn.Linear and convolutions, with nn.Flatten, max and average "
        f"pools, and {units} between"
    )
    if not found and not refused:
        refused.append(Refusal("", type(inside(model)).__name__, "it has no weight layer"))
    refuse(method, refused, where)
    return chain


def _leaves(module: nn.Module, path: str) -> Iterator[tuple[str, nn.Module]]:
    """Give the modules in the order in which nested Sequentials run them."""
    if type(module) is not nn.Sequential:
        yield path, module
        return
    for name, child in module._modules.items():  # named_children would leave repeats out
        if child is not None:
            yield from _leaves(child, f"{path}.{name}".strip("."))

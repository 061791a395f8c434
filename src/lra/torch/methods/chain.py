"""Models as a chain of segments: a weight layer and the modules up to the next one."""

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
from lra.torch.layers import is_activation
from lra.torch.methods.runs import check_model, raise_if_refused, without_ddp
from lra.torch.registry import TORCH_ACTIVATIONS

_RESHAPES = (nn.Flatten, nn.Unflatten, nn.Identity)
_POOLS = (_AvgPoolNd, _MaxPoolNd, _AdaptiveAvgPoolNd, _AdaptiveMaxPoolNd)


@dataclass
class Segment:
    """A weight layer and the modules between it and the next weight layer.

    Attributes:
        path: the layer's qualified name.
        layer: the weight layer.
        rest: the modules after it.
    """

    path: str
    layer: nn.Module
    rest: list[nn.Module] = field(default_factory=list)

    def __call__(self, z: Tensor) -> Tensor:
        """Compute the input of the next weight layer from the input of this one."""
        for module in (self.layer, *self.rest):
            z = module(z)
        return z


@dataclass
class SegmentedModel:
    """A model split into segments.

    Attributes:
        before: the modules without weights in front of the first weight layer.
        segments: the segments, in forward order.
    """

    before: list[nn.Module] = field(default_factory=list)
    segments: list[Segment] = field(default_factory=list)


def split_into_segments(
    method: Method,
    model: nn.Module,
    supports: Callable[[nn.Module], bool],
    activations: str,
    *,
    only_linear: bool = False,
) -> SegmentedModel:
    """Split a chain of layers into segments.

    Args:
        method: the method, for messages.
        model: the model, in DistributedDataParallel or not.
        supports: returns whether the method supports a module as an activation.
        activations: the supported activations, for messages.
        only_linear: whether convolutions, pools and reshaping between layers are refused.

    Raises:
        MethodError: for any other model.
    """
    check_model(method, model)
    between = (nn.Identity,) if only_linear else (*_RESHAPES, *_POOLS)
    split = SegmentedModel()
    segments = split.segments
    refused: list[Refusal] = []
    for path, module in _leaves(without_ddp(model), ""):
        is_conv = isinstance(module, _ConvNd) and not isinstance(module, _ConvTransposeNd)
        if isinstance(module, nn.Linear) or (is_conv and not only_linear):
            segments.append(Segment(path, module))
        elif segments and (isinstance(module, between) or supports(module)):
            segments[-1].rest.append(module)
        elif segments or any(True for _ in module.parameters()):
            reason = "it is not supported in a chain of layers"
            refused.append(Refusal(path, type(module).__name__, reason))
        else:
            split.before.append(module)
    layers = (
        "nn.Linear, with"
        if only_linear
        else "nn.Linear and convolutions, with nn.Flatten, max and average pools, and"
    )
    supported = f"it takes an nn.Sequential of {layers} {activations} between"
    if not segments and not refused:
        kind = type(without_ddp(model)).__name__
        refused.append(Refusal("", kind, "it has no weight layer"))
    raise_if_refused(method, refused, supported)
    return split


def is_plain_activation(module: nn.Module) -> bool:
    """Return whether a module is an elementwise activation without parameters."""
    known = type(module) in TORCH_ACTIVATIONS and type(module) is not nn.RReLU
    known = known and next(module.parameters(), None) is None
    return known or is_activation(module)


def _leaves(module: nn.Module, path: str) -> Iterator[tuple[str, nn.Module]]:
    """List modules in the order in which nested Sequentials run them."""
    if type(module) is not nn.Sequential:
        yield path, module
        return
    for name, child in module._modules.items():  # named_children would leave repeats out
        if child is not None:
            yield from _leaves(child, f"{path}.{name}".strip("."))

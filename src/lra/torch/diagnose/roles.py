"""The rows of a diagnosis: the role of each module, and the names of rows."""

from torch import nn

from lra.torch.diagnose.report import LayerKind
from lra.torch.layers import Local, LocalActivation, LocalWeights, is_activation
from lra.torch.registry import ACTIVATIONS, WEIGHT_LAYERS


def kind_of(module: nn.Module, converted: bool = True) -> LayerKind | None:
    """Return the role of a module; None if it neither has parameters nor changes errors."""
    if isinstance(module, LocalWeights) or (not converted and type(module) in WEIGHT_LAYERS):
        return LayerKind.WEIGHTS
    if isinstance(module, LocalActivation):
        return LayerKind.ACTIVATION
    if not isinstance(module, Local) and (type(module) in ACTIVATIONS or is_activation(module)):
        return LayerKind.ACTIVATION
    own = next(module.parameters(recurse=False), None)
    return None if own is None else LayerKind.OTHER


def type_name(module: nn.Module) -> str:
    """Return the name of a module's class before conversion."""
    return (module.plain if isinstance(module, Local) else type(module)).__name__


def row_of(layer: str, key: str) -> str:
    """Return the name of the row of a weight that a layer's forward multiplies with."""
    owner, _, leaf = key.partition(":")[0].rpartition(".")
    return join(layer, owner) if leaf == "weight" else join(layer, owner, leaf)


def join(*names: str) -> str:
    """Join the parts of a qualified name that are not empty."""
    return ".".join(filter(None, names))

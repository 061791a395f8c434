"""The tables of weight layers, activations and functions, and how to add to them."""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

import torch
import torch.nn.functional
from torch import Tensor, nn
from torch._library.custom_ops import CustomOpDef
from torch._ops import OpOverload, OpOverloadPacket
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from lra.crossing import Surrogate
from lra.errors import OptionError
from lra.torch.visible import visible_apply

T: Any = torch.Tensor
F: Any = torch.nn.functional  # its stubs lack parts of it

Product = Callable[[Any, Tensor, Tensor, Tensor | None], Tensor]
"""A weight layer's forward as a function of (layer, z, W, b)."""


@dataclass(frozen=True)
class WeightLayer:
    """How the modules of one class multiply.

    Attributes:
        product: the product that was registered; None for torch's own classes and black boxes.
        black_box: whether the layer can only be run.
        simulator: whether `recognise_simulators` registered it, so that it can be differentiated.
    """

    product: Product | None = None
    black_box: bool = False
    simulator: bool = False

    @property
    def built_in(self) -> bool:
        """Whether the class is one of torch's own."""
        return self.product is None and not self.black_box


WEIGHT_LAYERS: dict[type[nn.Module], WeightLayer] = dict.fromkeys(
    (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d), WeightLayer()
)
"""Weight layers by class: errors go down through the rule's feedback."""

SIMULATORS = frozenset(
    (
        "aihwkit_lightning.nn.modules.linear.AnalogLinear",
        "aihwkit_lightning.nn.modules.conv.AnalogConv2d",
        "aihwkit_lightning.nn.modules.conv.AnalogConv3d",
    )
)
"""Weight layers of other packages that are black boxes, by qualified class name."""

ACTIVATIONS: dict[type[nn.Module], str | None] = {
    nn.CELU: "celu",
    nn.ELU: "elu",
    nn.GELU: "gelu",
    nn.Hardshrink: "hardshrink",
    nn.Hardsigmoid: "hardsigmoid",
    nn.Hardswish: "hardswish",
    nn.Hardtanh: "hardtanh",
    nn.LeakyReLU: "leaky_relu",
    nn.LogSigmoid: "logsigmoid",
    nn.Mish: "mish",
    nn.PReLU: "leaky_relu",
    nn.ReLU: "relu",
    nn.ReLU6: "relu6",
    nn.SELU: "selu",
    nn.SiLU: "silu",
    nn.Sigmoid: "sigmoid",
    nn.Softplus: "softplus",
    nn.Softshrink: "softshrink",
    nn.Softsign: "softsign",
    nn.Tanh: "tanh",
    nn.Tanhshrink: "tanhshrink",
    nn.Threshold: "threshold",
    nn.RReLU: "leaky_relu",
}
"""Activations by class, with the keys of their differences in `lra.differences.FORMS`."""

TORCH_ACTIVATIONS = tuple(ACTIVATIONS)
"""torch's own activations among them."""

INTERCEPTED: tuple[type[nn.Module], ...] = (
    *(nn.Linear, _ConvNd, _ConvTransposeNd, nn.Bilinear, nn.RNNBase, nn.RNNCellBase, nn.GLU),
    *(nn.MultiheadAttention, nn.TransformerEncoderLayer, nn.TransformerDecoderLayer),
)
"""Classes whose forward is intercepted, function by function, in subclasses too."""

SURROGATES: dict[Any, Surrogate] = {}
"""The surrogates that `register_activation` was given."""

_MATMUL = (torch.matmul, T.matmul, T.__matmul__, T.__rmatmul__, torch.mm, T.mm, torch.bmm, T.bmm)
_OTHERS = (torch.mv, T.mv, torch.tensordot, torch.einsum, torch.inner, T.inner)
_GROUPED = tuple(
    f
    for f in (getattr(torch, "_grouped_mm", None), getattr(F, "grouped_mm", None))
    if f is not None
)

CONVOLUTIONS = (
    *(F.conv1d, F.conv2d, F.conv3d, torch.conv1d, torch.conv2d, torch.conv3d),
    *(F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d),
)
"""Bilinear functions whose units are in dimension 1."""

BILINEAR_FUNCTIONS: dict[Any, int | None] = {
    **dict.fromkeys((*_MATMUL, *_OTHERS, *_GROUPED)),
    **dict.fromkeys((torch.addmm, T.addmm, torch.baddbmm, T.baddbmm, torch.addmv, T.addmv), 0),
    **dict.fromkeys((F.linear, *CONVOLUTIONS), 2),
    F.bilinear: 3,
}
"""Functions that multiply data with weights, and the index of the bias among their arguments."""


MULTIPLICATIONS = frozenset((torch.mul, torch.multiply, T.mul, T.multiply, T.__mul__, T.__rmul__))


def multiplies_units(data: list[Tensor], weights: list[Tensor]) -> bool:
    """Return whether an elementwise product with weights is more than a scale of each unit.

    It is where data is broadcast along dimensions of the weights, as in (h[:, None] * W).sum(-1),
    or where the numbers are complex, as in a convolution by Fourier transforms.

    Args:
        data: the data among the factors.
        weights: the weights among them, or what is derived from weights alone.
    """
    z, W = data[0], weights[0]
    if W.numel() == 1:
        return False
    sizes = zip_longest(z.shape[::-1], W.shape[::-1], fillvalue=1)
    return z.is_complex() or W.is_complex() or any(a == 1 < b for a, b in sizes)


def _functions(*names: str) -> dict[Any, str]:
    """Map all of torch's functions and methods of these names, in place or not, to the names."""
    found = {}
    for name in names:
        for owner in (F, torch, T, torch.special):
            for spelled in (name, f"{name}_"):
                function = getattr(owner, spelled, None)
                if function is not None:
                    found[function] = name
    return found


ACTIVATION_FUNCTIONS: dict[Any, str | None] = {
    **_functions(
        *("celu", "elu", "gelu", "hardshrink", "hardsigmoid", "hardswish", "hardtanh"),
        *("leaky_relu", "logsigmoid", "mish", "relu", "relu6", "selu", "sigmoid", "silu"),
        *("softplus", "softshrink", "softsign", "tanh", "tanhshrink", "threshold"),
    ),
    torch.special.expit: "sigmoid",
}
"""Activations, with the keys of their differences. Examples show others."""

IN_PLACE_AT = {
    F.relu: 1, F.relu6: 1, F.silu: 1, F.mish: 1, F.hardswish: 1, F.hardsigmoid: 1, F.selu: 1,
    F.elu: 2, F.celu: 2, F.leaky_relu: 2, F.hardtanh: 3, F.threshold: 3,
}  # fmt: skip
"""The index of `inplace` among the arguments of an activation."""

DIFFERENCES: dict[Any, str | None] = {
    **ACTIVATION_FUNCTIONS,
    **_functions(
        *("exp", "exp2", "sinh", "cosh", "erf", "log", "log2", "log10", "log1p", "logit"),
        *("square", "sqrt", "rsqrt", "reciprocal", "pow", "sin", "cos", "tan", "atan", "asin"),
        *("acos", "asinh", "acosh", "atanh", "absolute"),
    ),
    **dict.fromkeys((torch.abs, T.abs, T.abs_, T.__abs__), "absolute"),
    **dict.fromkeys((torch.clamp, T.clamp, T.clamp_, torch.clip, T.clip, T.clip_), "hardtanh"),
    **dict.fromkeys((torch.expm1, T.expm1, T.expm1_, torch.special.expm1), "exp"),
    **dict.fromkeys((torch.arctan, T.arctan), "atan"),
    **dict.fromkeys((torch.arcsin, T.arcsin), "asin"),
    **dict.fromkeys((torch.arccos, T.arccos), "acos"),
    **dict.fromkeys((torch.arcsinh, T.arcsinh), "asinh"),
    **dict.fromkeys((torch.arccosh, T.arccosh), "acosh"),
    **dict.fromkeys((torch.arctanh, T.arctanh), "atanh"),
    torch.special.ndtr: "normal",
    T.__pow__: "pow",
}
"""Elementwise functions, with the keys of their differences in `lra.differences.FORMS`."""


def register_activation(*activations: Any, surrogate: Surrogate | None = None) -> None:
    """Register activations: z = phi(h) of h's shape, elementwise or not.

    Errors then cross these by the rule's crossing, with their own forward as phi. Not needed for
    elementwise modules without parameters or for elementwise functions of torch, which `convert`
    recognises. If a module class has a method `difference(self, h, delta, xp)`, it is used for
    phi(h) - phi(h - delta).

    Args:
        *activations: subclasses of torch.nn.Module whose forward takes one tensor and is not
            random; subclasses of torch.autograd.Function, such as steps with a surrogate gradient;
            custom operators (`torch.library`). Register a Function before its `apply` is stored
            elsewhere: `act = Spike.apply` keeps the unregistered one.
        surrogate: a function that targets are taken through at these activations, instead of the
            rule's own surrogate.

    Raises:
        OptionError: for anything else, or anything but a surrogate.

    >>> class Scaled(nn.Module):  # has a parameter
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.scale = nn.Parameter(torch.ones(()))
    ...     def forward(self, h):
    ...         return torch.tanh(self.scale * h)
    >>> lra.register_activation(Scaled)
    >>> net = nn.Sequential(nn.Linear(4, 8), Scaled(), nn.Linear(8, 3))
    >>> lra.coverage(lra.convert(net, lra.LRAE())).activations
    {'Scaled': 1}
    """
    for each in activations:
        is_class = isinstance(each, type) and issubclass(each, (nn.Module, torch.autograd.Function))
        if not (is_class or is_operator(each)):
            raise OptionError(
                "register_activation: expected subclasses of torch.nn.Module or "
                f"torch.autograd.Function, or custom operators, got {each!r}"
            )
    if surrogate is not None and not isinstance(surrogate, Surrogate):
        raise OptionError(
            "register_activation: surrogate must be one such as lra.crossing.TanhSurrogate(), "
            f"got {surrogate!r}"
        )
    for each in activations:
        keys: list[Any] = [each]
        if is_operator(each):
            keys = overloads(each)
            ACTIVATION_FUNCTIONS.update(dict.fromkeys(keys))
        elif issubclass(each, nn.Module):
            ACTIVATIONS.setdefault(each, None)
        else:
            keys = [visible_apply(each)]
            ACTIVATION_FUNCTIONS.update(dict.fromkeys(keys))
        for key in keys:
            SURROGATES.pop(key, None)
            if surrogate is not None:
                SURROGATES[key] = surrogate


_NAMESPACES = ("aten", "prim", "prims")


def is_operator(function: Any) -> bool:
    """Return whether a function is a custom operator, and none of torch's own."""
    if isinstance(function, CustomOpDef):
        return True
    if isinstance(function, OpOverload):
        return function.namespace not in _NAMESPACES
    is_packet = isinstance(function, OpOverloadPacket)
    return is_packet and function._qualified_op_name.partition("::")[0] not in _NAMESPACES


def overloads(operator: Any) -> list[Any]:
    """List a custom operator in all forms in which it can be called."""
    if isinstance(operator, CustomOpDef):
        operator = operator._opoverload
    packet = operator.overloadpacket if isinstance(operator, OpOverload) else operator
    return [packet, *(getattr(packet, name) for name in packet.overloads())]


def register_weight_layer(
    cls: type[nn.Module], product: Product | None = None, *, black_box: bool = False
) -> None:
    """Register a module class as a weight layer: h = f(layer, z, W, b), linear in z and in W.

    Errors then cross these modules as d = the adjoint of f in z, taken at E. Products in a module's
    own code are found by `convert(..., example=)` without this; a registered class needs no example
    and its forward is not intercepted.

    A black box (a device, a driver, a simulator) is only ever run, without autograd. Its h is near
    z W^T + b, or near a convolution, with noise and limits of its own. Then d = e E, dW = e^T z and
    db = sum e, or the convolution's adjoints. A mirror sends noise through the module in eval mode,
    so that E follows the weights as they act. Rules that use W itself as feedback
    (`lra.Backprop()`, sign symmetry) read the parameter's values.

    Args:
        cls: a subclass of torch.nn.Module with a parameter `weight`, W, and a parameter `bias`, b,
            or None. A black box may have other parameters, such as a range of its inputs. They get
            no gradient. Its forward takes z alone.
        product: the function f of the layer, z, W and b. b is None without a bias, and where noise
            runs through the layer to draw feedback weights. It reads no other trainable tensor.
            `lra.inits.FanIn` takes W's first dimension as the units.
        black_box: whether the layer can only be run. z is then (..., in), and W is (out, in). In a
            convolution z is (batch, in, ...), W is (out, in / groups, ...), and the module has
            attributes `stride` and `padding` as torch.nn.Conv2d does; `dilation` and `groups` if
            they are not 1.

    Raises:
        OptionError: for anything but such a class with either a product or black_box=True.

    >>> class Transposed(nn.Module):
    ...     def __init__(self, inputs, units):
    ...         super().__init__()
    ...         self.weight = nn.Parameter(torch.randn(inputs, units))
    ...         self.bias = nn.Parameter(torch.zeros(units))
    ...     def forward(self, z):
    ...         return z @ self.weight + self.bias
    >>> lra.register_weight_layer(
    ...     Transposed, lambda layer, z, W, b: z @ W if b is None else z @ W + b
    ... )
    >>> net = nn.Sequential(Transposed(4, 8), nn.Tanh(), Transposed(8, 3))
    >>> lra.coverage(lra.convert(net, lra.LRAE())).weights
    {'Transposed': 67}
    """
    if not (isinstance(cls, type) and issubclass(cls, nn.Module)):
        raise OptionError(
            f"register_weight_layer: expected a subclass of torch.nn.Module, got {cls!r}"
        )
    name = cls.__name__
    if black_box and product is not None:
        raise OptionError(
            f"register_weight_layer: a black box {name} runs its own forward; leave out the "
            "product, or leave out black_box=True"
        )
    if not (black_box or callable(product)):
        raise OptionError(
            f"register_weight_layer: expected a function of (layer, z, W, b), got {product!r}; "
            "for a layer that can only be run use black_box=True"
        )
    if cls in WEIGHT_LAYERS and WEIGHT_LAYERS[cls].built_in:
        raise OptionError(f"register_weight_layer: {name} is a weight layer already")
    WEIGHT_LAYERS[cls] = WeightLayer(product, black_box)


def recognise_simulators(model: nn.Module) -> None:
    """Register the classes of `SIMULATORS` that a model has as black boxes; import nothing."""
    for cls in {type(module) for module in model.modules()} - WEIGHT_LAYERS.keys():
        if f"{cls.__module__}.{cls.__qualname__}" in SIMULATORS:
            WEIGHT_LAYERS[cls] = WeightLayer(black_box=True, simulator=True)

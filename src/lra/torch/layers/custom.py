"""Weight layers of users' own, by the product that they compute."""

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lra.errors import ConversionError, OptionError, RuleError
from lra.torch.black_box import run_only
from lra.torch.layers.base import LocalWeights, local_class
from lra.torch.layers.linear import LinearMap
from lra.torch.layers.state import Run
from lra.torch.ops.ops import BilinearMap, Gradients

Product = Callable[[Any, Tensor, Tensor, Tensor | None], Tensor]

PRODUCTS: dict[type[nn.Module], Product | None] = {}
"""What `weights` was told; None for what can only be run."""


@dataclass(frozen=True)
class _Adjoint:
    """h = f(layer, z, W, b), whose adjoints are f's own."""

    layer: nn.Module
    product: Product

    def forward(self, z: Tensor, W: Tensor, b: Tensor | None) -> Tensor:
        """Give h."""
        return self.product(self.layer, z, W, b)

    def backward(self, e: Tensor, z: Tensor, E: Tensor, needs: tuple[bool, ...]) -> Gradients:
        """Give d, dW and db by one vector-Jacobian product at (z, E)."""
        bias = self.layer.bias
        b = bias.detach().to(E.dtype) if isinstance(bias, Tensor) else None

        def f(z: Tensor, E: Tensor, *b: Tensor) -> Tensor:
            return self.product(self.layer, z, E, *(b or (None,)))

        given = (z, E) if b is None else (z, E, b)
        found = (*torch.func.vjp(f, *given)[1](e), None)
        return tuple(g if needed else None for g, needed in zip(found, needs, strict=False))


class LocalCustom(LocalWeights):
    """A weight layer of a class that `weights` names."""

    checked = False

    @staticmethod
    def product_of(layer: Any) -> Any:
        """Give the product that was named, with the shape of an input that it takes."""
        product = PRODUCTS[getattr(type(layer), "plain", type(layer))]
        assert product is not None
        W = layer.weight.detach()

        def f(x: Tensor, W: Tensor) -> Tensor:
            return product(layer, x, W, None)

        for inputs in dict.fromkeys(reversed(W.shape)):
            with contextlib.suppress(RuntimeError, ValueError, IndexError):
                f(W.new_zeros(1, inputs), W)
                return Run(f, (inputs,))
        return None  # one that reads more than vectors: by the rows of its weight

    def operation(self) -> BilinearMap:
        """Give the product that was named for the class."""
        product = PRODUCTS.get(self.plain)
        if product is None:
            raise RuleError(
                f"layer {self._lra.path!r} is a {self.plain.__name__}, which has to be named in "
                f"this process too: lra.register_weight_layer({self.plain.__name__}, product)"
            )
        return _Adjoint(self, product)

    @torch.no_grad()
    def _check(self, z: Tensor) -> None:
        h = self.plain.forward(self, z)
        named = self.operation().forward(z, self.weight, self.bias)
        if named.shape != h.shape or not torch.allclose(named, h, rtol=1e-3, atol=1e-5):
            raise RuleError(
                f"layer {self._lra.path!r}: the product named in lra.register_weight_layer({self.plain.__name__},"
                " product) gives another h than the layer's own forward"
            )
        self.checked = True

    def forward(self, input: Tensor) -> Tensor:
        """Give h = f(layer, z, W, b)."""
        if not torch.is_grad_enabled():
            return self.plain.forward(self, input)  # type: ignore[no-any-return]
        if not (self.checked or torch.compiler.is_compiling()):
            self._check(input)
        self.check_input(input, 1)
        return self.run(input) if self.follows_rule else self.plain.forward(self, input)

    def restore(self) -> None:
        """Become the plain class again, and drop what the conversion added."""
        vars(self).pop("checked", None)
        super().restore()


@dataclass(frozen=True)
class _Opaque(LinearMap):
    """h = the layer's own forward of z, which is only run; the adjoints are those of z W^T + b."""

    layer: "LocalBlackBox"

    def forward(self, z: Tensor, W: Tensor, b: Tensor | None) -> Tensor:
        """Give h of shape (..., out)."""
        h = run_only(self.layer.run_plain, z, "")  # no error comes here
        wanted = (*z.shape[:-1], len(W))
        if W.dim() != 2 or h.shape != wanted or z.shape[-1:] != W.shape[1:]:
            raise RuleError(
                f"layer {self.layer._lra.path!r} ({self.layer.plain.__name__}) made "
                f"{tuple(h.shape)} of {tuple(z.shape)} with a weight of {tuple(W.shape)}; a layer "
                "that can only be run makes (..., out) of (..., in) with a weight of (out, in)"
            )
        return h


def _run(plain: type[nn.Module], layer: nn.Module, z: Tensor) -> Tensor:
    h = plain.forward(layer, z)
    if not isinstance(h, Tensor):
        raise RuleError(f"the forward of a {plain.__name__} gave {type(h).__name__}, no tensor")
    return h


class LocalBlackBox(LocalWeights):
    """A weight layer of a class that `weights` names as one that can only be run.

    Unlike others it never leaves an error to autograd, which would find nothing here: not under
    `Transpose`, nor where it sees the raw input.
    """

    @staticmethod
    def product_of(layer: Any) -> Any:
        """Give the layer as it is run on vectors."""
        plain, shape = getattr(type(layer), "plain", type(layer)), tuple(layer.weight.shape)
        if len(shape) != 2:
            raise ConversionError(
                f"convert: the weight of a {plain.__name__} is {shape}; a layer that can only be "
                "run has one of (out, in): write it for patches as rows (torch.nn.functional.unfold"
                "), or name its product in lra.register_weight_layer(cls, product)"
            )

        def f(x: Tensor, W: Tensor) -> Tensor:
            return _run(plain, layer, x).to(x)

        return Run(f, shape[1:], opaque=True)

    def run_plain(self, z: Tensor) -> Tensor:
        """Run the plain forward."""
        return _run(self.plain, self, z)

    def operation(self) -> BilinearMap:
        """Give the layer's own forward."""
        return _Opaque(self)

    def forward(self, input: Tensor) -> Tensor:
        """Give h by the layer's own forward."""
        if not torch.is_grad_enabled():
            return self.run_plain(input)
        self.check_input(input, 1)
        return self.run(input)


def weights(cls: type[nn.Module], product: Product | None = None, *, opaque: bool = False) -> None:
    """Say that modules of a class are weight layers: h = f(layer, z, W, b), linear in z and in W.

    Errors then cross them as d = the adjoint of f in z, taken at E. What a module's own code
    multiplies is found by `convert(..., example=)` without this; named, it needs no example, and
    its forward is not followed function by function.

    Of an opaque layer (a device, a driver, a simulator in NumPy) only the module's own forward is
    ever run, without autograd: h about z W^T + b, with noise, mismatch and limits of its own. Then
    d = e E, dW = e^T z, db = sum e, and a mirror fires noise through that forward, so that E tells
    of the weights as they act. Rules that send errors down through W itself (`lra.Backprop()`, sign
    symmetry) take the parameter's values for what the device does.

    Args:
        cls: a subclass of torch.nn.Module with a parameter `weight`, W, and one `bias`, b, or None
            for it, no other, and a forward that takes z alone.
        product: the function f of the layer, z, W and b (None where there is none); it reads no
            other tensor that learns. `lra.inits.FanIn` takes W's first dimension for the units.
        opaque: whether the layer can only be run; then without a product, z is (..., in), and W is
            (out, in).

    Raises:
        OptionError: for anything but such a class and either a function or opaque=True.

    Example:
        lra.register_weight_layer(Conv1D, lambda layer, z, W, b: z @ W + b)
        lra.register_weight_layer(Crossbar, opaque=True)
    """
    if not (isinstance(cls, type) and issubclass(cls, nn.Module)):
        raise OptionError(f"weights: expected a subclass of torch.nn.Module, got {cls!r}")
    if opaque and product is not None:
        raise OptionError(
            f"weights: an opaque {cls.__name__} runs its own forward; give it no product, or "
            "leave out opaque=True"
        )
    if not (opaque or callable(product)):
        raise OptionError(
            f"weights: expected a function of (layer, z, W, b), got {product!r}; for a layer that "
            "can only be run say opaque=True"
        )
    from lra.torch.layers import WEIGHT_LAYERS

    if cls in WEIGHT_LAYERS and cls not in PRODUCTS:
        raise OptionError(f"weights: {cls.__name__} is known already")
    PRODUCTS[cls] = product
    WEIGHT_LAYERS[cls] = local_class(LocalBlackBox if opaque else LocalCustom, cls)  # type: ignore[assignment]

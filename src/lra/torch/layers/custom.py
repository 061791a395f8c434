"""Weight layers that users registered: by the product that they compute, or as black boxes."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lra.errors import ConversionError, RuleError
from lra.torch.black_box import run_only
from lra.torch.layers.base import LocalWeights
from lra.torch.layers.conv import ConvMap
from lra.torch.layers.linear import LinearMap
from lra.torch.layers.sampler import Run
from lra.torch.layers.tracing import Proxy, as_leaf
from lra.torch.ops.ops import BilinearMap, Gradients
from lra.torch.registry import WEIGHT_LAYERS, Product


@dataclass(frozen=True)
class CustomMap:
    """h = f(layer, z, W, b), with adjoints by autograd."""

    layer: nn.Module
    product: Product

    def forward(self, z: Tensor, W: Tensor, b: Tensor | None) -> Tensor:
        """Compute h."""
        return self.product(self.layer, z, W, b)

    def adjoint(self, e: Tensor, z: Tensor, E: Tensor, needs: tuple[bool, ...]) -> Gradients:
        """Compute d, dW and db by one vector-Jacobian product at (z, E)."""
        bias = self.layer.bias
        b = bias.detach().to(E.dtype) if isinstance(bias, Tensor) else None

        def f(z: Tensor, E: Tensor, *b: Tensor) -> Tensor:
            return self.product(self.layer, z, E, *(b or (None,)))

        given = (z, E) if b is None else (z, E, b)
        found = (*torch.func.vjp(f, *given)[1](e), None)
        return tuple(g if needed else None for g, needed in zip(found, needs, strict=False))


class LocalCustom(LocalWeights):
    """A weight layer of a class registered with its product."""

    checked = False

    @staticmethod
    def product_of(layer: Any) -> Run | None:
        """Return the registered product with the shape of an input that it takes."""
        plain = getattr(type(layer), "plain", type(layer))
        product = WEIGHT_LAYERS[plain].product
        assert product is not None
        W, bias = layer.weight.detach(), layer.bias

        def f(x: Tensor, W: Tensor) -> Tensor:
            b = None if bias is None else W.new_zeros(bias.shape)
            return product(layer, x, W, b)

        for inputs in dict.fromkeys(reversed(W.shape)):
            with contextlib.suppress(RuntimeError, ValueError, IndexError):
                f(W.new_zeros(1, inputs), W)
                return Run(f, (inputs,))
        return None  # it takes no vectors: mirror the rows of its weight

    def map(self) -> BilinearMap:
        """Return the registered product."""
        found = WEIGHT_LAYERS.get(self.plain)
        if found is None or found.product is None:
            name = self.plain.__name__
            raise RuleError(
                f"layer {self._lra.path!r} is a {name}, which is not registered in this process; "
                f"call lra.register_weight_layer({name}, product) here too"
            )
        return CustomMap(self, found.product)

    @torch.no_grad()
    def _check(self, z: Tensor) -> None:
        """Compare the registered product with the layer's own forward."""
        h = self.plain.forward(self, z)
        named = self.map().forward(z, self.weight, self.bias)
        if named.shape != h.shape or not torch.allclose(named, h, rtol=1e-3, atol=1e-5):
            raise RuleError(
                f"layer {self._lra.path!r}: the product registered for {self.plain.__name__} "
                "computes another h than the layer's own forward; register the same function"
            )
        self.checked = True

    def forward(self, input: Tensor) -> Tensor:
        """Compute h = f(layer, z, W, b)."""
        if isinstance(input, Proxy):
            return as_leaf(self, (input,), {})
        if not torch.is_grad_enabled():
            return self.plain.forward(self, input)  # type: ignore[no-any-return]
        if not (self.checked or torch.compiler.is_compiling()):
            self._check(input)
        self.check_input(input, 1)
        if self.follows_rule:
            return self.run(input)
        return self.run_plain(input)

    def restore(self) -> None:
        """Become the plain class again, and drop what the conversion added."""
        vars(self).pop("checked", None)
        super().restore()


@dataclass(frozen=True)
class BlackBoxMap:
    """h by running the layer; the adjoints are those of the product that the layer is near."""

    layer: "LocalBlackBox"
    near: LinearMap | ConvMap

    def forward(self, z: Tensor, W: Tensor, b: Tensor | None) -> Tensor:
        """Compute h of shape (..., out), or (batch, out, ...) in a convolution."""
        h = run_only(self.layer.run_plain, z, "")  # no error comes here
        if h.shape != self._shape(z, W):
            form = "(..., out) for (..., in) with a weight of (out, in)"
            if isinstance(self.near, ConvMap):
                form = f"what {self.near} returns for (batch, in, ...)"
            raise RuleError(
                f"layer {self.layer._lra.path!r} ({self.layer.plain.__name__}) returned "
                f"{tuple(h.shape)} for {tuple(z.shape)} with a weight of {tuple(W.shape)}; a black "
                f"box returns {form}"
            )
        return h

    def _shape(self, z: Tensor, W: Tensor) -> tuple[int, ...] | None:
        """Return the shape of h; None where z does not fit W."""
        if isinstance(self.near, LinearMap):
            return (*z.shape[:-1], len(W)) if z.shape[-1:] == W.shape[1:] else None
        if z.dim() != W.dim() or z.shape[1] != W.shape[1] * self.near.groups:
            return None
        return len(z), len(W), *self.near.positions(z.shape[2:], W.shape[2:])

    def adjoint(self, e: Tensor, z: Tensor, E: Tensor, needs: tuple[bool, ...]) -> Gradients:
        """Compute d, dW and db of the product."""
        return self.near.adjoint(e, z, E, needs)


class LocalBlackBox(LocalWeights):
    """A weight layer of a class registered as a black box.

    It never leaves an error to autograd, which finds nothing here: not under `Transpose`, nor where
    the layer sees the raw input. Its parameters other than weight and bias get no update.
    """

    @property
    def units_last(self) -> bool:  # type: ignore[override]
        """Whether the layer is a matrix, not a convolution."""
        return self.weight.dim() == 2

    @staticmethod
    def product_of(layer: Any) -> Run:
        """Return the layer as it runs on vectors, or on patches."""
        plain, W = getattr(type(layer), "plain", type(layer)), layer.weight.detach()
        near = _near(layer, plain)
        if isinstance(near, LinearMap):
            shape: tuple[int, ...] = tuple(W.shape[1:])
        else:
            shape = (W.shape[1] * near.groups, *near.smallest(W.shape[2:]))

        def f(x: Tensor, W: Tensor) -> Tensor:
            with _evaluating(layer):
                return _run(plain, layer, x).to(x)

        def correlate(h: Tensor, x: Tensor) -> Tensor:
            dW = near.adjoint(h, x, W, (False, True, False))[1]
            assert dW is not None
            return dW

        return Run(f, shape, correlate)

    def run_plain(self, z: Tensor) -> Tensor:
        """Run the plain forward."""
        return _run(self.plain, self, z)

    def map(self) -> BilinearMap:
        """Return the layer's own forward."""
        return BlackBoxMap(self, _near(self, self.plain))

    def forward(self, input: Tensor) -> Tensor:
        """Compute h by the layer's own forward."""
        if isinstance(input, Proxy):
            return as_leaf(self, (input,), {})
        if not torch.is_grad_enabled():
            return self.run_plain(input)
        self.check_input(input, self.weight.dim() - 1)
        return self.run(input)


def _near(layer: Any, plain: type[nn.Module]) -> LinearMap | ConvMap:
    """Return the product that a black box is near: a matrix's, or a convolution's.

    Raises:
        ConversionError: for a weight of another shape, or settings of other convolutions.
    """
    sizes = layer.weight.shape[2:]
    if layer.weight.dim() == 2:
        return LinearMap()
    settings = []
    for name, default in (("stride", 1), ("padding", 0), ("dilation", 1)):
        value = getattr(layer, name, default if name == "dilation" else None)
        value = (value,) * len(sizes) if isinstance(value, int) else value
        settings.append(value if isinstance(value, tuple) and len(value) == len(sizes) else None)
    stride, padding, dilation = settings
    known = 1 <= len(sizes) <= 3 and getattr(layer, "padding_mode", "zeros") == "zeros"
    if not known or stride is None or padding is None or dilation is None:
        raise ConversionError(
            f"convert: the weight of a {plain.__name__} is {tuple(layer.weight.shape)}, and a "
            "black box has one of (out, in), or one of (out, in, ...) and the attributes stride "
            "and padding of a convolution in 1 to 3 dimensions, as numbers or tuples. Write it for "
            "patches as rows (torch.nn.functional.unfold), or register its product with "
            "lra.register_weight_layer(cls, product)"
        )
    return ConvMap(stride, padding, dilation, getattr(layer, "groups", 1))


@contextlib.contextmanager
def _evaluating(layer: nn.Module) -> Iterator[None]:
    """Run a layer in eval mode, where it draws no noise for training and adapts no range."""
    modes = {module: module.training for module in layer.modules()}
    try:
        layer.eval()
        yield
    finally:
        for module, training in modes.items():
            module.training = training


def _run(plain: type[nn.Module], layer: nn.Module, z: Tensor) -> Tensor:
    h = plain.forward(layer, z)
    if not isinstance(h, Tensor):
        raise RuleError(
            f"the forward of a {plain.__name__} returned a {type(h).__name__}; it must return one "
            "tensor"
        )
    return h

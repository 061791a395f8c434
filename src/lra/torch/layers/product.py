"""Weight layers of users' own, by the product that they compute."""

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lra.errors import OptionError, RuleError
from lra.torch.layers.base import LocalWeights, local_class
from lra.torch.places import Gradients, Operation

Product = Callable[[Any, Tensor, Tensor, Tensor | None], Tensor]

PRODUCTS: dict[type[nn.Module], Product] = {}
"""What `weights` was told."""


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


class LocalProduct(LocalWeights):
    """A weight layer of a class that `weights` names."""

    checked = False

    @staticmethod
    def product_of(layer: Any) -> Any:
        """Give the product that was named, with the shape of an input that it takes."""
        product = PRODUCTS[getattr(type(layer), "plain", type(layer))]
        W = layer.weight.detach()

        def f(x: Tensor, W: Tensor) -> Tensor:
            return product(layer, x, W, None)

        for inputs in dict.fromkeys(reversed(W.shape)):
            with contextlib.suppress(RuntimeError, ValueError, IndexError):
                f(W.new_zeros(1, inputs), W)
                return f, (inputs,)
        return None  # one that reads more than vectors: by the rows of its weight

    def operation(self) -> Operation:
        """Give the product that was named for the class."""
        if self.plain not in PRODUCTS:
            raise RuleError(
                f"layer {self._lra.path!r} is a {self.plain.__name__}, which has to be named in "
                f"this process too: lra.weights({self.plain.__name__}, product)"
            )
        return _Adjoint(self, PRODUCTS[self.plain])

    @torch.no_grad()
    def _check(self, z: Tensor) -> None:
        h = self.plain.forward(self, z)
        named = self.operation().forward(z, self.weight, self.bias)
        if named.shape != h.shape or not torch.allclose(named, h, rtol=1e-3, atol=1e-5):
            raise RuleError(
                f"layer {self._lra.path!r}: the product named in lra.weights({self.plain.__name__},"
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


def weights(cls: type[nn.Module], product: Product) -> None:
    """Say that modules of a class are weight layers: h = f(layer, z, W, b), linear in z and in W.

    Errors then cross them as d = the adjoint of f in z, taken at E. What a module's own code
    multiplies is found by `convert(..., example=)` without this; named, it needs no example, and
    its forward is not followed function by function.

    Args:
        cls: a subclass of torch.nn.Module with a parameter `weight`, W, perhaps one `bias`, b, no
            other, and a forward that takes z alone.
        product: the function f of the layer, z, W and b (None where there is none); it reads no
            other tensor that learns. `lra.FanIn` takes W's first dimension for the units.

    Raises:
        OptionError: for anything but such a class and a function.

    Example:
        lra.weights(Conv1D, lambda layer, z, W, b: z @ W + b)
    """
    if not (isinstance(cls, type) and issubclass(cls, nn.Module)):
        raise OptionError(f"weights: expected a subclass of torch.nn.Module, got {cls!r}")
    if not callable(product):
        raise OptionError(f"weights: expected a function of (layer, z, W, b), got {product!r}")
    from lra.torch.layers import WEIGHTS

    if cls in WEIGHTS and cls not in PRODUCTS:
        raise OptionError(f"weights: {cls.__name__} is known already")
    PRODUCTS[cls] = product
    WEIGHTS[cls] = local_class(LocalProduct, cls)  # type: ignore[assignment]

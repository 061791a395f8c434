"""The elementwise activations of torch.nn, from one table of their functions."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from lra.crossing import Crossing, LossTerms
from lra.torch.backward import Gradients, Place, cross, send
from lra.torch.layers.base import LocalNonlinearity

Phi = Callable[[Tensor], Tensor]

FUNCTIONS: dict[type[nn.Module], Callable[[Any], Phi]] = {
    nn.CELU: lambda m: partial(F.celu, alpha=m.alpha),
    nn.ELU: lambda m: partial(F.elu, alpha=m.alpha),
    nn.GELU: lambda m: partial(F.gelu, approximate=m.approximate),
    nn.Hardshrink: lambda m: partial(F.hardshrink, lambd=m.lambd),
    nn.Hardsigmoid: lambda m: F.hardsigmoid,
    nn.Hardswish: lambda m: F.hardswish,
    nn.Hardtanh: lambda m: partial(F.hardtanh, min_val=m.min_val, max_val=m.max_val),
    nn.LeakyReLU: lambda m: partial(F.leaky_relu, negative_slope=m.negative_slope),
    nn.LogSigmoid: lambda m: F.logsigmoid,
    nn.Mish: lambda m: F.mish,
    nn.ReLU: lambda m: torch.relu,
    nn.ReLU6: lambda m: F.relu6,
    nn.SELU: lambda m: F.selu,
    nn.SiLU: lambda m: F.silu,
    nn.Sigmoid: lambda m: torch.sigmoid,
    nn.Softplus: lambda m: partial(F.softplus, beta=m.beta, threshold=m.threshold),
    nn.Softshrink: lambda m: partial(F.softshrink, lambd=m.lambd),
    nn.Softsign: lambda m: F.softsign,
    nn.Tanh: lambda m: torch.tanh,
    nn.Tanhshrink: lambda m: F.tanhshrink,
    nn.Threshold: lambda m: partial(F.threshold, threshold=m.threshold, value=m.value),
}
"""For each activation without weights or chance, the function of h that a module computes."""


class LocalActivation(LocalNonlinearity):
    """An activation of `FUNCTIONS` under a rule."""

    fuses: ClassVar[bool] = True
    plain: ClassVar[type[Any]]

    def phi(self) -> Phi:
        """Give the function of h, out of place."""
        return FUNCTIONS[self.plain](self)

    def forward(self, input: Tensor) -> Tensor:
        """Give z = phi(h); an in-place module overwrites h with it, as the plain one does."""
        place, _ = self.place()
        if not self.in_place:
            return send((place,), input)
        return input.copy_(send((place,), input.clone()))

    @property
    def in_place(self) -> bool:
        """Whether the module overwrites its input."""
        return bool(getattr(self, "inplace", False))


def _local(plain: type[nn.Module]) -> type[LocalActivation]:
    body = {
        "plain": plain,
        "__doc__": f"torch.nn.{plain.__name__} under a rule.",
        "__module__": __name__,
    }
    return type(f"Local{plain.__name__}", (LocalActivation, plain), body)


ACTIVATIONS: dict[type[nn.Module], type[LocalActivation]] = {
    plain: _local(plain) for plain in FUNCTIONS
}
globals().update({local.__name__: local for local in ACTIVATIONS.values()})  # pickle finds them


@dataclass(frozen=True)
class _Slopes:
    """z = h where h >= 0 and a h below: PReLU's place, whose slopes a are learned."""

    crossing: Crossing
    terms: LossTerms | float
    parameters = 1

    def forward(self, x: Tensor, *parameters: Any) -> Tensor:
        return F.prelu(x, parameters[0])

    def keep(self, x: Tensor, out: Tensor, *parameters: Any) -> tuple[Tensor, ...]:
        return x, out, parameters[0]

    def backward(
        self, kept: tuple[Tensor, ...], error: Tensor, needs: tuple[bool, ...]
    ) -> Gradients:
        h, z, a = kept

        def phi(v: Tensor) -> Tensor:
            return F.prelu(v, a.to(v.dtype))

        e = cross(phi, self.crossing, self.terms, h, z, error) if needs[0] else None
        if not needs[1]:
            return e, None
        da = error * h.clamp(max=0)
        channels = 1 if h.dim() > 1 else 0
        others = [i for i in range(h.dim()) if a.numel() == 1 or i != channels]
        return e, da.sum(others).reshape(a.shape)


class LocalPReLU(LocalNonlinearity, nn.PReLU):
    """torch.nn.PReLU under a rule; its slopes take the gradient of the error that arrives."""

    plain: ClassVar[type[Any]] = nn.PReLU

    def place(self) -> tuple[Place, tuple[Tensor | None, ...]]:
        """Give z = max(0, h) + a min(0, h)."""
        return _Slopes(self.rule.crossing, self.loss_terms), (self.weight,)

    def forward(self, input: Tensor) -> Tensor:
        """Give z = max(0, h) + a min(0, h)."""
        place, slopes = self.place()
        return send((place,), input, *slopes)


@dataclass(frozen=True)
class _DrawnSlopes:
    """RReLU's place: the target is taken through the slopes that were drawn going forward."""

    lower: float
    upper: float
    training: bool
    crossing: Crossing
    terms: LossTerms | float
    parameters = 0

    def forward(self, x: Tensor, *parameters: Any) -> Tensor:
        return F.rrelu(x, self.lower, self.upper, self.training)

    def keep(self, x: Tensor, out: Tensor, *parameters: Any) -> tuple[Tensor, ...]:
        return x, out

    def backward(
        self, kept: tuple[Tensor, ...], error: Tensor, needs: tuple[bool, ...]
    ) -> Gradients:
        h, z = kept
        slope = torch.where(h < 0, z / h, (self.lower + self.upper) / 2)

        def phi(v: Tensor) -> Tensor:
            return torch.where(v < 0, slope.to(v.dtype) * v, v)

        return (cross(phi, self.crossing, self.terms, h, z, error),)


class LocalRReLU(LocalNonlinearity, nn.RReLU):
    """torch.nn.RReLU under a rule."""

    plain: ClassVar[type[Any]] = nn.RReLU

    def place(self) -> tuple[Place, tuple[Tensor | None, ...]]:
        """Give z = h above zero, and a random slope times h below."""
        drawn = self.training, self.rule.crossing, self.loss_terms
        return _DrawnSlopes(self.lower, self.upper, *drawn), ()

    def forward(self, input: Tensor) -> Tensor:
        """Give z = h above zero, and a random slope times h below."""
        z = send((self.place()[0],), input.clone() if self.inplace else input)
        return input.copy_(z) if self.inplace else z

"""Fast exact differences for eager float32 steps on a CPU, out of torch's own fused kernels.

Closed forms cost many small kernels in eager mode. These forms need two to six, and are as exact
where |delta| is moderate, which one pass over delta checks. Otherwise the closed form is used.
They write into tensors of their own where they can: for large ones, new memory costs more than
the arithmetic.
`python benchmarks/differences.py` measures both.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from lra.differences import Phi
from lra.torch.ops.ops import transforming

_aten = torch.ops.aten

_NEAR = 0.08
"""Up to this |D|, D coth(D) = 1 + D^2 / 3 to 1e-6."""

_MEDIUM = 1.2
"""Up to this |D|, `_COTH` is D coth(D) to 2e-7."""

_COTH = (1.0, 0.333329407, -0.0221936341, 0.00205176883, -0.000152414248)
"""The coefficients of D coth(D) in D^2 (`python benchmarks/differences.py --fit`)."""

_GAUSS = (
    (0.004, ((0.5, 1.0),)),
    (0.12, ((0.5 - 0.5 / 3**0.5, 0.5), (0.5 + 0.5 / 3**0.5, 0.5))),
    (0.4, ((0.5 - 0.5 * 0.6**0.5, 5 / 18), (0.5, 4 / 9), (0.5 + 0.5 * 0.6**0.5, 5 / 18))),
)
"""The largest |D| and the nodes and weights of Gauss's quadrature over [h - D, h]."""


class FastForm(Protocol):
    """A fast form of a difference. It returns None where |delta| is too large for it."""

    def difference(self, h: Tensor, delta: Tensor, z: Tensor | None) -> Tensor | None:
        """Compute phi(h) - phi(h - delta); delta may be overwritten."""

    def centred(self, h: Tensor, m: Tensor, z: Tensor | None) -> Tensor | None:
        """Compute (phi(h + m) - phi(h - m)) / 2; m may be overwritten."""


@dataclass(frozen=True)
class EagerPhi(Phi):
    """An activation with a fast form for eager steps.

    Attributes:
        fast: the fast form, or None.
    """

    fast: FastForm | None = None

    def difference(self, h: Any, delta: Any, xp: Any, z: Any = None) -> Any:
        """Compute f(h) - f(h - delta), by the fast form where it applies."""
        if self.fast is not None and _applies(h):
            found = self.fast.difference(h, delta, z)
            if found is not None:
                return found
        return super().difference(h, delta, xp, z)

    def centred(self, h: Any, m: Any, xp: Any, z: Any = None, far: bool = False) -> Any:
        """Compute (f(h + m) - f(h - m)) / 2, by the fast form where it applies."""
        if self.fast is not None and _applies(h):
            found = self.fast.centred(h, m, z)
            if found is not None:
                return found
        return super().centred(h, m, xp, z, far)


def _applies(h: Any) -> bool:
    """Return whether h is a plain float32 tensor on a CPU, in eager mode."""
    return (
        not torch.compiler.is_compiling()
        and type(h) is Tensor
        and h.dtype is torch.float32
        and h.is_cpu
        and h.numel() > 0
        and not transforming()
    )


def _largest(delta: Tensor) -> float:
    low, high = torch.aminmax(delta)
    return max(-float(low), float(high))


@functools.cache
def _number(value: float) -> Tensor:
    """Return a number as a tensor, which torch's kernels take faster than a Python float."""
    return torch.tensor(value, dtype=torch.float32)


def _coth(D: Tensor, largest: float) -> Tensor:
    """Compute D coth(D)."""
    if largest <= _NEAR:
        return torch.addcmul(_number(1.0), D, D, value=1 / 3)
    *lower, last = _COTH
    u = D * D
    total = torch.add(_number(lower[-1]), u, alpha=last)
    for coefficient in reversed(lower[:-1]):
        total = torch.addcmul(_number(coefficient), total, u, out=total)
    return total


def _slope_tanh(D: Tensor, z: Tensor) -> Tensor:
    """Compute D (1 - z^2) in place."""
    return _aten.tanh_backward.grad_input(D, z, grad_input=D)  # type: ignore[no-any-return]


class Tanh:
    """tanh: with t = tanh(D), t (1 - z^2) / (1 - z t) = D (1 - z^2) / (D coth(D) - z D)."""

    def difference(self, h: Tensor, delta: Tensor, z: Tensor | None) -> Tensor | None:
        """Compute tanh(h) - tanh(h - delta)."""
        largest = _largest(delta)
        if not largest <= _MEDIUM:
            return None
        z = torch.tanh(h) if z is None else z
        if largest <= _NEAR:  # D coth(D) - z D = 1 - D (z - D / 3)
            bottom = torch.sub(z, delta, alpha=1 / 3)
            torch.addcmul(_number(1.0), delta, bottom, value=-1.0, out=bottom)
        else:
            bottom = _coth(delta, largest).addcmul_(delta, z, value=-1.0)
        return _slope_tanh(delta, z).div_(bottom)

    def centred(self, h: Tensor, m: Tensor, z: Tensor | None) -> Tensor | None:
        """Compute (tanh(h + m) - tanh(h - m)) / 2 = t (1 - z^2) / (1 - z^2 t^2), t = tanh(m)."""
        largest = _largest(m)
        if not largest <= _MEDIUM:
            return None
        z = torch.tanh(h) if z is None else z
        c = _coth(m, largest)  # t = m / c
        top = _slope_tanh(m * c, z)
        m.mul_(z)
        return top.div_(c.mul_(c).addcmul_(m, m, value=-1.0))


class ReLU:
    """ReLU: min(D + z - h, z)."""

    def difference(self, h: Tensor, delta: Tensor, z: Tensor | None) -> Tensor:
        """Compute relu(h) - relu(h - delta)."""
        z = torch.relu(h) if z is None else z
        delta.add_(torch.sub(z, h))  # z - h is 0 or -h, without rounding
        return torch.minimum(delta, z, out=delta)

    def centred(self, h: Tensor, m: Tensor, z: Tensor | None) -> Tensor:
        """Compute (relu(h + m) - relu(h - m)) / 2."""
        return self.difference(h + m, m.mul_(_number(2.0)), None).mul_(_number(0.5))


@dataclass(frozen=True)
class BySlope:
    """A smooth activation: D times the mean slope over [h - D, h], by Gauss's quadrature.

    Attributes:
        kernel: torch's backward kernel (D, h) -> D phi'(h), which may write over h.
    """

    kernel: Callable[..., Tensor]

    def difference(self, h: Tensor, delta: Tensor, z: Tensor | None) -> Tensor | None:
        """Compute phi(h) - phi(h - delta)."""
        return self._integrate(h, delta, 1.0, 0.0)

    def centred(self, h: Tensor, m: Tensor, z: Tensor | None) -> Tensor | None:
        """Compute (phi(h + m) - phi(h - m)) / 2."""
        return self._integrate(h, m, 2.0, 1.0)

    def _integrate(self, h: Tensor, D: Tensor, length: float, above: float) -> Tensor | None:
        """Compute D times the mean slope over [h + above D - length D, h + above D]."""
        largest = length * _largest(D)
        for reach, nodes in _GAUSS:
            if largest <= reach:
                mean: Tensor | None = None
                share = 0.0
                for at, weight in nodes:
                    part = self.kernel(D, torch.add(h, D, alpha=above - length * at))
                    share += weight
                    mean = part if mean is None else mean.lerp_(part, weight / share)
                return mean
        return None


def _in_place(kernel: Any, D: Tensor, h: Tensor, **settings: Any) -> Tensor:
    """Run a backward kernel that writes over h."""
    return kernel.grad_input(D, h, grad_input=h, **settings)  # type: ignore[no-any-return]


FAST: dict[str, Callable[..., FastForm]] = {
    "tanh": Tanh,
    "relu": ReLU,
    "silu": lambda: BySlope(functools.partial(_in_place, _aten.silu_backward)),
    "mish": lambda: BySlope(_aten.mish_backward),  # which has no form in place
    "gelu": lambda approximate="none": BySlope(
        functools.partial(_in_place, _aten.gelu_backward, approximate=approximate)
    ),
}
"""The fast forms by the keys of `lra.differences.FORMS`; each takes the closed form's settings."""

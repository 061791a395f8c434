"""The elementwise activations of torch.nn, and units of other libraries, found by trying them."""

import copy
import functools
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lra.crossing import Crossing, Surrogate, TargetDifference
from lra.errors import OptionError
from lra.loss_terms import LossTerms
from lra.torch.activations import Bernoulli, Unit
from lra.torch.black_box import BlackBox
from lra.torch.layers.base import Local, local_class
from lra.torch.ops.ops import (
    ActivationOp,
    Gradients,
    Op,
    ParametricActivationOp,
    SavedActivationOp,
    activation_error,
)
from lra.torch.ops.autograd import apply_activation, apply_ops
from lra.torch.swift import quick

KNOWN: tuple[type[nn.Module], ...] = (
    *(nn.CELU, nn.ELU, nn.GELU, nn.Hardshrink, nn.Hardsigmoid, nn.Hardswish, nn.Hardtanh),
    *(nn.LeakyReLU, nn.LogSigmoid, nn.Mish, nn.PReLU, nn.ReLU, nn.ReLU6, nn.SELU, nn.SiLU),
    *(nn.Sigmoid, nn.Softplus, nn.Softshrink, nn.Softsign, nn.Tanh, nn.Tanhshrink, nn.Threshold),
)
"""The activations of torch.nn that are functions of h alone."""


class LocalActivation(Local):
    """A unit z = phi(h) of h's shape, which errors cross by the rule's crossing axis.

    phi is the plain class's own forward. Parameters of the unit's own take the gradient of the
    error that arrives.
    """

    @property
    def crossing(self) -> Crossing:
        """The rule's crossing, through the surrogate that was named for the class, if one was."""
        crossing, through = self.rule.crossing, _THROUGH.get(self.plain)
        if self._lra.flat and through is None:
            return crossing.at_steps()
        if through is None or not isinstance(crossing, TargetDifference):
            return crossing
        return replace(crossing, surrogate=through)

    @property
    def loss_terms(self) -> LossTerms | float:
        """N, the number of terms that the loss is a mean over, or how to count them."""
        return self._lra.terms

    @property
    def fuses(self) -> bool:  # type: ignore[override]
        """Whether a Sequential may run it with its neighbours: where h is all that phi takes."""
        return not (self._parameters or self._modules or isinstance(self, Bernoulli))

    @property
    def in_place(self) -> bool:
        """Whether the module overwrites its input."""
        return bool(getattr(self, "inplace", False))

    def phi(self, h: Tensor) -> Tensor:
        """Run the plain forward, out of place."""
        z: Tensor = self.plain.forward(self, h.clone() if self.in_place else h)
        return z

    def op(self) -> tuple[Op, tuple[Tensor | None, ...]]:
        """Give z = phi(h)."""
        kind = SavedActivationOp if isinstance(self, BlackBox) else ActivationOp
        forms = quick(self.plain, self)
        return kind(self.phi, self.crossing, self.loss_terms, None, *forms), ()

    def forward(self, input: Tensor) -> Tensor:
        """Give z = phi(h); an in-place module overwrites h with it, as the plain one does."""
        if not torch.is_grad_enabled():
            return self.plain.forward(self, input)  # type: ignore[no-any-return]
        if isinstance(self, BlackBox):
            return apply_ops((self.op()[0],), input)
        if isinstance(self, Bernoulli):
            mean = ParametricActivationOp(torch.sigmoid, self.crossing, self.loss_terms)
            return apply_ops((mean,), input, self.evaluate(input.detach()))
        if self.fuses:
            phi = functools.partial(self.plain.forward, self)
            forms = quick(self.plain, self)
            return apply_activation(
                phi, self.crossing, self.loss_terms, input, self.in_place, *forms
            )
        # Autograd finds the parameters' gradients; the error at h is the rule's.
        h = input.clone() if self.in_place else input
        taught = ParametricActivationOp(self.phi, self.crossing, self.loss_terms)
        z = apply_ops((taught,), h, self.plain.forward(self, h.detach()))
        return input.copy_(z) if self.in_place else z

    def _describe(self) -> str:
        return f"crossing={self.crossing}"


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

    def save(
        self, x: Tensor, out: Tensor, output_escapes: bool, *parameters: Any
    ) -> tuple[Tensor, ...]:
        return x, torch.where(
            x < 0, out / x, (self.lower + self.upper) / 2
        )  # others may change out

    def phi(self, h: Tensor) -> Tensor:
        """Give z at the mean slope."""
        return F.rrelu(h, self.lower, self.upper, False)

    def backward(
        self, saved: tuple[Tensor, ...], error: Tensor, needs: tuple[bool, ...]
    ) -> Gradients:
        h, slope = saved

        def phi(v: Tensor) -> Tensor:
            return torch.where(v < 0, slope.to(v.dtype) * v, v)

        return (activation_error(ActivationOp(phi, self.crossing, self.terms), error, h),)


class LocalRReLU(LocalActivation, nn.RReLU):
    """torch.nn.RReLU under a rule."""

    plain = nn.RReLU

    def op(self) -> tuple[Op, tuple[Tensor | None, ...]]:
        """Give z = h above zero, and a random slope times h below."""
        drawn = self.training, self.crossing, self.loss_terms
        return _DrawnSlopes(self.lower, self.upper, *drawn), ()

    def forward(self, input: Tensor) -> Tensor:
        """Give z = h above zero, and a random slope times h below."""
        z = apply_ops((self.op()[0],), input.clone() if self.inplace else input)
        return input.copy_(z) if self.inplace else z


ACTIVATIONS: dict[type[nn.Module], type[Local]] = {
    **{plain: local_class(LocalActivation, plain) for plain in KNOWN},
    nn.RReLU: LocalRReLU,
}
"""The units by class, and what each becomes."""


_THROUGH: dict[type[nn.Module], Surrogate] = {}


def unit(*classes: type[nn.Module], through: Surrogate | None = None) -> None:
    """Say that modules of these classes are units: z = phi(h) of h's shape, elementwise or not.

    Errors then cross them by the rule's crossing, with phi their own forward, run once more on the
    target. A module without parameters that treats each number by itself is found to be a unit
    without this.

    Args:
        *classes: subclasses of torch.nn.Module whose forward takes one tensor and draws nothing at
            random.
        through: a surrogate that rules with targets take them through at these units, in place of
            the rule's own.

    Raises:
        OptionError: for anything but such a class, or a surrogate.
    """
    for cls in classes:
        if not (isinstance(cls, type) and issubclass(cls, nn.Module)):
            raise OptionError(f"unit: expected subclasses of torch.nn.Module, got {cls!r}")
    if through is not None and not isinstance(through, Surrogate):
        raise OptionError(
            f"unit: through must be a surrogate such as lra.crossing.TanhSurrogate(), got {through!r}"
        )
    for cls in classes:
        _THROUGH.pop(cls, None)
        if through is not None:
            _THROUGH[cls] = through
        ACTIVATIONS.setdefault(cls, local_class(LocalActivation, cls))


def is_activation(module: nn.Module) -> bool:
    """Tell by trying whether a module without weights treats each number by itself, and bends it.

    It is run on a few numbers, in other orders and added up: what is elementwise commutes with the
    order, what is linear with sums. The library's own need no trial.
    """
    if isinstance(module, Unit):
        return True
    if type(module).__module__.startswith("torch.") or next(module.children(), None) is not None:
        return False
    if next(module.parameters(), None) is not None or next(module.buffers(), None) is not None:
        return False
    try:
        with torch.no_grad(), torch.random.fork_rng([]), torch.device("cpu"):
            return _bends(copy.deepcopy(module))
    except Exception:  # it wants other shapes, more inputs, ...: no unit that can be found so
        return False


def is_step_function(module: nn.Module) -> bool:
    """Tell by trying whether a unit is flat but for steps: sign, a quantiser, a staircase."""
    if isinstance(module, Unit):
        return module.flat
    if type(module).__module__.startswith("torch."):
        return False
    try:
        with torch.no_grad(), torch.random.fork_rng([]), torch.device("cpu"):
            h = torch.linspace(-3.1, 4.3, 384).reshape(4, 8, 12)
            phi = copy.deepcopy(module).cpu().float()
            z, beside = phi(h.clone()), phi(h + 1e-4)
            return bool((z == beside).double().mean() > 0.95) and bool((z != z.flatten()[0]).any())
    except Exception:  # it wants other shapes, ...: nothing can be told so
        return False


def _bends(module: nn.Module) -> bool:
    h = torch.linspace(-3.1, 4.3, 48).reshape(2, 4, 6)
    order = torch.arange(47, -1, -1)

    def phi(v: Tensor) -> Tensor:
        out: Tensor = module(v.clone())
        return out

    def close(a: Tensor, b: Tensor) -> bool:
        return bool(torch.allclose(a, b, rtol=1e-4, atol=1e-5))

    z = phi(h)
    if not isinstance(z, Tensor) or z.shape != h.shape or not torch.equal(phi(h), z):
        return False
    turned = phi(h.flatten()[order].reshape(h.shape)).flatten()[order].reshape(h.shape)
    raised = h.clone()
    raised[0, 0, 0] += 5
    elsewhere = phi(raised)
    elsewhere[0, 0, 0] = z[0, 0, 0]
    if not (close(turned, z) and close(elsewhere, z)):
        return False
    zero = phi(torch.zeros_like(h))
    linear = all(close(phi(a * h) - zero, a * (z - zero)) for a in (-1.0, 0.5, 2.0))
    return not linear

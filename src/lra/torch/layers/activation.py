"""Activations converted by class: torch's, registered ones, and those recognised numerically."""

import copy
import functools
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lra.crossing import Crossing, TargetDifference
from lra.loss_terms import LossTerms
from lra.torch.activations import Activation, Bernoulli, BlackBox
from lra.torch.layers.base import Local, local_class
from lra.torch.ops.autograd import apply_activation, apply_ops
from lra.torch.ops.ops import (
    ActivationOp,
    Gradients,
    Op,
    ParametricActivationOp,
    SavedActivationOp,
    activation_error,
)
from lra.torch.phi import leaky_phi, phi_of_module, sigmoid_phi
from lra.torch.registry import SURROGATES


class LocalActivation(Local):
    """An activation z = phi(h) of h's shape, which errors cross by the rule's crossing axis.

    phi is the plain class's own forward. The module's own parameters get the gradient of the error
    that arrives.
    """

    @property
    def crossing(self) -> Crossing:
        """The rule's crossing, with the surrogate registered for the class, if there is one."""
        crossing, surrogate = self.rule.crossing, SURROGATES.get(self.plain)
        if self._lra.flat and surrogate is None:
            return crossing.at_steps()
        if surrogate is None or not isinstance(crossing, TargetDifference):
            return crossing
        return replace(crossing, surrogate=surrogate)

    @property
    def fuses(self) -> bool:  # type: ignore[override]
        """Whether a Sequential can run it with its neighbours: where h is phi's only input."""
        return not (self._parameters or self._modules or isinstance(self, Bernoulli))

    @property
    def in_place(self) -> bool:
        """Whether the module overwrites its input."""
        return bool(getattr(self, "inplace", False))

    def evaluate_plain(self, h: Tensor) -> Tensor:
        """Compute z = phi(h) by the plain forward, out of place."""
        z: Tensor = self.plain.forward(self, h.clone() if self.in_place else h)
        return z

    def op(self) -> tuple[Op, tuple[Tensor | None, ...]]:
        """Return the activation as an op."""
        kind = SavedActivationOp if isinstance(self, BlackBox) else ActivationOp
        phi = phi_of_module(self, self.plain, self.evaluate_plain)
        return kind(phi, self.crossing, self._lra.terms), ()

    def forward(self, input: Tensor) -> Tensor:
        """Compute z = phi(h); an in-place module overwrites h with it, as the plain one does."""
        if not torch.is_grad_enabled():
            return self.plain.forward(self, input)  # type: ignore[no-any-return]
        crossing, terms = self.crossing, self._lra.terms
        if isinstance(self, BlackBox):
            return apply_ops((self.op()[0],), input)
        if isinstance(self, Bernoulli):
            mean = ParametricActivationOp(sigmoid_phi(), crossing, terms)
            return apply_ops((mean,), input, self.evaluate(input.detach()))
        phi = phi_of_module(self, self.plain, self.evaluate_plain)
        if self.fuses:
            in_place = functools.partial(self.plain.forward, self) if self.in_place else None
            return apply_activation(phi, crossing, terms, input, in_place)
        # Autograd computes the parameters' gradients, the rule the error at h.
        h = input.clone() if self.in_place else input
        op = ParametricActivationOp(phi, crossing, terms)
        z = apply_ops((op,), h, self.plain.forward(self, h.detach()))
        return input.copy_(z) if self.in_place else z

    def _describe(self) -> str:
        return f"crossing={self.crossing}"


@dataclass(frozen=True)
class _DrawnSlopes:
    """RReLU's op: targets are taken with the slopes that were drawn in the forward pass."""

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
        return x, torch.where(x < 0, out / x, (self.lower + self.upper) / 2)

    def phi(self, h: Tensor) -> Tensor:
        """Compute z with the mean slope, for a diagnosis."""
        return F.rrelu(h, self.lower, self.upper, False)

    def backward(
        self, saved: tuple[Tensor, ...], error: Tensor, needs: tuple[bool, ...]
    ) -> Gradients:
        h, slope = saved

        def f(v: Tensor) -> Tensor:
            return torch.where(v < 0, slope.to(v.dtype) * v, v)

        phi = leaky_phi(f, slope if error.dtype == slope.dtype else slope.float())
        return (activation_error(ActivationOp(phi, self.crossing, self.terms), error, h),)


class LocalRReLU(LocalActivation, nn.RReLU):
    """torch.nn.RReLU under a rule."""

    plain = nn.RReLU

    def op(self) -> tuple[Op, tuple[Tensor | None, ...]]:
        """Return z = h above zero, and a random slope times h below."""
        return _DrawnSlopes(
            self.lower, self.upper, self.training, self.crossing, self._lra.terms
        ), ()

    def forward(self, input: Tensor) -> Tensor:
        """Compute z = h above zero, and a random slope times h below."""
        if not torch.is_grad_enabled():
            return nn.RReLU.forward(self, input)
        z = apply_ops((self.op()[0],), input.clone() if self.inplace else input)
        return input.copy_(z) if self.inplace else z


def local_activation(cls: type[nn.Module]) -> type[Local]:
    """Return the class that an activation module becomes."""
    return LocalRReLU if cls is nn.RReLU else local_class(LocalActivation, cls)


def is_activation(module: nn.Module) -> bool:
    """Return whether a parameter-free module is elementwise and nonlinear (tested numerically).

    The test runs a copy on a few numbers, in another order and scaled. Elementwise functions
    commute with the order, linear ones with the scale.
    """
    if isinstance(module, Activation):
        return True
    if type(module).__module__.startswith("torch.") or next(module.children(), None) is not None:
        return False
    if next(module.parameters(), None) is not None or next(module.buffers(), None) is not None:
        return False
    try:
        with torch.no_grad(), torch.random.fork_rng([]), torch.device("cpu"):
            return _is_nonlinear(copy.deepcopy(module))
    except Exception:  # it takes other shapes or more inputs, so it is no activation of this kind
        return False


def is_step_function(module: nn.Module) -> bool:
    """Return whether an activation is flat between steps, such as sign (tested numerically)."""
    if isinstance(module, Activation):
        return module.flat
    if type(module).__module__.startswith("torch."):
        return False
    try:
        with torch.no_grad(), torch.random.fork_rng([]), torch.device("cpu"):
            h = torch.linspace(-3.1, 4.3, 384).reshape(4, 8, 12)
            phi = copy.deepcopy(module).cpu().float()
            z, beside = phi(h.clone()), phi(h + 1e-4)
            return bool((z == beside).double().mean() > 0.95) and bool((z != z.flatten()[0]).any())
    except Exception:  # it takes other shapes, so the test says nothing
        return False


def _is_nonlinear(module: nn.Module) -> bool:
    """Return whether a module is elementwise, deterministic and not affine."""
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
    permuted = phi(h.flatten()[order].reshape(h.shape)).flatten()[order].reshape(h.shape)
    raised = h.clone()
    raised[0, 0, 0] += 5
    elsewhere = phi(raised)
    elsewhere[0, 0, 0] = z[0, 0, 0]
    if not (close(permuted, z) and close(elsewhere, z)):
        return False
    zero = phi(torch.zeros_like(h))
    affine = all(close(phi(a * h) - zero, a * (z - zero)) for a in (-1.0, 0.5, 2.0))
    return not affine

"""Places: where a rule has a say in how an error crosses, a weight layer or a nonlinearity.

A place computes forward what the plain layer computes, keeps what its backward needs, and sends an
error across.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from lra.crossing import Crossing, TargetDifference
from lra.feedback import Feedback, Stored
from lra.loss_terms import LossTerms, count_terms
from lra.torch.swift import Over, Swift

Gradients = tuple[Tensor | None, ...]


class BilinearMap(Protocol):
    """A weight layer's arithmetic: linear in its input and in its weight."""

    def forward(self, z: Tensor, W: Tensor, b: Tensor | None) -> Tensor:
        """Give h from z."""

    def backward(self, e: Tensor, z: Tensor, E: Tensor, needs: tuple[bool, ...]) -> Gradients:
        """Give (d, dW, db) with d = e E, dW = e^T z and db = sum e; None where not needed."""


class Op(Protocol):
    """Where a rule has a say in how an error crosses."""

    @property
    def parameters(self) -> int:
        """How many tensors `forward` takes after its input."""

    def forward(self, x: Tensor, *parameters: Any) -> Tensor:
        """Compute what the plain layer computes."""

    def save(
        self, x: Tensor, out: Tensor, output_escapes: bool, *parameters: Any
    ) -> tuple[Tensor, ...]:
        """Give the tensors that `backward` needs; where `seen`, others may overwrite `out`."""

    def backward(
        self, saved: tuple[Tensor, ...], error: Tensor, needs: tuple[bool, ...]
    ) -> Gradients:
        """Give the error at the input, then the updates of the parameters."""


class Recompute:
    """How an activity z came about: z = phi(h). Who needs z on the way back may keep h for it.

    A unit keeps h anyway; so a weight layer above it need not keep z, but has it computed anew,
    once for all who need it, as the unit itself does.
    """

    def __init__(self, phi: Callable[[Tensor], Tensor], h: Tensor) -> None:
        self.phi = phi
        self.h: Tensor | None = h
        self.version = 0
        self.again: Tensor | None = None

    def mark(self, z: Tensor) -> Tensor:
        """Say of an activity where it came from, as long as nobody changes it."""
        self.version = z._version
        z._lra_origin = self  # type: ignore[attr-defined]
        return z

    @staticmethod
    def of(z: Tensor) -> "Origin | None":
        """Give where an activity came from, if that is known and still holds."""
        if torch.compiler.is_compiling() or transforming():
            return None
        origin = getattr(z, "_lra_origin", None)
        holds = origin is not None and origin.h is not None and origin.version == z._version
        return origin if holds else None

    def z(self, h: Tensor) -> Tensor:
        """Compute z anew from the h that was kept."""
        if self.again is None:
            self.again = self.phi(h)
        return self.again

    def drop(self) -> tuple[Tensor, ...]:
        """Let go of what nobody needs any more; give z, if it was computed anew."""
        again, self.again, self.h = self.again, None, None
        return () if again is None else (again,)


@dataclass(frozen=True)
class WeightOp:
    """h = z W^T + b forward; d = e E, dW = e^T z and dE by the feedback axis backward.

    Attributes:
        operation: the layer's arithmetic.
        feedback: the feedback axis.
        origin: how z came about, where that is known.
        offset: whether what is given as E is what E differs from W by.
    """

    operation: BilinearMap
    feedback: Feedback
    origin: Recompute | None = None
    offset: bool = False
    parameters = 3  # W, b, E

    def forward(self, x: Tensor, *parameters: Any) -> Tensor:
        """Give h from z and (W, b, E)."""
        W, b, _ = parameters
        return self.operation.forward(x, W, b)

    def save(
        self, x: Tensor, out: Tensor, output_escapes: bool, *parameters: Any
    ) -> tuple[Tensor, ...]:
        """Keep z, or the h that it came from, and E; W itself only where E is made of it."""
        h = None if self.origin is None else self.origin.h
        W, _, E = parameters
        return (x if h is None else h, E, W) if self.offset else (x if h is None else h, E)

    def backward(
        self, saved: tuple[Tensor, ...], error: Tensor, needs: tuple[bool, ...]
    ) -> Gradients:
        """Give d, dW, db, dE."""
        z, E = saved[:2]
        need_d, need_W, need_b, need_E = needs
        if self.origin is not None and (need_W or need_E):
            z = self.origin.z(z)
        learned = need_E and self.feedback.stored is Stored.LEARNED
        if self.offset and need_d:
            E = saved[2] + E
        if z.dtype != error.dtype or E.dtype != error.dtype:
            # Under autocast the layer computed in the error's type; its master weights are wider.
            z, E = z.to(error.dtype), E.to(error.dtype)
        d, dW, db = self.operation.backward(error, z, E, (need_d, need_W or learned, need_b))
        dE = self.feedback.update(dW) if learned else None
        return d, dW if need_W else None, db, dE


@dataclass(frozen=True)
class BilinearOp:
    """h = f(tensors), linear in the data and in the weight among them; the adjoints are f's own.

    Attributes:
        f: the product, and the addition of a bias where there is one.
        feedback: the feedback axis.
        at: which of the tensors is the weight.
        tensors: how many there are; E comes after them.
    """

    f: Callable[..., Tensor]
    feedback: Feedback
    at: int
    tensors: int

    @property
    def parameters(self) -> int:
        """All tensors but the first, and E."""
        return self.tensors

    def forward(self, x: Tensor, *parameters: Any) -> Tensor:
        """Give h from the tensors and E."""
        return self.f(x, *parameters[:-1])

    def save(
        self, x: Tensor, out: Tensor, output_escapes: bool, *parameters: Any
    ) -> tuple[Tensor, ...]:
        """Keep the tensors, with E in the place of W."""
        *given, E = x, *parameters
        given[self.at] = E
        return (*given, given[0].new_empty(0))  # one more than the plain function would keep

    def backward(
        self, saved: tuple[Tensor, ...], error: Tensor, needs: tuple[bool, ...]
    ) -> Gradients:
        """Give the tensors' gradients by f's adjoint at E, and dE."""
        *given, _ = saved
        out, adjoint = torch.func.vjp(self.f, *given)[:2]
        gradients = list(adjoint(error.to(out.dtype)))
        learned = needs[-1] and self.feedback.stored is Stored.LEARNED
        dE = self.feedback.update(gradients[self.at]) if learned else None
        found = zip(gradients, needs[:-1], strict=True)
        return (*(g if needed else None for g, needed in found), dE)


@dataclass(frozen=True)
class ActivationOp:
    """z = phi(h) forward; the crossing axis's error backward.

    Attributes:
        phi: the nonlinearity.
        crossing: the crossing axis.
        terms: N, or how to count it.
        origin: where others look for h.
        over: phi written over its argument, where there is that.
        swift: what phi is a multiple of, for targets on a CPU, where torch's phi is slow.
    """

    phi: Callable[[Tensor], Tensor]
    crossing: Crossing
    terms: LossTerms | float
    origin: Recompute | None = None
    over: Over | None = None
    swift: Swift | None = None
    parameters = 0

    def forward(self, x: Tensor, *parameters: Any) -> Tensor:
        """Give z from h."""
        return self.phi(x)

    def save(
        self, x: Tensor, out: Tensor, output_escapes: bool, *parameters: Any
    ) -> tuple[Tensor, ...]:
        """Keep h, and z where nobody else sees it; else z is computed anew."""
        return (x,) if output_escapes else (x, out)

    def backward(
        self, saved: tuple[Tensor, ...], error: Tensor, needs: tuple[bool, ...]
    ) -> Gradients:
        """Give the error at h."""
        return (self.send(saved, error),)

    def send(self, saved: tuple[Tensor, ...], error: Tensor, spare: bool = False) -> Tensor:
        """Give the error at h; the one that arrives may be written over where it is spare."""
        h, *z = saved
        if self.origin is not None:
            z += self.origin.drop()
        return activation_error(self, error, h, z[0] if z else None, spare)


@dataclass(frozen=True)
class SavedActivationOp(ActivationOp):
    """z = phi(h) of a unit whose evaluation costs or is noisy: z is kept, not computed anew."""

    def save(
        self, x: Tensor, out: Tensor, output_escapes: bool, *parameters: Any
    ) -> tuple[Tensor, ...]:
        """Keep h and z."""
        return x, out.clone() if output_escapes else out


@dataclass(frozen=True)
class ParametricActivationOp:
    """z that was computed from h elsewhere: d goes on to it, and so to a unit's own parameters.

    Attributes:
        phi: what targets are taken of: the unit, or the mean of one that draws z at random.
        crossing: the crossing axis.
        terms: N, or how to count it.
    """

    phi: Callable[[Tensor], Tensor]
    crossing: Crossing
    terms: LossTerms | float
    over = swift = None
    parameters = 1

    def forward(self, x: Tensor, *parameters: Any) -> Tensor:
        """Give that z."""
        z: Tensor = parameters[0]
        return z.view_as(z)

    def save(
        self, x: Tensor, out: Tensor, output_escapes: bool, *parameters: Any
    ) -> tuple[Tensor, ...]:
        """Keep h."""
        return (x,)

    def backward(
        self, saved: tuple[Tensor, ...], error: Tensor, needs: tuple[bool, ...]
    ) -> Gradients:
        """Give the error at h, and d at z."""
        (h,) = saved
        e = activation_error(self, error, h) if needs[0] else None
        return e, error if needs[1] else None


def activation_error(
    unit: ActivationOp | ParametricActivationOp,
    d: Tensor,
    h: Tensor,
    z: Tensor | None = None,
    spare: bool = False,
) -> Tensor:
    """Send an error d at z = phi(h) across phi, in float32 at least; where d is spare, over it.

    The difference of an output and its target is far smaller than either: in 16 bits it would be
    mostly rounding, so there both are computed from h in 32.
    """
    n = count_terms(unit.terms, h.shape)
    given = d.dtype
    if h.dtype in (torch.float16, torch.bfloat16):
        h, d, z = h.float(), d.float(), None
    crossing, compiling = unit.crossing, torch.compiler.is_compiling()
    here = type(h) is Tensor and not transforming()  # elsewhere not all can be written over
    spare = spare and here and not compiling and d.shape == h.shape and d.dtype == h.dtype
    e: Tensor
    if type(crossing) is not TargetDifference:
        e = crossing.error(unit.phi, h, unit.phi(h) if z is None else z, d, n, torch)
    elif unit.swift is not None and h.device.type == "cpu" and not compiling:
        f, f_over, scale = unit.swift
        z = f(h) if crossing.compares_output else None
        e = crossing.error(f_over, h, z, d, n, torch, scale, True, spare)
    else:
        z = unit.phi(h) if z is None and crossing.compares_output else z
        over = unit.over if here else None
        e = crossing.error(over or unit.phi, h, z, d, n, torch, 1.0, over is not None, spare)
    return e if e.dtype == given else e.to(given)


def transforming() -> bool:
    """Tell whether a torch.func transform (grad, vjp, ...) is running."""
    return bool(torch._C._are_functorch_transforms_active())


def needs_error(x: Tensor) -> bool:
    """Tell whether an error comes back to a tensor; under `torch.vmap` those inside tell it."""
    while transforming() and torch._C._functorch.is_batchedtensor(x):
        x = torch._C._functorch.get_unwrapped(x)
    return x.requires_grad

"""Ops: the parts of a forward pass whose backward pass a rule replaces.

There are weight layers and activations. An op computes forward exactly what the plain module
computes, saves what its backward pass needs, and sends an error across itself.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from lra.crossing import Crossing, TargetDifference
from lra.differences import Phi
from lra.feedback import Feedback, Stored
from lra.loss_terms import LossTerms, count_terms

Gradients = tuple[Tensor | None, ...]


class BilinearMap(Protocol):
    """The arithmetic of a weight layer, linear in its input and in its weight."""

    def forward(self, z: Tensor, W: Tensor, b: Tensor | None) -> Tensor:
        """Compute h from z."""

    def adjoint(self, e: Tensor, z: Tensor, E: Tensor, needs: tuple[bool, ...]) -> Gradients:
        """Compute d = e E, dW = e^T z and db = sum e; None for what is not needed."""


class Op(Protocol):
    """A part of a forward pass whose backward pass a rule replaces."""

    @property
    def parameters(self) -> int:
        """The number of tensors that `forward` takes after its input."""

    def forward(self, x: Tensor, *parameters: Any) -> Tensor:
        """Compute what the plain module computes."""

    def save(
        self, x: Tensor, out: Tensor, output_escapes: bool, *parameters: Any
    ) -> tuple[Tensor, ...]:
        """Return the tensors to save for `backward`.

        Args:
            x: the input.
            out: what `forward` returned.
            output_escapes: whether code outside can overwrite `out` in place.
            *parameters: the other arguments of `forward`.
        """

    def backward(
        self, saved: tuple[Tensor, ...], error: Tensor, needs: tuple[bool, ...]
    ) -> Gradients:
        """Compute the error at the input, then the updates of the parameters."""


class Recompute:
    """A recipe z = phi(h) by which later ops get z back instead of saving it too.

    An activation saves h in any case. The weight layer above it then needs no copy of z: the
    backward pass computes z once, for the layer and for the activation itself.
    """

    def __init__(self, phi: Callable[[Tensor], Tensor], h: Tensor) -> None:
        self.phi = phi
        self.h: Tensor | None = h
        self.version = 0
        self.again: Tensor | None = None

    def mark(self, z: Tensor) -> Tensor:
        """Attach this recipe to z, for as long as z is not changed in place."""
        self.version = z._version
        z._lra_recompute = self  # type: ignore[attr-defined]
        return z

    @staticmethod
    def of(z: Tensor) -> "Recompute | None":
        """Return the recipe of z, if it has one that still holds."""
        if torch.compiler.is_compiling() or transforming():
            return None
        found = getattr(z, "_lra_recompute", None)
        holds = found is not None and found.h is not None and found.version == z._version
        return found if holds else None

    def z(self, h: Tensor) -> Tensor:
        """Compute z from the saved h, once."""
        if self.again is None:
            self.again = self.phi(h)
        return self.again

    def release(self) -> Tensor | None:
        """Free the tensors held, and return z if it was computed."""
        again, self.again, self.h = self.again, None, None
        return again


@dataclass(frozen=True)
class WeightOp:
    """h = z W^T + b forward; d = e E, dW = e^T z, and dE by the feedback axis backward.

    Attributes:
        map: the layer's arithmetic.
        feedback: the feedback axis.
        recompute: how to get z back from an activation's h, where that is known.
        offset: whether the tensor passed as E holds E - W.
    """

    map: BilinearMap
    feedback: Feedback
    recompute: Recompute | None = None
    offset: bool = False
    parameters = 3  # W, b, E

    def forward(self, x: Tensor, *parameters: Any) -> Tensor:
        """Compute h from z and (W, b, E)."""
        W, b, _ = parameters
        return self.map.forward(x, W, b)

    def save(
        self, x: Tensor, out: Tensor, output_escapes: bool, *parameters: Any
    ) -> tuple[Tensor, ...]:
        """Save z, or the h that it is computed from, and E; W only where E is made of it."""
        h = None if self.recompute is None else self.recompute.h
        W, _, E = parameters
        z = x if h is None else h
        return (z, E, W) if self.offset else (z, E)

    def backward(
        self, saved: tuple[Tensor, ...], error: Tensor, needs: tuple[bool, ...]
    ) -> Gradients:
        """Compute d, dW, db, dE."""
        z, E = saved[:2]
        need_d, need_W, need_b, need_E = needs
        if self.recompute is not None and (need_W or need_E):
            z = self.recompute.z(z)
        learned = need_E and self.feedback.stored is Stored.LEARNED
        if self.offset and need_d:
            E = saved[2] + E
        if z.dtype != error.dtype or E.dtype != error.dtype:
            # Under autocast the layer ran in the error's type, and its weights have a wider one.
            z, E = z.to(error.dtype), E.to(error.dtype)
        d, dW, db = self.map.adjoint(error, z, E, (need_d, need_W or learned, need_b))
        dE = self.feedback.update(dW) if learned else None
        return d, dW if need_W else None, db, dE


@dataclass(frozen=True)
class BilinearOp:
    """h = f(tensors), linear in the data and in one weight; the adjoints are autograd's, at E.

    Attributes:
        f: the product, with the addition of a bias where there is one.
        feedback: the feedback axis.
        at: the index of the weight among the tensors.
        tensors: the number of tensors. E comes after them.
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
        """Compute h from the tensors and E."""
        return self.f(x, *parameters[:-1])

    def save(
        self, x: Tensor, out: Tensor, output_escapes: bool, *parameters: Any
    ) -> tuple[Tensor, ...]:
        """Save the tensors, with E instead of W."""
        *given, E = x, *parameters
        given[self.at] = E
        return (*given, given[0].new_empty(0))  # one more than the plain function would save

    def backward(
        self, saved: tuple[Tensor, ...], error: Tensor, needs: tuple[bool, ...]
    ) -> Gradients:
        """Compute the gradients of the tensors by f's adjoint at E, and dE."""
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
        phi: the activation.
        crossing: the crossing axis.
        terms: N, or how to count it.
        recompute: where ops above look for h.
    """

    phi: Phi
    crossing: Crossing
    terms: LossTerms | float
    recompute: Recompute | None = None
    parameters = 0

    def forward(self, x: Tensor, *parameters: Any) -> Tensor:
        """Compute z from h."""
        z: Tensor = self.phi(x)
        return z

    def save(
        self, x: Tensor, out: Tensor, output_escapes: bool, *parameters: Any
    ) -> tuple[Tensor, ...]:
        """Save h, and z unless other code can overwrite it."""
        return (x,) if output_escapes else (x, out)

    def backward(
        self, saved: tuple[Tensor, ...], error: Tensor, needs: tuple[bool, ...]
    ) -> Gradients:
        """Compute the error at h."""
        h, *z = saved
        again = None if self.recompute is None else self.recompute.release()
        return (activation_error(self, error, h, z[0] if z else again),)


@dataclass(frozen=True)
class SavedActivationOp(ActivationOp):
    """z = phi(h) of an activation that is costly or noisy: z is saved, never computed again."""

    def save(
        self, x: Tensor, out: Tensor, output_escapes: bool, *parameters: Any
    ) -> tuple[Tensor, ...]:
        """Save h and z."""
        return x, out.clone() if output_escapes else out


@dataclass(frozen=True)
class ParametricActivationOp:
    """An activation whose z is computed by autograd, so that its own parameters get d.

    Attributes:
        phi: the activation that targets are taken of: the module itself, or the mean of one that
            samples z.
        crossing: the crossing axis.
        terms: N, or how to count it.
    """

    phi: Phi
    crossing: Crossing
    terms: LossTerms | float
    parameters = 1

    def forward(self, x: Tensor, *parameters: Any) -> Tensor:
        """Return the z that was computed."""
        z: Tensor = parameters[0]
        return z.view_as(z)

    def save(
        self, x: Tensor, out: Tensor, output_escapes: bool, *parameters: Any
    ) -> tuple[Tensor, ...]:
        """Save h."""
        return (x,)

    def backward(
        self, saved: tuple[Tensor, ...], error: Tensor, needs: tuple[bool, ...]
    ) -> Gradients:
        """Compute the error at h, and pass d on to z."""
        (h,) = saved
        e = activation_error(self, error, h) if needs[0] else None
        return e, error if needs[1] else None


def activation_error(
    op: ActivationOp | ParametricActivationOp, d: Tensor, h: Tensor, z: Tensor | None = None
) -> Tensor:
    """Compute the error at h from the error d at z = phi(h), in float32 at least.

    A target difference is far smaller than z. In 16 bits it would be mostly rounding error, so it
    is computed from h in 32.

    Args:
        op: the activation.
        d: the error at z, of h's shape.
        h: pre-activations, any shape.
        z: activations, where they are known.
    """
    n, dtype = count_terms(op.terms, h.shape), d.dtype
    if h.dtype in (torch.float16, torch.bfloat16):
        h, d, z = h.float(), d.float(), None
    if z is None and type(op.crossing) is not TargetDifference:
        z = op.phi(h)
    e: Tensor = op.crossing.error(op.phi, h, z, d, n, torch)
    return e if e.dtype == dtype else e.to(dtype)


def transforming() -> bool:
    """Return whether a torch.func transform (grad, vjp, ...) is running."""
    return bool(torch._C._are_functorch_transforms_active())


def physical(x: Tensor) -> Tensor:
    """Return a tensor; under `torch.vmap`, the one behind it, which has the mapped dimension."""
    while transforming() and torch._C._functorch.is_batchedtensor(x):
        x = torch._C._functorch.get_unwrapped(x)
    return x


def needs_error(x: Tensor) -> bool:
    """Return whether the backward pass sends an error to a tensor, also under `torch.vmap`."""
    return physical(x).requires_grad

"""The backward passes that replace backprop's: across an activation, and across a weight layer.

The counterpart of `lra.torch.ops.autograd`. Kernels have Keras's layout, inputs before outputs, and
feedback weights have their kernel's shape.
"""

from dataclasses import dataclass
from typing import Any, Protocol

import keras
from keras import ops

from lra.crossing import Crossing, TargetDifference
from lra.differences import Phi
from lra.feedback import Feedback, Stored
from lra.keras.backend import after_reads, custom_backward, replicas
from lra.loss_terms import LossTerms, count_terms

SIXTEEN_BITS = ("float16", "bfloat16")


class BilinearMap(Protocol):
    """A weight layer's arithmetic: linear in its input and in its kernel."""

    def forward(self, z: Any, W: Any) -> Any:
        """Compute h from z, without the bias."""

    def add_bias(self, h: Any, b: Any) -> Any:
        """Compute h + b."""

    def adjoint(self, e: Any, z: Any, E: Any, needs: tuple[bool, bool]) -> tuple[Any, Any]:
        """Compute (d, dW) with d = e E and dW = e^T z; None where not needed."""

    def bias_update(self, e: Any) -> Any:
        """Compute db, the sum of e over all dimensions but the units."""


@dataclass(frozen=True)
class ActivationOp:
    """z = phi(h) forward; the error of the crossing axis backward.

    Attributes:
        phi: the activation.
        crossing: how an error crosses it.
        loss_terms: the N that the loss is a mean over, or how to count it.
    """

    phi: Phi
    crossing: Crossing
    loss_terms: LossTerms | float

    def error(self, h: Any, z: Any, d: Any) -> Any:
        """Compute the error at h from the error d at z = phi(h), in float32 at least.

        In 16 bits a difference of two outputs would be mostly rounding, so h and d are cast to 32.
        """
        given = keras.backend.standardize_dtype(d.dtype)
        if keras.backend.standardize_dtype(h.dtype) in SIXTEEN_BITS:
            h, d = ops.cast(h, "float32"), ops.cast(d, "float32")
            z = self.phi(h) if self._needs_output else None
        n = count_terms(self.loss_terms, tuple(ops.shape(h)))
        if isinstance(self.loss_terms, LossTerms):
            n = n * replicas()
        if not isinstance(n, int | float):  # a batch size that the graph reads at run time
            n = ops.cast(n, h.dtype)
        e = self.crossing.error(self.phi, h, z, d, n, ops)
        return e if given == keras.backend.standardize_dtype(e.dtype) else ops.cast(e, given)

    @property
    def _needs_output(self) -> bool:
        """Whether the crossing reads z: target differences with a closed form do not."""
        return self.phi.form is None or type(self.crossing).error is not TargetDifference.error


def apply_activation(op: ActivationOp, h: Any) -> Any:
    """Compute phi(h); its backward pass is the crossing axis's."""

    def forward(h: Any) -> tuple[Any, tuple[Any, ...]]:
        z = op.phi(h)
        return z, (h, z)

    def backward(saved: tuple[Any, ...], d: Any, needs: tuple[bool, ...]) -> tuple[Any]:
        h, z = saved
        return (op.error(h, z, d),)

    return custom_backward(forward, backward, h)


def apply_weights(
    bilinear: BilinearMap,
    feedback: Feedback,
    activation: ActivationOp | None,
    x: Any,
    W: Any,
    b: Any | None,
    E: Any | None,
) -> Any:
    """Compute phi(x W + b); errors cross phi by the crossing axis, then the weights through E.

    The layer and its activation are one function: on torch, most of the cost of a small layer is
    the fixed cost of a function.

    Args:
        bilinear: the layer's arithmetic.
        feedback: how E learns.
        activation: the layer's activation; None if the error arrives at h.
        x: the layer's input.
        W: its kernel.
        b: its bias, or None.
        E: feedback weights of W's shape; None to send errors down through W.
    """
    given = [tensor for tensor in (b, E) if tensor is not None]

    def forward(x: Any, W: Any, *rest: Any) -> tuple[Any, tuple[Any, ...]]:
        h = bilinear.forward(x, W)
        if b is not None:
            h = bilinear.add_bias(h, rest[0])
        down = W if E is None else rest[-1]
        if activation is None:
            return h, (x, down)
        z = activation.phi(h)
        return z, (x, down, h, z)

    def backward(saved: tuple[Any, ...], e: Any, needs: tuple[bool, ...]) -> list[Any]:
        z_below, down = saved[:2]
        e = after_reads(e, [W, *given])
        if activation is not None:
            h, z = saved[2:]
            e = activation.error(h, z, e)
        learned = E is not None and feedback.stored is Stored.LEARNED and needs[-1]
        d, dW = bilinear.adjoint(e, z_below, down, (needs[0], needs[1] or learned))
        updates = [d, dW if needs[1] else None]
        if b is not None:
            updates.append(bilinear.bias_update(e) if needs[2] else None)
        if E is not None:
            updates.append(feedback.update(dW) if learned else None)
        return updates

    return custom_backward(forward, backward, x, W, *given)

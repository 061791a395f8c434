"""How an error crosses a place: what runs in the place of backprop's own backward pass.

The twin of `lra.torch.ops.autograd`. Kernels have Keras's layout, inputs before outputs, and feedback
weights have their kernel's.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import keras
from keras import ops

from lra.crossing import Crossing
from lra.feedback import Feedback, Stored
from lra.keras.backend import after, replicas, send
from lra.loss_terms import LossTerms, count_terms

Phi = Callable[[Any], Any]
SIXTEEN_BITS = ("float16", "bfloat16")


class BilinearMap(Protocol):
    """A weight layer's arithmetic: linear in its input and in its kernel."""

    def forward(self, z: Any, W: Any) -> Any:
        """Give h from z."""

    def add_bias(self, h: Any, b: Any) -> Any:
        """Give h + b."""

    def backward(self, e: Any, z: Any, E: Any, needs: tuple[bool, bool]) -> tuple[Any, Any]:
        """Give (d, dW) with d = e E and dW = e^T z; None where not needed."""

    def bias_update(self, e: Any) -> Any:
        """Give db, the sum of e over all but the units."""


@dataclass(frozen=True)
class ActivationOp:
    """z = phi(h) forward; the crossing axis's error backward."""

    phi: Phi
    crossing: Crossing
    terms: LossTerms | float

    def error(self, h: Any, z: Any, d: Any) -> Any:
        """Send an error d at z = phi(h) across phi, in float32 at least.

        The difference of an output and its target is far smaller than either: in 16 bits it would
        be mostly rounding, so there both are computed anew from h in 32.
        """
        given = keras.backend.standardize_dtype(d.dtype)
        if keras.backend.standardize_dtype(h.dtype) in SIXTEEN_BITS:
            h, d = ops.cast(h, "float32"), ops.cast(d, "float32")
            z = self.phi(h)
        n = count_terms(self.terms, tuple(ops.shape(h)))
        if isinstance(self.terms, LossTerms):
            n = n * replicas()
        if not isinstance(n, int | float):  # a batch whose size the graph learns when it runs
            n = ops.cast(n, h.dtype)
        e = self.crossing.error(self.phi, h, z, d, n, ops)
        return e if given == keras.backend.standardize_dtype(e.dtype) else ops.cast(e, given)


def send_nonlinearity(op: ActivationOp, h: Any) -> Any:
    """Give phi(h), with errors coming back across it by the crossing axis."""

    def forward(h: Any) -> tuple[Any, tuple[Any, ...]]:
        z = op.phi(h)
        return z, (h, z)

    def backward(kept: tuple[Any, ...], d: Any, needs: tuple[bool, ...]) -> tuple[Any]:
        h, z = kept
        return (op.error(h, z, d),)

    return send(forward, backward, h)


def send_weights(
    operation: BilinearMap,
    feedback: Feedback,
    nonlinearity: ActivationOp | None,
    x: Any,
    W: Any,
    b: Any | None,
    E: Any | None,
) -> Any:
    """Give phi(x W + b), with errors coming back by the crossing axis and then through E.

    The layer and its nonlinearity are one function, since on torch the cost of a small layer is
    mostly the cost of a function.

    Args:
        operation: the layer's arithmetic.
        feedback: how E learns.
        nonlinearity: what follows the weights, or None where the error arrives at h.
        x: the layer's input.
        W: its kernel.
        b: its bias, or None.
        E: feedback weights of W's shape; or None, where errors go down through W itself.
    """
    given = [tensor for tensor in (b, E) if tensor is not None]

    def forward(x: Any, W: Any, *rest: Any) -> tuple[Any, tuple[Any, ...]]:
        h = operation.forward(x, W)
        if b is not None:
            h = operation.add_bias(h, rest[0])
        down = W if E is None else rest[-1]
        if nonlinearity is None:
            return h, (x, down)
        z = nonlinearity.phi(h)
        return z, (x, down, h, z)

    def backward(kept: tuple[Any, ...], e: Any, needs: tuple[bool, ...]) -> list[Any]:
        z_below, down = kept[:2]
        e = after(e, [W, *given])
        if nonlinearity is not None:
            h, z = kept[2:]
            e = nonlinearity.error(h, z, e)
        learned = E is not None and feedback.stored is Stored.LEARNED and needs[-1]
        d, dW = operation.backward(e, z_below, down, (needs[0], needs[1] or learned))
        updates = [d, dW if needs[1] else None]
        if b is not None:
            updates.append(operation.bias_update(e) if needs[2] else None)
        if E is not None:
            updates.append(feedback.update(dW) if learned else None)
        return updates

    return send(forward, backward, x, W, *given)

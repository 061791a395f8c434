"""The dense layer, over any number of leading dimensions."""

from dataclasses import dataclass
from typing import Any

import keras
from keras import ops

from lra.keras.gradients import BilinearMap
from lra.keras.layers.base import LocalWeights


@dataclass(frozen=True)
class DenseMap:
    """h = z W + b for z of shape (..., in) and W of shape (in, out)."""

    def forward(self, z: Any, W: Any) -> Any:
        """Compute z W of shape (..., out)."""
        return ops.matmul(z, W)

    def add_bias(self, h: Any, b: Any) -> Any:
        """Compute h + b."""
        return ops.add(h, b)

    def adjoint(self, e: Any, z: Any, E: Any, needs: tuple[bool, bool]) -> tuple[Any, Any]:
        """Compute d = e E^T and dW = z^T e, summed over the leading dimensions."""
        d = ops.matmul(e, ops.transpose(E)) if needs[0] else None
        dW = ops.matmul(ops.transpose(_rows(z)), _rows(e)) if needs[1] else None
        return d, dW

    def bias_update(self, e: Any) -> Any:
        """Compute db, the sum of e over the leading dimensions."""
        return ops.sum(_rows(e), axis=0)


def _rows(x: Any) -> Any:
    return x if len(x.shape) == 2 else ops.reshape(x, (-1, x.shape[-1]))


@keras.saving.register_keras_serializable(package="lra")
class LocalDense(LocalWeights, keras.layers.Dense):
    """keras.layers.Dense under a rule."""

    plain = keras.layers.Dense

    def bilinear_map(self) -> BilinearMap:
        """Return z W."""
        return DenseMap()

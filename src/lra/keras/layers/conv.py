"""The convolutions, in one, two and three dimensions."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import keras
from keras import ops

from lra.keras.backend import adjoint
from lra.keras.backward import Operation
from lra.keras.layers.base import LocalWeights


@dataclass(frozen=True)
class ConvOperation:
    """h = z * W + b, with all of a layer's settings.

    Args:
        convolve: the convolution, a function of z and W.
        channels: the axis of the units in what it gives.
    """

    convolve: Callable[[Any, Any], Any]
    channels: int

    def forward(self, z: Any, W: Any) -> Any:
        """Give z * W."""
        return self.convolve(z, W)

    def add_bias(self, h: Any, b: Any) -> Any:
        """Give h + b, the bias along the channels."""
        shape = [1] * len(h.shape)
        shape[self.channels] = -1
        return ops.add(h, ops.reshape(b, shape))

    def backward(self, e: Any, z: Any, E: Any, needs: tuple[bool, bool]) -> tuple[Any, Any]:
        """Give d and dW: a convolution's own adjoint, taken at E where it would be at W."""
        return adjoint(self.convolve, z, E, e, needs)

    def bias_update(self, e: Any) -> Any:
        """Give db = sum e over all but the channels."""
        channels = self.channels % len(e.shape)
        return ops.sum(e, axis=[i for i in range(len(e.shape)) if i != channels])


class _LocalConv(LocalWeights):
    """What the three convolutions share."""

    def operation(self) -> Operation:
        """Give the convolution, padding included."""
        return ConvOperation(self._convolve, -1 if self.data_format == "channels_last" else 1)

    def _convolve(self, z: Any, W: Any) -> Any:
        padding = self.padding
        if padding == "causal":  # Conv1D's own: as many zeros before as the kernel looks back
            z, padding = ops.pad(z, self._compute_causal_padding()), "valid"
        return ops.conv(
            z,
            W,
            strides=list(self.strides),
            padding=padding,
            data_format=self.data_format,
            dilation_rate=self.dilation_rate,
        )


@keras.saving.register_keras_serializable(package="lra")
class LocalConv1D(_LocalConv, keras.layers.Conv1D):
    """keras.layers.Conv1D under a rule."""

    plain = keras.layers.Conv1D


@keras.saving.register_keras_serializable(package="lra")
class LocalConv2D(_LocalConv, keras.layers.Conv2D):
    """keras.layers.Conv2D under a rule."""

    plain = keras.layers.Conv2D


@keras.saving.register_keras_serializable(package="lra")
class LocalConv3D(_LocalConv, keras.layers.Conv3D):
    """keras.layers.Conv3D under a rule."""

    plain = keras.layers.Conv3D

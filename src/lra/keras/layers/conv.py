"""The convolutions in one, two and three dimensions, and the depthwise ones."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import keras
from keras import ops

from lra.keras.backend import adjoint
from lra.keras.gradients import BilinearMap
from lra.keras.layers.base import LocalWeights


@dataclass(frozen=True)
class ConvMap:
    """h = z * W + b, with the layer's settings.

    Attributes:
        convolve: the convolution, a function of z and W.
        channels: the axis of the channels in the output.
    """

    convolve: Callable[[Any, Any], Any]
    channels: int

    def forward(self, z: Any, W: Any) -> Any:
        """Compute z * W."""
        return self.convolve(z, W)

    def add_bias(self, h: Any, b: Any) -> Any:
        """Compute h + b, the bias along the channels."""
        shape = [1] * len(h.shape)
        shape[self.channels] = -1
        return ops.add(h, ops.reshape(b, shape))

    def adjoint(self, e: Any, z: Any, E: Any, needs: tuple[bool, bool]) -> tuple[Any, Any]:
        """Compute d and dW: the convolution's own adjoints, with E instead of W."""
        return adjoint(self.convolve, z, E, e, needs)

    def bias_update(self, e: Any) -> Any:
        """Compute db, the sum of e over all dimensions but the channels."""
        channels = self.channels % len(e.shape)
        return ops.sum(e, axis=[i for i in range(len(e.shape)) if i != channels])


class _LocalConv(LocalWeights):
    """Base of all convolutions."""

    def bilinear_map(self) -> BilinearMap:
        """Return the convolution, including the padding."""
        return ConvMap(self._convolve, -1 if self.data_format == "channels_last" else 1)

    def _convolve(self, z: Any, W: Any) -> Any:
        padding = self.padding
        if padding == "causal":  # of Conv1D: all zeros go before the input
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


class _LocalDepthwiseConv(_LocalConv):
    """Base of the two depthwise convolutions, which convolve each channel by itself."""

    def _convolve(self, z: Any, W: Any) -> Any:
        return ops.depthwise_conv(
            z,
            W,
            strides=self.strides,
            padding=self.padding,
            data_format=self.data_format,
            dilation_rate=self.dilation_rate,
        )

    def _fan_in(self, shape: Any) -> int:
        return math.prod(shape[:-2])


@keras.saving.register_keras_serializable(package="lra")
class LocalDepthwiseConv1D(_LocalDepthwiseConv, keras.layers.DepthwiseConv1D):
    """keras.layers.DepthwiseConv1D under a rule."""

    plain = keras.layers.DepthwiseConv1D


@keras.saving.register_keras_serializable(package="lra")
class LocalDepthwiseConv2D(_LocalDepthwiseConv, keras.layers.DepthwiseConv2D):
    """keras.layers.DepthwiseConv2D under a rule."""

    plain = keras.layers.DepthwiseConv2D

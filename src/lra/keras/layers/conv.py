"""The convolutions, in one, two and three dimensions, and the depthwise ones."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import keras
from keras import ops

from lra.keras.backend import adjoint
from lra.keras.gradients import BilinearMap
from lra.keras.layers.base import FEEDBACK, LocalWeights


@dataclass(frozen=True)
class ConvMap:
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
    """What all convolutions share."""

    def operation(self) -> BilinearMap:
        """Give the convolution, padding included."""
        return ConvMap(self._convolve, -1 if self.data_format == "channels_last" else 1)

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


class _OwnVariables(keras.layers.Layer):
    """Saves kernel and bias alone, as Keras's other weight layers do.

    Its depthwise convolutions would number all that is theirs, the feedback weights among them.
    """

    def save_own_variables(self, store: Any) -> None:
        """Save the plain layer's weights."""
        for number, variable in self._plain_variables().items():
            store[number] = variable

    def load_own_variables(self, store: Any) -> None:
        """Load what `save_own_variables` saved.

        Raises:
            ValueError: where the file has more or fewer weights.
        """
        own = self._plain_variables()
        found = sorted(set(store.keys()) - {FEEDBACK})
        if found != sorted(own):
            raise ValueError(
                f"layer {self.name!r} has {len(own)} weights, the file {len(found)}; "
                "load it into a model built as the one that was saved"
            )
        for number, variable in own.items():
            variable.assign(store[number])

    def _plain_variables(self) -> dict[str, Any]:
        own = [self.kernel] if self.bias is None else [self.kernel, self.bias]
        return {str(i): variable for i, variable in enumerate(own)}


class _LocalDepthwiseConv(_LocalConv, _OwnVariables):
    """What the two depthwise convolutions share: each channel is convolved by itself."""

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

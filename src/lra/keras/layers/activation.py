"""The activation layers of Keras."""

from functools import partial
from typing import Any

import keras
from keras import ops

from lra.crossing import Derivative
from lra.keras.backend import after, send, value_of
from lra.keras.gradients import Phi, send_nonlinearity
from lra.keras.layers.base import Local
from lra.keras.layers.elementwise import crossable


class LocalActivation(Local):
    """An elementwise activation layer that errors cross by the rule's crossing axis."""

    @property
    def crosses(self) -> bool:
        """Whether errors cross this layer by the rule, not by its derivative."""
        return not isinstance(self.rule.crossing, Derivative)

    @property
    def phi(self) -> Phi:
        """The function of h that the plain layer computes, with its settings."""
        return partial(self.plain.call, self)

    def call(self, inputs: Any) -> Any:
        """Give z = phi(h)."""
        if not self.crosses:
            return self.phi(inputs)
        return send_nonlinearity(self.nonlinearity(self.phi), inputs)


@keras.saving.register_keras_serializable(package="lra")
class LocalActivation(LocalActivation, keras.layers.Activation):
    """keras.layers.Activation under a rule; what is not elementwise keeps its derivative."""

    plain = keras.layers.Activation

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._elementwise = crossable(self.activation, self.rule)

    @property
    def crosses(self) -> bool:
        """Whether errors cross this layer by the rule, not by its derivative."""
        return self._elementwise


@keras.saving.register_keras_serializable(package="lra")
class LocalReLU(LocalActivation, keras.layers.ReLU):
    """keras.layers.ReLU under a rule."""

    plain = keras.layers.ReLU


@keras.saving.register_keras_serializable(package="lra")
class LocalLeakyReLU(LocalActivation, keras.layers.LeakyReLU):
    """keras.layers.LeakyReLU under a rule."""

    plain = keras.layers.LeakyReLU


@keras.saving.register_keras_serializable(package="lra")
class LocalELU(LocalActivation, keras.layers.ELU):
    """keras.layers.ELU under a rule."""

    plain = keras.layers.ELU


@keras.saving.register_keras_serializable(package="lra")
class LocalPReLU(LocalActivation, keras.layers.PReLU):
    """keras.layers.PReLU under a rule: the slopes a learn by the error d, as in backprop."""

    plain = keras.layers.PReLU

    def call(self, inputs: Any) -> Any:
        """Give z = h where h >= 0 and a h below."""
        if not self.crosses:
            return self.phi(inputs)

        def forward(h: Any, a: Any) -> tuple[Any, tuple[Any, ...]]:
            z = _prelu(h, a)
            return z, (h, z, a)

        def backward(kept: tuple[Any, ...], d: Any, needs: tuple[bool, ...]) -> tuple[Any, Any]:
            h, z, a = kept
            d = after(d, [a])
            op = self.nonlinearity(lambda v: _prelu(v, ops.cast(a, v.dtype)))
            e = op.error(h, z, d) if needs[0] else None
            return e, self._slopes_update(d * -ops.relu(-h), a) if needs[1] else None

        return send(forward, backward, inputs, value_of(self.alpha))

    def _slopes_update(self, each: Any, a: Any) -> Any:
        shared = [i for i, size in enumerate(a.shape, start=1) if size == 1]
        return ops.reshape(ops.sum(each, axis=[0, *shared]), a.shape)


def _prelu(h: Any, a: Any) -> Any:
    return ops.relu(h) + -a * ops.relu(-h)

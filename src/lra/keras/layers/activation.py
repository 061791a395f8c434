"""The activation layers of Keras."""

from functools import partial
from typing import Any

import keras
from keras import ops

from lra import differences
from lra.crossing import Derivative
from lra.differences import Phi
from lra.keras.backend import after_reads, custom_backward, value_of
from lra.keras.closed_forms import phi_of, phi_of_layer
from lra.keras.gradients import apply_activation
from lra.keras.layers.base import Local
from lra.keras.layers.elementwise import crosses_by_rule, crossing_of


class LocalElementwise(Local):
    """Base of the activation layers, which errors cross by the rule's crossing axis.

    A class of your own inherits from this one and from a Keras layer, and sets `plain` to that
    layer. If it has a method `difference(h, delta, xp)` that computes phi(h) - phi(h - delta), that
    method replaces the subtraction.
    """

    crosses_activation = False
    """Whether errors cross by the rule, not by the derivative; known when the layer is built."""

    def build(self, input_shape: Any) -> None:
        """Find out how errors cross the function, for inputs of this shape."""
        super().build(input_shape)
        self.crosses_activation = not isinstance(self.rule.crossing, Derivative)

    @property
    def phi(self) -> Phi:
        """The function of h that the plain layer computes, with its settings."""
        return phi_of_layer(self, self.plain, partial(self.plain.call, self))

    def call(self, inputs: Any) -> Any:
        """Compute z = phi(h)."""
        if not self.crosses_activation:
            return self.plain.call(self, inputs)
        return self.apply(inputs)

    def apply(self, h: Any) -> Any:
        """Compute z = phi(h); its backward pass is the rule's."""
        return apply_activation(self.activation_op(self.phi), h)


@keras.saving.register_keras_serializable(package="lra")
class LocalActivation(LocalElementwise, keras.layers.Activation):
    """keras.layers.Activation under a rule; a function that mixes elements keeps its derivative."""

    plain = keras.layers.Activation

    def build(self, input_shape: Any) -> None:
        """Find out whether the function is elementwise and nonlinear, and whether it is flat."""
        super().build(input_shape)
        self.crosses_activation = crosses_by_rule(self.activation, self.rule, input_shape)
        if self.crosses_activation:
            self.crossing = crossing_of(phi_of(self.activation), self.rule, input_shape)


@keras.saving.register_keras_serializable(package="lra")
class LocalReLU(LocalElementwise, keras.layers.ReLU):
    """keras.layers.ReLU under a rule."""

    plain = keras.layers.ReLU


@keras.saving.register_keras_serializable(package="lra")
class LocalLeakyReLU(LocalElementwise, keras.layers.LeakyReLU):
    """keras.layers.LeakyReLU under a rule."""

    plain = keras.layers.LeakyReLU


@keras.saving.register_keras_serializable(package="lra")
class LocalELU(LocalElementwise, keras.layers.ELU):
    """keras.layers.ELU under a rule."""

    plain = keras.layers.ELU


@keras.saving.register_keras_serializable(package="lra")
class LocalPReLU(LocalElementwise, keras.layers.PReLU):
    """keras.layers.PReLU under a rule: the slopes a learn by the error d, as in backprop."""

    plain = keras.layers.PReLU

    def apply(self, h: Any) -> Any:
        """Compute z = h where h >= 0, and a h below; its backward pass is the rule's."""

        def forward(h: Any, a: Any) -> tuple[Any, tuple[Any, ...]]:
            z = _prelu(h, a)
            return z, (h, z, a)

        def backward(saved: tuple[Any, ...], d: Any, needs: tuple[bool, ...]) -> tuple[Any, Any]:
            h, z, a = saved
            d = after_reads(d, [a])
            e = self.activation_op(_prelu_phi(a)).error(h, z, d) if needs[0] else None
            return e, self._slopes_update(d * -ops.relu(-h), a) if needs[1] else None

        return custom_backward(forward, backward, h, value_of(self.alpha))

    def _slopes_update(self, each: Any, a: Any) -> Any:
        shared = [i for i, size in enumerate(a.shape, start=1) if size == 1]
        return ops.reshape(ops.sum(each, axis=[0, *shared]), a.shape)


def _prelu(h: Any, a: Any) -> Any:
    return ops.relu(h) + -a * ops.relu(-h)


def _prelu_phi(a: Any) -> Phi:
    """Return PReLU with the slopes a, which are cast to the type of h."""

    def f(h: Any) -> Any:
        return _prelu(h, ops.cast(a, h.dtype))

    def form(h: Any, delta: Any, xp: Any) -> Any:
        return differences.leaky_relu(h, delta, xp, ops.cast(a, h.dtype))

    return Phi(f, form, cheap=True)

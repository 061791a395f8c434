"""The activation layers of Keras."""

from functools import partial
from typing import Any

import keras
from keras import ops

from lra import differences
from lra.crossing import Derivative
from lra.differences import Phi
from lra.keras.backend import after_reads, custom_backward, value_of
from lra.keras.closed_forms import phi_of_layer
from lra.keras.gradients import ActivationOp, apply_activation
from lra.keras.layers.base import Local
from lra.keras.layers.elementwise import crosses_by_rule


class LocalElementwise(Local):
    """Base of the activation layers, which errors cross by the rule's crossing axis.

    A class of your own inherits from this one and from a Keras layer, and sets `plain` to that
    layer. If it has a method `difference(h, delta, xp)` that computes phi(h) - phi(h - delta), that
    method replaces the subtraction.
    """

    def crosses_by_rule(self, shape: Any) -> bool:
        """Return whether errors cross this layer by the rule instead of by its derivative."""
        return not isinstance(self.rule.crossing, Derivative)

    @property
    def phi(self) -> Phi:
        """The function of h that the plain layer computes, with its settings."""
        return phi_of_layer(self, self.plain, partial(self.plain.call, self))

    def call(self, inputs: Any) -> Any:
        """Compute z = phi(h)."""
        shape = inputs.shape
        if not self.crosses_by_rule(shape):
            return self.plain.call(self, inputs)
        return apply_activation(self.activation_op(self.phi, shape), inputs)


@keras.saving.register_keras_serializable(package="lra")
class LocalActivation(LocalElementwise, keras.layers.Activation):
    """keras.layers.Activation under a rule; a function that mixes elements keeps its derivative."""

    plain = keras.layers.Activation
    _crossed: bool | None = None

    def crosses_by_rule(self, shape: Any) -> bool:
        """Return whether the function is elementwise and nonlinear, and crossed by the rule."""
        if self._crossed is None:
            self._crossed = crosses_by_rule(self.activation, self.rule, shape)
        return self._crossed


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

    def call(self, inputs: Any) -> Any:
        """Compute z = h where h >= 0, and a h below."""
        if not self.crosses_by_rule(inputs.shape):
            return self.plain.call(self, inputs)

        def forward(h: Any, a: Any) -> tuple[Any, tuple[Any, ...]]:
            z = _prelu(h, a)
            return z, (h, z, a)

        def backward(saved: tuple[Any, ...], d: Any, needs: tuple[bool, ...]) -> tuple[Any, Any]:
            h, z, a = saved
            d = after_reads(d, [a])
            op = ActivationOp(_prelu_phi(a), self.rule.crossing, self.loss_terms)
            e = op.error(h, z, d) if needs[0] else None
            return e, self._slopes_update(d * -ops.relu(-h), a) if needs[1] else None

        return custom_backward(forward, backward, inputs, value_of(self.alpha))

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

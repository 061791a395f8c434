"""Step functions, which backprop cannot train: rules with targets evaluate them on both sides of h.

Each is a layer, and may be the `activation` of another one. Backprop finds a derivative of zero, or
the derivative of the surrogate that `straight_through` names.
"""

from typing import Any

import keras
from keras import ops

from lra.axis import count, instance
from lra.crossing import Surrogate
from lra.errors import OptionError


class _Step(keras.layers.Layer):
    """Compute z = phi(h), of h's shape: base of these activations.

    Args:
        straight_through: a surrogate s whose derivative backprop uses instead of phi's,
            e = s'(h) d.
        **kwargs: the arguments of a Keras layer.
    """

    def __init__(
        self, straight_through: Surrogate | dict[str, Any] | None = None, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        if isinstance(straight_through, dict):
            straight_through = Surrogate.from_config(straight_through)
        self.straight_through = straight_through
        if straight_through is not None:
            instance(self, "straight_through", Surrogate)

    def evaluate(self, h: Any) -> Any:
        """Compute phi(h)."""
        raise NotImplementedError

    def difference(self, h: Any, delta: Any, xp: Any) -> Any:
        """Compute phi(h) - phi(h - delta), which is exact for steps."""
        return self.evaluate(h) - self.evaluate(h - delta)

    def call(self, inputs: Any) -> Any:
        """Compute z = phi(h)."""
        z = self.evaluate(inputs)
        if self.straight_through is None:
            return z
        s = self.straight_through(inputs, ops)
        return ops.stop_gradient(z) + (s - ops.stop_gradient(s))

    def get_config(self) -> dict[str, Any]:
        """Return the settings as plain data."""
        s = self.straight_through
        config: dict[str, Any] = super().get_config()
        return config | {"straight_through": None if s is None else s.to_config()}


@keras.saving.register_keras_serializable(package="lra")
class Sign(_Step):
    """Compute z = sign(h): 1, -1, and 0 at 0.

    Args:
        straight_through: a surrogate for backprop, usually `lra.crossing.HardTanhSurrogate()`.
        **kwargs: the arguments of a Keras layer.

    Source of the usual surrogate: Hubara et al., Binarized neural networks, NeurIPS 2016.

    >>> layer = lra.keras.activations.Sign()
    >>> keras.ops.convert_to_numpy(layer(np.array([-2.0, 0.0, 0.5], "float32")))
    array([-1.,  0.,  1.], dtype=float32)
    """

    def evaluate(self, h: Any) -> Any:
        """Compute sign(h)."""
        return ops.sign(h)


@keras.saving.register_keras_serializable(package="lra")
class Heaviside(_Step):
    """Compute z = 1 where h > 0, else 0.

    Args:
        straight_through: a surrogate for backprop, such as `lra.crossing.SigmoidSurrogate()`.
        **kwargs: the arguments of a Keras layer.

    >>> layer = lra.keras.activations.Heaviside()
    >>> keras.ops.convert_to_numpy(layer(np.array([-2.0, 0.0, 0.5], "float32")))
    array([0., 0., 1.], dtype=float32)
    """

    def evaluate(self, h: Any) -> Any:
        """Compute 1 or 0."""
        return ops.cast(h > 0, h.dtype)


@keras.saving.register_keras_serializable(package="lra")
class Quantized(_Step):
    """Round z = tanh(h) to the nearest of k levels, evenly spaced in [-1, 1].

    Args:
        k: the number of levels, 2 or more; 2 gives -1 and 1.
        straight_through: a surrogate for backprop, such as `lra.crossing.TanhSurrogate()`.
        **kwargs: the arguments of a Keras layer.

    Raises:
        OptionError: k is below 2.

    >>> layer = lra.keras.activations.Quantized(3)
    >>> keras.ops.convert_to_numpy(layer(np.array([-2.0, 0.2, 0.9], "float32")))
    array([-1.,  0.,  1.], dtype=float32)
    """

    def __init__(
        self,
        k: int,
        straight_through: Surrogate | dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(straight_through, **kwargs)
        self.k = k
        count(self, "k")
        if k < 2:
            raise OptionError(f"Quantized: k must be 2 levels or more, got {k}")

    def evaluate(self, h: Any) -> Any:
        """Compute the level nearest to tanh(h)."""
        steps = self.k - 1
        return ops.round((ops.tanh(h) + 1) * (steps / 2)) * (2 / steps) - 1

    def get_config(self) -> dict[str, Any]:
        """Return the settings as plain data."""
        return super().get_config() | {"k": self.k}

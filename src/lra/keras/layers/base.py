"""What every converted layer shares: its rule, its feedback weights, and how they are saved."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import keras
from keras import ops

from lra.differences import Phi
from lra.feedback import Magnitude, SignSymmetric, Stored, Transpose
from lra.keras.backend import value_of
from lra.keras.closed_forms import phi_of
from lra.keras.gradients import ActivationOp, BilinearMap, apply_weights
from lra.keras.layers.elementwise import crosses_by_rule
from lra.loss_terms import LossTerms, check_terms
from lra.rules import Rule

FEEDBACK = "feedback"
SEED = "seed"
"""The names under which a layer's feedback weights and the state of its draws are saved."""


class Local(keras.layers.Layer):
    """Mixin before a Keras class: the layer keeps its forward pass and gets the rule's backward.

    Args:
        rule: the rule, or its plain data (`rule.to_config()`).
        loss_terms: the N that the loss is a mean over, as in `lra.keras.convert`.
        **kwargs: the arguments of the plain layer.
    """

    plain: ClassVar[type[Any]]
    added: ClassVar[tuple[str, ...]] = ("rule", "loss_terms")
    """The settings that the plain class does not have."""

    def __init__(
        self,
        *args: Any,
        rule: Rule | dict[str, Any],
        loss_terms: LossTerms | str | float = LossTerms.BATCH,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self.rule = Rule.from_config(rule) if isinstance(rule, dict) else rule
        self.loss_terms = check_terms(loss_terms)

    def get_config(self) -> dict[str, Any]:
        """Return the settings as plain data, including the rule."""
        terms = str(self.loss_terms) if isinstance(self.loss_terms, str) else self.loss_terms
        config: dict[str, Any] = super().get_config()
        return config | {"rule": self.rule.to_config(), "loss_terms": terms}

    def plain_config(self) -> dict[str, Any]:
        """Return the settings of the plain layer."""
        return {name: v for name, v in self.get_config().items() if name not in self.added}

    def activation_op(self, phi: Phi) -> ActivationOp:
        """Return phi as an op whose backward pass is the rule's."""
        return ActivationOp(phi, self.rule.crossing, self.loss_terms)


class LocalWeights(Local):
    """A weight layer whose errors go down through feedback weights.

    `feedback` has the shape of `kernel`. It is a trainable weight if the rule learns it and a
    non-trainable one if it is fixed. It is None if the rule stores none, or the layer sees the raw
    input.

    Args:
        sees_input: whether no error has to cross the layer, so that it needs no feedback weights.
        crosses_activation: whether errors cross the layer's own activation by the rule.
        **kwargs: the arguments of the plain layer and of `Local`.
    """

    added = (*Local.added, "sees_input", "crosses_activation")

    def __init__(
        self,
        *args: Any,
        sees_input: bool = False,
        crosses_activation: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self.sees_input = sees_input
        self.crosses_activation = crosses_activation and crosses_by_rule(self.activation, self.rule)
        self.feedback: Any = None
        feedback = self.rule.feedback
        draws = isinstance(feedback, SignSymmetric) and feedback.magnitude is Magnitude.BATCH
        self.seed_generator: Any = None
        if draws and self.uses_feedback:
            self.seed_generator = keras.random.SeedGenerator()

    def get_config(self) -> dict[str, Any]:
        """Return the settings as plain data."""
        own = {"sees_input": self.sees_input, "crosses_activation": self.crosses_activation}
        return super().get_config() | own

    def build(self, input_shape: Any) -> None:
        """Create the kernel and the bias, then the feedback weights."""
        super().build(input_shape)
        stored = Stored.NOTHING if self.sees_input else self.rule.feedback.stored
        if stored is not Stored.NOTHING:
            self.feedback = self.add_weight(
                name=FEEDBACK,
                shape=self.kernel.shape,
                initializer=self._initial_feedback,
                trainable=stored is Stored.LEARNED,
            )

    def call(self, inputs: Any) -> Any:
        """Compute phi(h) with h = inputs W + b."""
        crosses = self.crosses_activation
        if not (crosses or self.uses_feedback):
            return self.plain.call(self, inputs)
        W = value_of(self.kernel)
        b = None if self.bias is None else value_of(self.bias)
        x = inputs if keras.backend.is_float_dtype(_dtype(inputs)) else ops.cast(inputs, W.dtype)
        op = self.activation_op(phi_of(self.activation)) if crosses else None
        E = self._effective_feedback(W) if self.uses_feedback else None
        out = apply_weights(self.bilinear_map(), self.rule.feedback, op, x, W, b, E)
        return out if crosses or self.activation is None else self.activation(out)

    @property
    def uses_feedback(self) -> bool:
        """Whether errors go down through something other than the kernel itself."""
        return not (self.sees_input or isinstance(self.rule.feedback, Transpose))

    def bilinear_map(self) -> BilinearMap:
        """Return the layer's arithmetic."""
        raise NotImplementedError

    def save_own_variables(self, store: Any) -> None:
        """Save the plain layer's weights, then the feedback weights."""
        super().save_own_variables(store)
        if self.feedback is not None:
            store[FEEDBACK] = self.feedback
        if self.seed_generator is not None:
            store[SEED] = self.seed_generator.state

    def load_own_variables(self, store: Any) -> None:
        """Load what `save_own_variables` saved; weights of a plain layer leave the feedback as is.

        Args:
            store: variables by name.
        """
        saved = {name: store[name] for name in store.keys()}  # noqa: SIM118 - no mapping
        if self.feedback is not None:  # Keras counts it among the weights, so it must be there
            self.feedback.assign(saved.setdefault(FEEDBACK, self.feedback))
        if self.seed_generator is not None and SEED in saved:
            self.seed_generator.state.assign(saved.pop(SEED))
        super().load_own_variables(saved)

    def _effective_feedback(self, W: Any) -> Any:
        stored = None if self.feedback is None else value_of(self.feedback)
        W = ops.stop_gradient(W)
        return self.rule.feedback.effective(W, stored, self._sampler(W), ops)

    def _initial_feedback(self, shape: Any, dtype: Any = None) -> Any:
        def draw(kind: str, scale: float) -> Any:
            if kind == "normal":
                return keras.initializers.RandomNormal(0.0, scale)(shape, dtype)
            if kind == "orthogonal":
                return keras.initializers.Orthogonal(scale)(shape, dtype)
            return keras.initializers.RandomUniform(-scale, scale)(shape, dtype)

        return self.rule.feedback.draw(_FeedbackSampler(draw, self._fan_in(shape)))

    def _sampler(self, W: Any) -> "_FeedbackSampler":
        def draw(kind: str, scale: float) -> Any:
            shape, dtype, seed = tuple(W.shape), _dtype(W), self.seed_generator
            if kind == "normal":
                return keras.random.normal(shape, 0.0, scale, dtype, seed)
            if kind == "orthogonal":
                return keras.initializers.Orthogonal(scale, seed)(shape, dtype)
            return keras.random.uniform(shape, -scale, scale, dtype, seed)

        return _FeedbackSampler(draw, self._fan_in(W.shape))

    def _fan_in(self, shape: Any) -> int:
        return math.prod(shape[:-1])


@dataclass(frozen=True)
class _FeedbackSampler:
    """Draws arrays of a kernel's shape; the kernel's values, and so its rms, are not known."""

    draw: Callable[[str, float], Any]
    fan_in: int
    rms = math.nan

    def __call__(self, kind: str, scale: float) -> Any:
        return self.draw(kind, scale)


def _dtype(x: Any) -> str:
    return str(keras.backend.standardize_dtype(x.dtype))

"""What every converted layer shares: its rule, its feedback weights, and how they are saved."""

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import keras
import numpy as np
from keras import ops

from lra.crossing import Crossing
from lra.differences import Phi
from lra.errors import ConversionError
from lra.feedback import Magnitude, SignSymmetric, Stored, Transpose
from lra.inits import LikeWeights, LowRank, Mirror, check_rank
from lra.keras.backend import is_graph_of_tensorflow, outside_graph, value_of
from lra.keras.closed_forms import phi_of
from lra.keras.gradients import ActivationOp, BilinearMap, apply_weights
from lra.keras.layers.elementwise import crosses_by_rule, crossing_of
from lra.loss_terms import LossTerms, check_terms
from lra.rules import Rule, require_rule
from lra.wiring import Chain


def check_rule(value: Any) -> Rule:
    """Return the rule, if Keras layers can follow it.

    Raises:
        ConversionError: this is no rule, or one whose errors skip layers, or whose feedback depends
            on the values of the weights in every step.
    """
    rule = require_rule(value)
    if not isinstance(rule.wiring, Chain):
        raise ConversionError(f"convert: {rule.wiring} is not supported in Keras; use Chain()")
    feedback = rule.feedback
    if (
        isinstance(feedback, SignSymmetric)
        and feedback.magnitude is not Magnitude.FIXED
        and isinstance(feedback.init, (LikeWeights, LowRank, Mirror))
    ):
        raise ConversionError(
            f"convert: SignSymmetric(init={feedback.init}) would draw from the values of the "
            "weights in every step, which a compiled step does not know; use FanIn()"
        )
    return rule


class Local(keras.layers.Layer):
    """Mixin before a Keras class: the layer keeps its forward pass and gets the rule's backward.

    The class has the name of the plain one, under which Keras saves its weights. So weights load
    from a plain model into a converted one, and back.

    Args:
        rule: the rule, or its plain data (`rule.to_config()`).
        loss_terms: the N that the loss is a mean over, as in `lra.keras.convert`.
        **kwargs: the arguments of the plain layer.
    """

    plain: ClassVar[type[Any]]
    added: ClassVar[tuple[str, ...]] = ("rule", "loss_terms")
    """The settings that the plain class does not have."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "plain" in vars(cls):
            cls.__name__ = cls.plain.__name__

    def __init__(
        self,
        *args: Any,
        rule: Rule | dict[str, Any],
        loss_terms: LossTerms | str | float = LossTerms.BATCH,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self.rule = check_rule(Rule.from_config(rule) if isinstance(rule, dict) else rule)
        self.loss_terms = check_terms(loss_terms)
        self.crossing: Crossing = self.rule.crossing

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
        return ActivationOp(phi, self.crossing, self.loss_terms)


class LocalWeights(Local):
    """A weight layer whose errors go down through feedback weights.

    `feedback` has the shape of `kernel`. It is a trainable weight if the rule learns it and a
    non-trainable one if it is fixed. It is None if the rule stores none, or the layer sees the raw
    input.

    Args:
        sees_input: whether no error has to cross the layer, so that it needs no feedback weights.
        crosses_activation: whether errors cross the layer's own activation by the rule, if it is
            elementwise and nonlinear.
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
        self.crosses_activation = crosses_activation
        self.feedback_slot: FeedbackSlot | None = None

    def get_config(self) -> dict[str, Any]:
        """Return the settings as plain data."""
        own = {"sees_input": self.sees_input, "crosses_activation": self.crosses_activation}
        return super().get_config() | own

    def build(self, input_shape: Any) -> None:
        """Create the kernel and the bias, then the feedback weights."""
        super().build(input_shape)
        if self.uses_feedback:
            self.feedback_slot = FeedbackSlot(self)
        shape = self.compute_output_shape(input_shape)
        if self.crosses_activation:
            self.crosses_activation = crosses_by_rule(self.activation, self.rule, shape)
        if self.crosses_activation:
            self.crossing = crossing_of(phi_of(self.activation), self.rule, shape)

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
    def feedback(self) -> Any:
        """The feedback weights E as a Keras variable, or None."""
        return None if self.feedback_slot is None else self.feedback_slot.E

    @property
    def uses_feedback(self) -> bool:
        """Whether errors go down through something other than the kernel itself."""
        return not (self.sees_input or isinstance(self.rule.feedback, Transpose))

    def bilinear_map(self) -> BilinearMap:
        """Return the layer's arithmetic."""
        raise NotImplementedError

    def draw_feedback(self) -> Any:
        """Draw E for the kernel's current values, of its shape."""
        late = is_graph_of_tensorflow()
        with outside_graph():
            W = self._initial_kernel() if late else self.kernel
            return self.rule.feedback.draw(self.sampler(W))

    def _initial_kernel(self) -> Any:
        """Return the values that a kernel made in a graph will get: initializers repeat theirs."""
        initializer = getattr(self, "depthwise_initializer", None) or self.kernel_initializer
        return initializer(self.kernel.shape, self.kernel.dtype)

    def sampler(self, W: Any) -> "FeedbackSampler":
        """Return what draws arrays for a kernel W of this layer."""
        seed = None if self.feedback_slot is None else self.feedback_slot.seed_generator
        return FeedbackSampler(W, self._fan_in(W.shape), seed)

    def _effective_feedback(self, W: Any) -> Any:
        stored = None if self.feedback is None else value_of(self.feedback)
        W = ops.stop_gradient(W)
        return self.rule.feedback.effective(W, stored, self.sampler(W), ops)

    def _fan_in(self, shape: Any) -> int:
        return math.prod(shape[:-1])


class FeedbackSlot(keras.layers.Layer):
    """Holds what the rule keeps for a layer, apart from the weights of the plain layer.

    Attributes:
        E: the feedback weights, or None if the rule stores none.
        seed_generator: what draws magnitudes for every batch, or None.
    """

    def __init__(self, owner: LocalWeights) -> None:
        super().__init__(name="feedback", dtype=owner.dtype_policy, trainable=owner.trainable)
        self.E: Any = None
        self.seed_generator: Any = None
        feedback = owner.rule.feedback
        if feedback.stored is not Stored.NOTHING:
            self._draw = owner.draw_feedback
            self.E = self.add_weight(
                name="feedback",
                shape=owner.kernel.shape,
                initializer=lambda shape, dtype: self._draw(),
                trainable=feedback.stored is Stored.LEARNED,
            )
        elif isinstance(feedback, SignSymmetric) and feedback.magnitude is Magnitude.BATCH:
            self.seed_generator = keras.random.SeedGenerator()
        self.built = True

    def redraw(self) -> None:
        """Draw E again, for the layer's current weights."""
        if self.E is not None:
            self.E.assign(self._draw())

    def save_own_variables(self, store: Any) -> None:
        """Save E, or the state of the seed."""
        for i, variable in enumerate(self.variables):
            store[str(i)] = variable.value

    def load_own_variables(self, store: Any) -> None:
        """Load what was saved; draw E for the weights just loaded if these are a plain model's.

        Args:
            store: variables by name.
        """
        if not len(store.keys()):
            self.redraw()
            return
        for i, variable in enumerate(self.variables):
            variable.assign(store[str(i)])


@dataclass(frozen=True)
class FeedbackSampler:
    """Draws arrays of a kernel's shape, and runs the kernel on noise.

    Attributes:
        W: the kernel.
        fan_in: the number of inputs that each unit reads.
        seed: a SeedGenerator, or None for Keras's global seed.
    """

    W: Any
    fan_in: int
    seed: Any = None

    @property
    def fan_out(self) -> int:
        """The number of units that read each input."""
        shape = tuple(self.W.shape)
        units: int = math.prod(shape) // self.fan_in
        return units * int(math.prod(shape[:-2]))

    @property
    def rms(self) -> float:
        """The root mean square of W."""
        return float(np.sqrt(np.mean(np.square(ops.convert_to_numpy(self.W), dtype="float64"))))

    def __call__(self, kind: str, scale: float, rank: int = 0) -> Any:
        """Draw an array: normal by std, uniform by bound, orthogonal by gain, low-rank by rms."""
        shape, dtype = tuple(self.W.shape), _dtype(self.W)
        if kind != "low-rank":
            return self._draw(kind, scale, shape, dtype)
        inputs, units = math.prod(shape[:-1]), shape[-1]
        check_rank(rank, inputs, units)
        P = self._draw("normal", scale * rank**-0.5, (inputs, rank), dtype)
        Q = self._draw("normal", 1.0, (rank, units), dtype)
        return ops.reshape(ops.matmul(P, Q), shape)

    def noise_correlation(self, samples: int) -> tuple[Any, int]:
        """Send noise through the kernel; return its correlation with the output, and uses of W.

        Each unit reads a vector, or a patch of one, so the kernel is a matrix here.
        """
        dtype = keras.backend.result_type(_dtype(self.W), "float32")
        x = self._draw("normal", 1.0, (samples, self.fan_in), dtype)
        rows = ops.reshape(ops.cast(self.W, dtype), (self.fan_in, -1))
        found = ops.matmul(ops.transpose(x), ops.matmul(x, rows))
        return ops.reshape(found, self.W.shape), samples

    def _draw(self, kind: str, scale: float, shape: tuple[int, ...], dtype: str) -> Any:
        if kind == "orthogonal":
            return keras.initializers.Orthogonal(scale, self.seed)(shape, dtype)
        if kind == "normal":
            return keras.initializers.RandomNormal(0.0, scale, self.seed)(shape, dtype)
        return keras.initializers.RandomUniform(-scale, scale, self.seed)(shape, dtype)


def _dtype(x: Any) -> str:
    return str(keras.backend.standardize_dtype(x.dtype))

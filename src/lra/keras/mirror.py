"""Mirror feedback weights: estimate the kernels from their answers to noise, at any time."""

from typing import Any

from lra.errors import ConversionError, OptionError
from lra.feedback import Learned, Random
from lra.inits import Mirror
from lra.keras.convert import local_weights, require_converted


def mirror(model: Any, samples: int = 10_000, *, step: float = 1.0) -> Any:
    """Move the feedback weights of a converted model towards its kernels, by noise alone.

        E <- E + step (f*(x; f(x, W)) / f*(1; 1) - E),  x ~ N(0, 1)

    This happens in every layer that stores feedback weights. f is the layer, and f* its adjoint in
    W. Use it after changing weights by hand, or where E drifts away from W.

    Args:
        model: a converted model, which is built.
        samples: the number of noise samples per layer, drawn from Keras's global seed.
        step: how far E moves, above 0 and at most 1.

    Returns:
        The same model.

    Raises:
        ConversionError: the model is not converted, or stores no feedback weights that could mirror
            its kernels.
        OptionError: a number is out of range.

    Source: Akrout et al., Deep learning without weight transport, NeurIPS 2019.

    >>> model = keras.Sequential(
    ...     [keras.Input((4,)), keras.layers.Dense(8, "tanh"), keras.layers.Dense(3)]
    ... )
    >>> converted = lra.keras.mirror(lra.keras.convert(model, lra.LRAE()))
    """
    init = Mirror(samples)
    if isinstance(step, bool) or not isinstance(step, (int, float)) or not 0 < step <= 1:
        raise OptionError(f"mirror: step must be above 0 and at most 1, got {step!r}")
    require_converted(model, "mirror")
    mirrored = [
        layer
        for layer in local_weights(model)
        if layer.feedback is not None and isinstance(layer.rule.feedback, (Learned, Random))
    ]
    if not mirrored:
        raise ConversionError(
            f"mirror: this {type(model).__name__} stores no feedback weights that could mirror "
            "its kernels; build it, and use a rule with lra.feedback.Learned or "
            "lra.feedback.Random"
        )
    for layer in mirrored:
        old, new = layer.feedback.value, init.draw(layer.sampler(layer.kernel))
        layer.feedback.assign(old + step * (new - old))
    return model

"""Mirror feedback weights: estimate the kernels from their answers to noise, at any time."""

from typing import Any

from lra.errors import ConversionError
from lra.feedback import Learned, Random
from lra.inits import Mirror, check_mirror
from lra.keras.convert import local_weights, require_converted


def mirror(
    model: Any, samples: int = 10_000, *, step: float = 1.0, decay: float | None = None
) -> Any:
    """Move the feedback weights of a converted model towards its kernels, by noise alone.

        E <- (1 - decay) E + step f*(x; f(x, W)) / f*(1; 1),  x ~ N(0, 1)

    This happens in every layer that stores feedback weights. f is the layer, and f* its adjoint in
    W. Use it after changing weights by hand, or where E drifts away from W.

    Args:
        model: a converted model, which is built.
        samples: the number of noise samples per layer, drawn from Keras's global seed.
        step: the weight of the estimate, above 0 and at most 1.
        decay: the share of the present E that is removed, from 0 to 1; by default `step`, so that
            E moves towards W. With 0, the estimates of all calls add up.

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
    step, decay = check_mirror(step, decay)
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
        layer.feedback.assign((1 - decay) * old + step * new)
    return model

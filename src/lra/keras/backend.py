"""What Keras's backends do each in their own way: a custom gradient, and an adjoint.

Only the backend in use is imported, so that TensorFlow and JAX users need no torch.
"""

from collections.abc import Callable, Sequence
from typing import Any

import keras
from keras import ops

Forward = Callable[..., tuple[Any, tuple[Any, ...]]]
"""Give the output, and the tensors that the backward pass needs, from the inputs."""
Backward = Callable[[tuple[Any, ...], Any, tuple[bool, ...]], Sequence[Any]]
"""Give an update for every input, or None, from what was kept, the error, and what is needed."""
Bilinear = Callable[[Any, Any], Any]

BACKENDS = ("tensorflow", "jax", "torch")
"""The backends that train; Keras's others only predict."""


def replicas() -> int:
    """Give how many processes share a batch, each with its part of the loss's mean."""
    if keras.backend.backend() != "tensorflow":
        return 1  # JAX's distribution shows the layers the whole batch
    import tensorflow as tf

    return int(tf.distribute.get_strategy().num_replicas_in_sync)


def send(forward: Forward, backward: Backward, *inputs: Any) -> Any:
    """Run `forward` on tensors, and have the error come back through `backward`.

    Args:
        forward: takes the inputs; gives the output and what to keep of the pass.
        backward: takes what was kept, the error at the output, and for each input whether its
            update is wanted; gives the updates, None for an input that has none.
        inputs: tensors, never variables: their values have to be read outside.
    """
    if keras.backend.backend() == "torch":
        from lra.keras.torch_backend import Send

        return Send.apply(forward, backward, *inputs)  # type: ignore[no-untyped-call]

    wanted = (True,) * len(inputs)  # XLA and TensorFlow's graphs drop what nobody reads

    @ops.custom_gradient
    def carried(*tensors: Any) -> tuple[Any, Callable[[Any], tuple[Any, ...]]]:
        out, kept = forward(*tensors)

        def gradient(error: Any) -> tuple[Any, ...]:
            updates = backward(kept, error, wanted)
            pairs = zip(updates, tensors, strict=True)
            return tuple(ops.zeros_like(x) if u is None else u for u, x in pairs)

        return out, gradient

    return carried(*inputs)


def value_of(variable: Any) -> Any:
    """Read a variable, in the type that its layer computes in, as a tensor that `send` takes."""
    if keras.backend.backend() == "tensorflow":
        return ops.copy(variable)  # what is read inside a custom gradient would have to be declared
    return ops.convert_to_tensor(variable)


def after(error: Any, reads: Sequence[Any]) -> Any:
    """Give the error unchanged, once a layer's variables have been read for this step.

    TensorFlow's graph keeps a variable's read before its assignment by an edge of control alone.
    Its optimizer drops that edge where another path leads from the one to the other, as one does
    through the IdentityN that joins the output and the arguments of a custom gradient, or the one
    that joins all updates in Keras's optimizer; and then it takes these apart, and no path is left:
    E, which the forward pass does not use, is read on the way back, sometimes too late.

    So the error is sliced from an index that is always 0, but that only the values read can tell:
    `reads` -> error -> update -> assignment is then a path of data, which nobody may cut. Where
    nothing is to be cut off, a slice copies nothing.

    Args:
        error: the error that all updates of these variables are made from.
        reads: the values that were read.
    """
    if keras.backend.backend() != "tensorflow":
        return error  # neither assigns to what was read
    import tensorflow as tf

    if tf.executing_eagerly():
        return error  # in the order of the code
    read = tf.add_n([tf.cast(tf.reshape(x, [-1])[0], "float32") for x in reads])
    never = tf.math.is_nan(read) & tf.math.is_finite(read)
    start = tf.fill([len(error.shape)], tf.cast(never, "int32"))
    out = tf.slice(error, start, tf.shape(error))
    out.set_shape(error.shape)
    return out


def adjoint(
    operation: Bilinear, z: Any, W: Any, e: Any, needs: tuple[bool, bool] = (True, True)
) -> tuple[Any, Any]:
    """Give the adjoints of operation(z, W), linear in each of the two, at the error e.

    The one in z depends on W alone and the one in W on z alone, so that one call with feedback
    weights in W's place gives the error that they send down and the update of W itself.

    Args:
        operation: a function such as a convolution, of z and W.
        z: its input.
        W: its weight, or a tensor of W's shape.
        e: an error of the output's shape.
        needs: whether the first and the second are wanted; None stands for one that is not.
    """
    backend = keras.backend.backend()
    if backend == "jax":
        import jax

        d, dW = jax.vjp(operation, z, W)[1](e)
        return d, dW
    if backend == "tensorflow":
        import tensorflow as tf

        with tf.GradientTape() as tape:
            tape.watch((z, W))
            h = operation(z, W)
        d, dW = tape.gradient(h, (z, W), output_gradients=e)
        return d, dW
    from lra.keras.torch_backend import adjoint as torch_adjoint

    return torch_adjoint(operation, z, W, e, needs)

"""What differs between Keras's backends: custom backward passes, adjoints, and replicas.

Only the backend in use is imported, so TensorFlow and JAX users need no torch.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any

import keras
from keras import ops

Forward = Callable[..., tuple[Any, tuple[Any, ...]]]
"""A function of the inputs that returns the output and the tensors to save for the backward."""
Backward = Callable[[tuple[Any, ...], Any, tuple[bool, ...]], Sequence[Any]]
"""A function (saved, error, needs) that returns one update per input, or None."""
Bilinear = Callable[[Any, Any], Any]

BACKENDS = ("tensorflow", "jax", "torch")
"""The backends that train; Keras's others only predict."""


def replicas() -> int:
    """Return how many processes share a batch, each with its part of the loss's mean."""
    if keras.backend.backend() != "tensorflow":
        return 1  # under JAX's distribution a layer sees the whole batch
    import tensorflow as tf

    return int(tf.distribute.get_strategy().num_replicas_in_sync)


def outside_graph() -> AbstractContextManager[Any]:
    """Return a context in which operations compute values, even while a step is traced."""
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        context: AbstractContextManager[Any] = tf.init_scope()
        return context
    if keras.backend.backend() == "jax":
        import jax

        context = jax.ensure_compile_time_eval()
        return context
    from lra.keras.torch_backend import values_only

    return values_only()


def is_graph_of_tensorflow() -> bool:
    """Return whether TensorFlow traces a step: variables that are made in it have no values yet."""
    if keras.backend.backend() != "tensorflow":
        return False
    import tensorflow as tf

    return not tf.executing_eagerly()


def is_compiled_by_torch() -> bool:
    """Return whether torch's compiler traces this step, so that Python must not compute values."""
    if keras.backend.backend() != "torch":
        return False
    import torch

    return torch.compiler.is_compiling()


def custom_backward(forward: Forward, backward: Backward, *inputs: Any) -> Any:
    """Run `forward` on tensors, with `backward` as its backward pass.

    Args:
        forward: takes the inputs; returns the output and the tensors to save.
        backward: takes the saved tensors, the error at the output, and for each input whether its
            update is needed; returns one update per input, or None.
        inputs: tensors, not variables: read those outside.
    """
    if keras.backend.backend() == "torch":
        from lra.keras.torch_backend import CustomBackward

        return CustomBackward.apply(forward, backward, *inputs)  # type: ignore[no-untyped-call]

    needs = (True,) * len(inputs)  # XLA and TensorFlow's graphs drop unused results

    @ops.custom_gradient
    def run(*tensors: Any) -> tuple[Any, Callable[[Any], tuple[Any, ...]]]:
        out, saved = forward(*tensors)

        def gradient(error: Any) -> tuple[Any, ...]:
            updates = backward(saved, error, needs)
            pairs = zip(updates, tensors, strict=True)
            return tuple(ops.zeros_like(x) if u is None else u for u, x in pairs)

        return out, gradient

    return run(*inputs)


def value_of(variable: Any) -> Any:
    """Read a variable as a tensor for `custom_backward`, in the type that its layer computes in."""
    if keras.backend.backend() == "tensorflow":
        return ops.copy(variable)  # a variable read in a custom gradient would have to be declared
    return ops.convert_to_tensor(variable)


def after_reads(error: Any, reads: Sequence[Any]) -> Any:
    """Return the error unchanged, but make it depend on the values read from a layer's variables.

    TensorFlow's graph keeps a read before a later assignment by a control edge. Its optimizer drops
    that edge if another path connects the two, as one does through the IdentityN of a custom
    gradient, or the one around all updates in Keras's optimizer. It then splits these nodes, and no
    path is left. E, which the forward pass does not use, is then sometimes read too late.

    So a zero that depends on the values read is added to the error. `reads` -> error -> update ->
    assignment is then a path of data, which the optimizer keeps.

    Args:
        error: the error that all updates of these variables are computed from.
        reads: the values read.
    """
    if keras.backend.backend() != "tensorflow":
        return error  # on the other backends an assignment does not change a tensor that was read
    import tensorflow as tf

    if tf.executing_eagerly():
        return error  # reads and assignments run in program order
    read = tf.add_n([tf.cast(tf.reshape(x, [-1])[0], "float32") for x in reads])
    never = tf.math.is_nan(read) & tf.math.is_finite(read)
    return error + tf.cast(never, error.dtype)


def adjoint(
    bilinear: Bilinear, z: Any, W: Any, e: Any, needs: tuple[bool, bool] = (True, True)
) -> tuple[Any, Any]:
    """Compute the adjoints of bilinear(z, W) in z and in W at the error e.

    The first depends on W alone and the second on z alone. So one call with feedback weights as W
    returns both the error that they send down and the update of the kernel.

    Args:
        bilinear: a function of z and W, such as a convolution.
        z: the layer's input.
        W: the kernel, or a tensor of its shape.
        e: an error of the output's shape.
        needs: whether the first and the second are needed; None is returned for the other.
    """
    backend = keras.backend.backend()
    if backend == "jax":
        import jax

        d, dW = jax.vjp(bilinear, z, W)[1](e)
        return d, dW
    if backend == "tensorflow":
        import tensorflow as tf

        with tf.GradientTape() as tape:
            tape.watch((z, W))
            h = bilinear(z, W)
        d, dW = tape.gradient(h, (z, W), output_gradients=e)
        return d, dW
    from lra.keras.torch_backend import adjoint as torch_adjoint

    return torch_adjoint(bilinear, z, W, e, needs)

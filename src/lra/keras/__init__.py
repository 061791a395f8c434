"""The rules for Keras 3: convert and restore models, on TensorFlow, JAX or torch."""

try:
    import keras
except ModuleNotFoundError as error:
    if error.name == "keras":
        raise ImportError(
            "lra.keras needs Keras 3, which is not installed: pip install 'lra-e[keras]', and "
            "one of its backends: tensorflow, jax or torch"
        ) from error
    raise ImportError(
        f"lra.keras: Keras is installed, but not its selected backend: {error}. Install "
        "tensorflow, jax or torch, and set KERAS_BACKEND to its name"
    ) from error

_version = getattr(keras, "__version__", "none")
if not _version.startswith("3."):
    raise ImportError(f"lra.keras needs Keras 3, found {_version}: pip install 'lra-e[keras]'")

from lra.keras import activations, layers, loss_checks  # noqa: E402
from lra.keras.convert import (  # noqa: E402
    convert,
    feedback_parameters,
    is_converted,
    restore,
    set_loss_terms,
)
from lra.keras.coverage import coverage  # noqa: E402
from lra.keras.mirror import mirror  # noqa: E402

loss_checks.install()

__all__ = [
    "activations",
    "convert",
    "coverage",
    "feedback_parameters",
    "is_converted",
    "layers",
    "mirror",
    "restore",
    "set_loss_terms",
]

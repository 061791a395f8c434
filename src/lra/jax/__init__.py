"""The rules for JAX: updates of any function that JAX can differentiate."""

try:
    import jax as jax
except ModuleNotFoundError as error:
    if error.name != "jax":
        raise
    raise ImportError(
        "lra.jax needs JAX, which is not installed: pip install 'lra-e[jax]'"
    ) from error

from lra.jax import nnx  # noqa: E402
from lra.jax.feedback import init, mirror  # noqa: E402
from lra.jax.gradients import value_and_grad  # noqa: E402
from lra.jax.numbers import replace  # noqa: E402
from lra.jax.plan import Plan, plan  # noqa: E402
from lra.jax.registry import register_activation, register_weight_layer  # noqa: E402
from lra.jax.report import audit, coverage  # noqa: E402
from lra.jax.share import share_feedback  # noqa: E402

__all__ = [
    "Plan",
    "audit",
    "coverage",
    "init",
    "mirror",
    "nnx",
    "plan",
    "register_activation",
    "register_weight_layer",
    "replace",
    "share_feedback",
    "value_and_grad",
]

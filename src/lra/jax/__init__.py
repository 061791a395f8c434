"""The rules for JAX: updates of any function that JAX can differentiate."""

try:
    import jax as jax
except ModuleNotFoundError as error:
    if error.name != "jax":
        raise
    raise ImportError(
        "lra.jax needs JAX, which is not installed: pip install 'lra-e[jax]'"
    ) from error

from lra.jax import nnx
from lra.jax.feedback import init, mirror
from lra.jax.gradients import value_and_grad
from lra.jax.numbers import replace
from lra.jax.plan import Plan, plan
from lra.jax.registry import register_activation, register_weight_layer
from lra.jax.report import audit, coverage
from lra.jax.share import share_feedback
from lra.jax.testing import check_rule

__all__ = [
    "Plan",
    "audit",
    "check_rule",
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

"""Learning methods whose step takes several passes: their options, and the table of all of them.

A rule is swapped into a model, and `loss.backward()` computes it. A method replaces that call: it
takes the model, the loss and a batch, and adds the update to ``.grad`` as `backward()` would.
"""

from lra.methods.base import Method
from lra.methods.equilibrium import EquilibriumPropagation
from lra.methods.error_predictive_coding import ErrorPredictiveCoding
from lra.methods.forward_forward import ForwardForward
from lra.methods.pepita import PEPITA
from lra.methods.predictive_coding import PredictiveCoding
from lra.methods.target_projection import DRTP
from lra.methods.target_propagation import DTP

METHODS: dict[str, type[Method]] = {
    cls.name: cls
    for cls in (
        PredictiveCoding,
        ErrorPredictiveCoding,
        EquilibriumPropagation,
        DTP,
        PEPITA,
        ForwardForward,
        DRTP,
    )
}
"""The methods by name, for scripts and the command line."""

__all__ = [
    "DRTP",
    "DTP",
    "METHODS",
    "PEPITA",
    "EquilibriumPropagation",
    "ErrorPredictiveCoding",
    "ForwardForward",
    "Method",
    "PredictiveCoding",
]

"""Train neural networks without backpropagation: LRA-E and its relatives."""

import importlib
from typing import TYPE_CHECKING, Any

from lra.crossing import (
    Absolute,
    Cauchy,
    Crossing,
    Derivative,
    HardTanhSurrogate,
    IdentitySurrogate,
    LocalLoss,
    Mixed,
    Relative,
    SigmoidSurrogate,
    Squared,
    Surrogate,
    TanhSurrogate,
    TargetDifference,
)
from lra.errors import (
    CompileError,
    ConversionError,
    DataError,
    Diverged,
    LraError,
    LraWarning,
    MethodError,
    OptionError,
    Refusal,
    RuleError,
    RunError,
    TogetherError,
)
from lra.feedback import Feedback, Learned, Magnitude, Random, SignSymmetric, Transpose
from lra.inits import FanIn, Init, LikeWeights, Mirror, Normal, Orthogonal
from lra.loss_terms import LossTerms
from lra.methods import DTP, METHODS, EquilibriumPropagation, Method, PredictiveCoding
from lra.rules import (
    LRAE,
    RULES,
    Backprop,
    DirectFeedbackAlignment,
    DirectLRA,
    FeedbackAlignment,
    KolenPollack,
    MirroredLRA,
    RecLRA,
    Rule,
    SignSymmetry,
    name_of,
    named,
)
from lra.wiring import Chain, Direct, Skip, Wiring

if TYPE_CHECKING:
    from lra.torch.audit import Audit, audit
    from lra.torch.check import RuleReport, check_rule
    from lra.torch.compiled import CompiledStep, compile_step
    from lra.torch.convert import (
        convert,
        feedback_parameters,
        is_converted,
        restore,
        set_loss_terms,
    )
    from lra.torch.coverage import Coverage, coverage
    from lra.torch.diagnose import Diagnosis, LayerReport, UpdateReport, diagnose
    from lra.torch.layers.activation import unit
    from lra.torch.layers.product import weights
    from lra.torch.mirror import mirror
    from lra.torch.opaque import Evaluated
    from lra.torch.share import share_feedback
    from lra.torch.together import Together
    from lra.torch.units import LWTA, Bernoulli, Heaviside, Quantized, Sign

_TORCH = {
    "LWTA": "units",
    "Audit": "audit",
    "Bernoulli": "units",
    "CompiledStep": "compiled",
    "Coverage": "coverage",
    "Diagnosis": "diagnose",
    "Evaluated": "opaque",
    "Heaviside": "units",
    "LayerReport": "diagnose",
    "Quantized": "units",
    "RuleReport": "check",
    "Sign": "units",
    "Together": "together",
    "UpdateReport": "diagnose",
    "audit": "audit",
    "check_rule": "check",
    "compile_step": "compiled",
    "convert": "convert",
    "coverage": "coverage",
    "diagnose": "diagnose",
    "feedback_parameters": "convert",
    "is_converted": "convert",
    "mirror": "mirror",
    "restore": "convert",
    "set_loss_terms": "convert",
    "share_feedback": "share",
    "unit": "layers.activation",
    "weights": "layers.product",
}
"""The names that need torch, and the module of lra.torch each comes from."""

__version__ = "0.1.0"

__all__ = [
    "DTP",
    "LRAE",
    "LWTA",
    "METHODS",
    "RULES",
    "Absolute",
    "Audit",
    "Backprop",
    "Bernoulli",
    "Cauchy",
    "Chain",
    "CompileError",
    "CompiledStep",
    "ConversionError",
    "Coverage",
    "Crossing",
    "DataError",
    "Derivative",
    "Diagnosis",
    "Direct",
    "DirectFeedbackAlignment",
    "DirectLRA",
    "Diverged",
    "EquilibriumPropagation",
    "Evaluated",
    "FanIn",
    "Feedback",
    "FeedbackAlignment",
    "HardTanhSurrogate",
    "Heaviside",
    "IdentitySurrogate",
    "Init",
    "KolenPollack",
    "LayerReport",
    "Learned",
    "LikeWeights",
    "LocalLoss",
    "LossTerms",
    "LraError",
    "LraWarning",
    "Magnitude",
    "Method",
    "MethodError",
    "Mirror",
    "MirroredLRA",
    "Mixed",
    "Normal",
    "OptionError",
    "Orthogonal",
    "PredictiveCoding",
    "Quantized",
    "Random",
    "RecLRA",
    "Refusal",
    "Relative",
    "Rule",
    "RuleError",
    "RuleReport",
    "RunError",
    "SigmoidSurrogate",
    "Sign",
    "SignSymmetric",
    "SignSymmetry",
    "Skip",
    "Squared",
    "Surrogate",
    "TanhSurrogate",
    "TargetDifference",
    "Together",
    "TogetherError",
    "Transpose",
    "UpdateReport",
    "Wiring",
    "audit",
    "check_rule",
    "compile_step",
    "convert",
    "coverage",
    "diagnose",
    "feedback_parameters",
    "is_converted",
    "mirror",
    "name_of",
    "named",
    "restore",
    "set_loss_terms",
    "share_feedback",
    "unit",
    "weights",
]


def __getattr__(name: str) -> Any:
    """Load what needs torch when it is first asked for."""
    if name not in _TORCH:
        raise AttributeError(f"module 'lra' has no attribute {name!r}")
    try:
        module = importlib.import_module(f"lra.torch.{_TORCH[name]}")
    except ModuleNotFoundError as error:
        if error.name != "torch":
            raise
        raise ImportError(
            f"lra.{name} needs PyTorch, which is not installed: pip install 'lra-e[torch]'. "
            "For Keras models there is lra.keras, which does without"
        ) from error
    value = getattr(module, name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)

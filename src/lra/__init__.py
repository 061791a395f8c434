"""Train neural networks without backpropagation: LRA-E and its relatives.

    import lra

    lra.convert(model, lra.MirroredLRA())    # loss.backward() now computes the rule's updates
    print(lra.coverage(model))               # what follows the rule, and what does not
    print(lra.diagnose(model, x, t))         # each layer's update beside backprop's gradient
    lra.restore(model)                       # the plain model again, with its weights as trained

The rules: `LRAE`, `MirroredLRA`, `FeedbackAlignment` and others, all in `lra.RULES`. A rule of your
own combines `lra.feedback`, `lra.crossing` and `lra.wiring` in an `lra.Rule`; `lra.check_rule`
tests it. Methods that need several passes are in `lra.methods`, activations that backprop cannot
train in `lra.activations`, and the paper's algorithm in plain NumPy in `lra.pseudocode`. Keras
models are converted by `lra.keras`, and `lra.jax` brings the rules to any JAX function. The command
line is `lra --help`.
"""

import importlib
from typing import TYPE_CHECKING, Any

from lra import crossing as crossing
from lra import errors as errors
from lra import feedback as feedback
from lra import inits as inits
from lra import loss_terms as loss_terms
from lra import methods as methods
from lra import wiring as wiring
from lra.errors import LraError as LraError
from lra.errors import LraWarning as LraWarning
from lra.rules import LRAE as LRAE
from lra.rules import RULES as RULES
from lra.rules import Backprop as Backprop
from lra.rules import DirectFeedbackAlignment as DirectFeedbackAlignment
from lra.rules import FeedbackAlignment as FeedbackAlignment
from lra.rules import KolenPollack as KolenPollack
from lra.rules import MirroredLRA as MirroredLRA
from lra.rules import RecLRA as RecLRA
from lra.rules import Rule as Rule
from lra.rules import SignSymmetry as SignSymmetry
from lra.rules import named as named

if TYPE_CHECKING:
    from lra import activations as activations
    from lra import ensemble as ensemble
    from lra import pseudocode as pseudocode
    from lra import testing as testing
    from lra.torch.audit import audit as audit
    from lra.torch.compiled import compile_step as compile_step
    from lra.torch.convert import convert as convert
    from lra.torch.convert import feedback_parameters as feedback_parameters
    from lra.torch.convert import is_converted as is_converted
    from lra.torch.convert import restore as restore
    from lra.torch.convert import set_loss_terms as set_loss_terms
    from lra.torch.coverage import coverage as coverage
    from lra.torch.diagnose import diagnose as diagnose
    from lra.torch.mirror import mirror as mirror
    from lra.torch.registry import register_activation as register_activation
    from lra.torch.registry import register_weight_layer as register_weight_layer
    from lra.torch.share import share_feedback as share_feedback
    from lra.torch.testing import check_rule as check_rule

_LAZY = {
    **dict.fromkeys(("activations", "ensemble", "jax", "keras", "pseudocode", "testing"), ""),
    **dict.fromkeys(
        ("convert", "feedback_parameters", "is_converted", "restore", "set_loss_terms"), "convert"
    ),
    **dict.fromkeys(("register_activation", "register_weight_layer"), "registry"),
    **{name: name for name in ("audit", "coverage", "diagnose", "mirror")},
    "check_rule": "testing",
    "compile_step": "compiled",
    "share_feedback": "share",
}
"""Names that are loaded when they are first used, with their modules in `lra.torch`."""

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """Load a name that needs torch when it is first used."""
    if name not in _LAZY:
        raise AttributeError(f"module 'lra' has no attribute {name!r}")
    home = _LAZY[name]
    try:
        module = importlib.import_module(f"lra.torch.{home}" if home else f"lra.{name}")
    except ModuleNotFoundError as error:
        if error.name != "torch":
            raise
        raise ImportError(
            f"lra.{name} needs PyTorch, which is not installed: pip install 'lra-e[torch]'. "
            "For Keras models use lra.keras, for JAX functions lra.jax, which do not need it"
        ) from error
    value = getattr(module, name) if home else module
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_LAZY} - {"TYPE_CHECKING", "Any", "importlib", "_LAZY"})

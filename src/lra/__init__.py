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
models are converted by `lra.keras`. The command line is `lra --help`.
"""

import importlib
from typing import TYPE_CHECKING, Any

from lra import crossing, errors, feedback, inits, loss_terms, methods, wiring
from lra.errors import LraError, LraWarning
from lra.rules import (
    LRAE,
    RULES,
    Backprop,
    DirectFeedbackAlignment,
    FeedbackAlignment,
    KolenPollack,
    MirroredLRA,
    RecLRA,
    Rule,
    SignSymmetry,
    named,
)

if TYPE_CHECKING:
    from lra import activations, ensemble, pseudocode, testing
    from lra.torch.audit import audit
    from lra.torch.compiled import compile_step
    from lra.torch.convert import (
        convert,
        feedback_parameters,
        is_converted,
        restore,
        set_loss_terms,
    )
    from lra.torch.coverage import coverage
    from lra.torch.diagnose import diagnose
    from lra.torch.mirror import mirror
    from lra.torch.registry import register_activation, register_weight_layer
    from lra.torch.share import share_feedback
    from lra.torch.testing import check_rule

_LAZY = {
    **dict.fromkeys(("activations", "ensemble", "keras", "pseudocode", "testing"), ""),
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

__all__ = [
    *("LRAE", "RULES", "Backprop", "DirectFeedbackAlignment", "FeedbackAlignment"),
    *("KolenPollack", "LraError", "LraWarning", "MirroredLRA", "RecLRA", "Rule", "SignSymmetry"),
    *("crossing", "errors", "feedback", "inits", "loss_terms", "methods", "named", "wiring"),
    *_LAZY,
]


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
            "For Keras models use lra.keras, which does not need it"
        ) from error
    value = getattr(module, name) if home else module
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)

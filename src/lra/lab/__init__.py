"""The workbench: train networks, compare rules, and open runs, from Python or by the command `lra`.

For example::

    import lra.lab

    run = lra.lab.train("mnist", rule="lra-e:beta=0.2", model="mlp:width=128,depth=4", epochs=3)
    run.evaluate().accuracy
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lra.lab.comparison.api import Comparison, Tuning, compare, tune
    from lra.lab.estimator import LraClassifier
    from lra.lab.published.reproduction import Reproduction, reproduce
    from lra.lab.run import Run, train
    from lra.lab.settings.config import TrainConfig

_MODULES = {
    "train": "run",
    "Run": "run",
    "compare": "comparison.api",
    "Comparison": "comparison.api",
    "tune": "comparison.api",
    "Tuning": "comparison.api",
    "reproduce": "published.reproduction",
    "Reproduction": "published.reproduction",
    "LraClassifier": "estimator",
    "TrainConfig": "settings.config",
}
"""The public names, and the modules that define them, which are loaded on first use."""

__all__ = [
    "Comparison",
    "LraClassifier",
    "Reproduction",
    "Run",
    "TrainConfig",
    "Tuning",
    "compare",
    "reproduce",
    "train",
    "tune",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return __all__

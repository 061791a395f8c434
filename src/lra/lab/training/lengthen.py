"""Changing the number of epochs of a run, where the result is that of such a run from the start."""

import dataclasses
from typing import Any

from lra.errors import OptionError
from lra.lab.runs.state import State
from lra.lab.settings.config import TrainConfig


def _obstacle(config: TrainConfig) -> str:
    """Return why steps of a run depend on its number of epochs; "" if they do not."""
    if config.schedule != "constant":
        return f"its learning rate follows the schedule {config.schedule} over all epochs"
    if config.warmup:
        return f"its learning rate rises over a share of all epochs (warmup {config.warmup})"
    if config.compile == "auto":
        return "compile is auto, which depends on the number of steps"
    return ""


def with_epochs(config: TrainConfig, epochs: int) -> TrainConfig:
    """Return a run's configuration with another number of epochs.

    Raises:
        OptionError: the run would have had other steps from the start; the message says why.
    """
    changed = dataclasses.replace(config, epochs=epochs)
    reason = _obstacle(config)
    if reason and epochs != config.epochs:
        raise OptionError(
            f"epochs cannot be changed in this run: {reason}; start a new run with --epochs "
            f"{epochs}"
        )
    return changed


def check_epochs(state: State, epochs: int) -> None:
    """Check that a run has not trained for more epochs already.

    Raises:
        OptionError: it has.
    """
    begun = state.epoch + (state.step > 0)
    if epochs < begun:
        raise OptionError(
            f"epochs must be {begun} or more, since the run is in epoch {begun}; got {epochs}"
        )


def comparable(config: TrainConfig) -> dict[str, Any]:
    """Return the settings in plain data that a checkpoint of the run must have."""
    plain = config.to_config()
    if not _obstacle(config):
        del plain["epochs"]
    return plain

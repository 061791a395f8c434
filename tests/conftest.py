"""Settings for the whole suite: one thread, one seed, drawn examples that repeat."""

import os
import signal
from pathlib import Path

import pytest
import torch
from hypothesis import Phase, settings

import lra

settings.register_profile("repeat", derandomize=True, deadline=None, max_examples=40)
settings.register_profile(  # to know that a test fails, not on which least example
    "brief", settings.get_profile("repeat"), phases=[Phase.explicit, Phase.generate]
)
settings.register_profile("explore", deadline=None, max_examples=400)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "repeat"))


def pytest_configure() -> None:
    """Run on one core; and test the package that was meant, where tests/mutation.py says which."""
    torch.set_num_threads(1)
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # of a job in the background
        signal.signal(signal.SIGINT, signal.default_int_handler)
    meant = os.environ.get("LRA_UNDER_TEST")
    found = Path(lra.__file__).resolve()
    if meant and not found.is_relative_to(Path(meant).resolve()):
        raise pytest.UsageError(f"lra was imported from {found}, not from {meant}")


@pytest.fixture(autouse=True)
def _seed() -> None:
    """Start every test from the same draw."""
    torch.manual_seed(0)

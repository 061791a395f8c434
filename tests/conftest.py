"""Settings for the whole suite: one thread, one seed, and the same drawn examples every time."""

import os
import signal
from pathlib import Path

import pytest
import torch
from hypothesis import Phase, settings

import lra

settings.register_profile("repeat", derandomize=True, deadline=None, max_examples=40)
settings.register_profile(  # without a search for the smallest failing example
    "brief", settings.get_profile("repeat"), phases=[Phase.explicit, Phase.generate]
)
settings.register_profile("explore", deadline=None, max_examples=400)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "repeat"))


def pytest_configure() -> None:
    """Use one core, and check that `lra` is the copy that tests/mutation.py wants tested."""
    torch.set_num_threads(1)
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # in a background job
        signal.signal(signal.SIGINT, signal.default_int_handler)
    expected = os.environ.get("LRA_UNDER_TEST")
    found = Path(lra.__file__).resolve()
    if expected and not found.is_relative_to(Path(expected).resolve()):
        raise pytest.UsageError(f"lra was imported from {found}, not from {expected}")


@pytest.fixture(autouse=True)
def _seed() -> None:
    """Start every test with the same random state."""
    torch.manual_seed(0)

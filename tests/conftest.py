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


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option for a part of the tests, which `tests/mutation.py` has for defects."""
    text = "run every Nth of the selected tests, from the Kth on, counted from 0"
    parser.addoption("--part", nargs=2, type=int, default=(0, 1), metavar=("K", "N"), help=text)


@pytest.hookimpl(trylast=True)  # after -m and -k
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Keep a part of the tests."""
    first, step = config.getoption("part")
    kept = items[first::step]
    config.hook.pytest_deselected(items=list({*items} - {*kept}))
    items[:] = kept


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

"""Schedules: compared with their formulas, and the learning rates that reach an optimizer."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from torch.optim.optimizer import register_optimizer_step_pre_hook
from workbench import interrupt_at, tiny, write_blobs

from lra.lab.settings.schedule import SCHEDULES, factor
from lra.lab.training import loop
from lra.lab.training.loop import Interrupted, resume, train

FACTORS: dict[tuple[str, float | None], list[float]] = {
    ("constant", None): [1.0] * 10,
    ("constant", 0.4): [0.25, 0.5, 0.75, *[1.0] * 7],
    ("cosine", None): [math.cos(math.pi * k / 20) ** 2 for k in range(10)],
    ("cosine", 0.2): [0.5, 1.0, *(math.cos(math.pi * k / 16) ** 2 for k in range(8))],
    ("one-cycle", None): [1 / 3, 2 / 3, 1.0, *(1 - k / 7 for k in range(7))],
    ("one-cycle", 0.0): [1 - k / 10 for k in range(10)],
    ("one-cycle", 0.25): [0.4, 0.8, 1.0, *(1 - (k + 0.5) / 7.5 for k in range(7))],
}


@pytest.mark.parametrize(("name", "warmup"), FACTORS, ids=str)
def test_factors_of_ten_steps(name: str, warmup: float | None) -> None:
    factors = [factor(name, warmup, step, 10) for step in range(10)]
    assert factors == pytest.approx(FACTORS[name, warmup], rel=1e-12)


def test_every_schedule_is_tested() -> None:
    assert {name for name, _ in FACTORS} == set(SCHEDULES)


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("warmup", [None, 0.0, 0.001, 0.3, 0.999])
@pytest.mark.parametrize("steps", [1, 2, 7, 1000])
def test_factors_are_between_0_and_1(name: str, warmup: float | None, steps: int) -> None:
    factors = [factor(name, warmup, step, steps) for step in range(steps)]
    assert all(0 < value <= 1 for value in factors)


@pytest.fixture
def rates() -> Iterator[list[list[float]]]:
    """Record the learning rates of all groups at each step, except the trial step of a resume."""
    recorded: list[list[float]] = []

    def record(optimizer: Any, *_: Any) -> None:
        if rates := [group["lr"] for group in optimizer.param_groups if group["lr"]]:
            recorded.append(rates)

    hook = register_optimizer_step_pre_hook(record)
    yield recorded
    hook.remove()


@pytest.mark.parametrize(("name", "warmup"), [("constant", None), ("one-cycle", 0.25)])
def test_the_optimizer_uses_the_factors(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    rates: list[list[float]],
    name: str,
    warmup: float | None,
) -> None:
    """One cycle spans all epochs and a stop; feedback weights use the same factors."""
    monkeypatch.setattr(loop, "CHECK_EVERY", 1)
    path = write_blobs(tmp_path / "blobs.npz")
    config = tiny(path, schedule=name, warmup=warmup, lr=0.02, feedback_lr=0.01, epochs=3)
    with pytest.raises(Interrupted):
        train(config, tmp_path / "run", reporter=interrupt_at(11))
    resume(tmp_path / "run")
    if name == "constant":
        assert rates == [[0.02, 0.01]] * 24
        return
    factors = [(k + 1) / 6 for k in range(6)] + [1 - k / 18 for k in range(18)]
    assert len(rates) == 24
    for (forward, feedback), expected in zip(rates, factors, strict=True):
        assert forward == pytest.approx(0.02 * expected)
        assert feedback == pytest.approx(0.01 * expected)

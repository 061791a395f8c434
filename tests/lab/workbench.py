"""Helpers of the workbench's tests: tiny data and runs, bitwise comparison, forked commands.

Children are forked from a server that has already loaded torch, so that they start at once. A few
tests start a complete `python -m lra`.
"""

import csv
import functools
import io
import json
import math
import multiprocessing
import os
import random
import re
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from lra.lab.cli import main
from lra.lab.cli.train import Train
from lra.lab.comparison.grid import Grid
from lra.lab.comparison.job import execute
from lra.lab.comparison.schedule import Schedule
from lra.lab.runs import checkpoint, files
from lra.lab.runs.display import Reporter
from lra.lab.settings.config import TrainConfig
from lra.lab.training import loop

SHAPE, CLASSES = (2, 3), 3


def write_blobs(path: Path, n: int = 130, n_test: int | None = 41, seed: int = 0) -> Path:
    """Write an .npz of three overlapping clusters of samples of shape (2, 3)."""
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(7).normal(size=(CLASSES, *SHAPE)) * 1.5

    def draw(count: int) -> tuple[np.ndarray, np.ndarray]:
        y = np.concatenate((np.arange(CLASSES), rng.integers(0, CLASSES, count - CLASSES)))
        return (centres[y] + rng.normal(size=(count, *SHAPE))).astype(np.float32), y

    x, y = draw(n)
    arrays = {"x": x, "y": y}
    if n_test is not None:
        arrays["x_test"], arrays["y_test"] = draw(n_test)
    np.savez(path, **arrays)
    return path


def work_alone(grid: Grid, out: Path) -> Schedule:
    """Run all jobs in this process, one after the other."""
    schedule, end = Schedule(grid, out), time.monotonic() + PATIENCE
    while not schedule.finished():
        assert time.monotonic() < end
        next_job = schedule.next(())
        if next_job is None:  # another process has it
            time.sleep(0.1)
        else:
            schedule.ended(next_job, execute(grid, out, next_job))
    return schedule


def tiny(dataset: Path | str, **changes: Any) -> TrainConfig:
    """Return the configuration of 3 epochs of 8 steps, with a smaller last batch."""
    settings: dict[str, Any] = {"epochs": 3, "batch_size": 16, "device": "cpu", "threads": 1}
    changes.setdefault("model", "mlp:hidden=7-5")
    return TrainConfig(str(dataset), **(settings | changes))


def read_train(words: Sequence[str]) -> tuple[TrainConfig, Train]:
    """Parse options of `lra train`, and return the configuration and the options."""
    options = main.parse(["train", *words])
    assert isinstance(options, Train)
    return options.settings, options


class Watcher(Reporter):
    """Records all calls as events, and calls `do` at the given calls of `step`."""

    def __init__(self, at: Sequence[int] = (), do: Callable[[], None] | None = None) -> None:
        self.events: list[tuple[str, Any]] = []
        self.at, self.do, self.calls = at, do, 0

    def start(self, description: str, epochs: int, steps: int, text: bool) -> None:
        self.events.append(("start", (description, epochs, steps)))

    def note(self, text: str) -> None:
        self.events.append(("note", text))

    def step(self, step: int, loss_sum: float, correct: int, seen: int) -> None:
        self.events.append(("step", (step, loss_sum, correct, seen)))
        self.calls += 1
        if self.calls in self.at and self.do:
            self.do()

    def epoch(self, row: dict[str, Any], epochs: int) -> None:
        self.events.append(("epoch", row))

    def end(self, result: dict[str, Any], folder: Path) -> None:
        self.events.append(("end", result))

    def notes(self) -> list[str]:
        return [content for kind, content in self.events if kind == "note"]


def interrupt_at(*calls: int, number: int = signal.SIGINT) -> Watcher:
    """Return a reporter that sends this process a signal at the given calls of `step`."""
    return Watcher(calls, lambda: os.kill(os.getpid(), number))


def begin(folder: Path, config: TrainConfig) -> None:
    """Write the files of a run that ended before its first checkpoint."""
    files.make_folder(folder, overwrite=False)
    files.create(folder, config)


def saved_state(folder: Path) -> dict[str, Any]:
    """Read a run's checkpoint."""
    return checkpoint.load(folder / checkpoint.NAME, files.read_config(folder).to_config())


def metrics(folder: Path) -> list[dict[str, str]]:
    """Read metrics.csv."""
    with (folder / files.METRICS).open(newline="") as file:
        return list(csv.DictReader(file))


def differences(a: Any, b: Any, where: str = "") -> list[str]:
    """List the locations where two states differ in any bit, ignoring measured times."""
    if type(a) is not type(b):
        return [f"{where}: {type(a).__name__} and {type(b).__name__}"]
    if isinstance(a, Tensor):
        same = a.dtype == b.dtype and a.shape == b.shape
        same = same and a.numpy().tobytes() == b.numpy().tobytes()
        return [] if same else [f"{where}: tensors"]
    if isinstance(a, dict):
        if list(a) != list(b):
            return [f"{where}: keys {list(a)} and {list(b)}"]
        return [d for k in a if k != "seconds" for d in differences(a[k], b[k], f"{where}/{k}")]
    if isinstance(a, (list, tuple)):
        if len(a) != len(b):
            return [f"{where}: lengths {len(a)} and {len(b)}"]
        pairs = zip(a, b, strict=True)
        return [d for i, (p, q) in enumerate(pairs) for d in differences(p, q, f"{where}/{i}")]
    same = a == b or (isinstance(a, float) and math.isnan(a) and math.isnan(b))
    return [] if same else [f"{where}: {a!r} and {b!r}"]


def assert_same_run(one: Path, other: Path) -> None:
    """Assert that two finished runs are bit-identical in state, weights, metrics and result."""
    found = differences(saved_state(one), saved_state(other))
    assert not found, found
    assert (one / files.WEIGHTS).read_bytes() == (other / files.WEIGHTS).read_bytes()
    assert not differences(metrics(one), metrics(other))
    results = [json.loads((folder / files.RESULT).read_text()) for folder in (one, other)]
    assert not differences(*results), differences(*results)


def checkpoint_bytes(state: Any) -> bytes:
    """Return the content of a checkpoint file for a state."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    return checkpoint.seal(buffer.getvalue())


def train_with_stops(
    config: TrainConfig, folder: Path, stops: Sequence[int], steps: int, seed: str
) -> None:
    """Train, and stop by a signal after each of the steps `stops`; an epoch has `steps` steps."""
    draw = random.Random(seed)
    done = 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "CHECK_EVERY", 1)  # stops are possible at every step
        for stop in stops:
            torch.manual_seed(draw.randrange(1000))
            number = draw.choice((signal.SIGINT, signal.SIGTERM))
            watcher = interrupt_at(stop - done, number=number)
            message = f"continue with: lra train --resume {re.escape(str(folder))}"
            train = loop.resume if done else functools.partial(loop.train, config)
            with pytest.raises(loop.Interrupted, match=message):
                train(folder, reporter=watcher)
            done = stop
            state = saved_state(folder)["state"]
            assert state["epoch"] * steps + state["step"] == stop
            assert not (folder / files.RESULT).exists()
        torch.manual_seed(draw.randrange(1000))
        loop.resume(folder)


# commands in separate processes

PATIENCE = 200.0
"""Seconds that a process may take: it loads torch, and the machine may be busy."""

ENVIRONMENT = {
    **{k: v for k, v in os.environ.items() if k not in ("COLUMNS", "FORCE_COLOR", "NO_COLOR")},
    "OMP_NUM_THREADS": "1",
}


def start_lra(*words: object, cwd: Path, **more: Any) -> subprocess.Popen[str]:
    """Start a complete `python -m lra`."""
    return subprocess.Popen(
        [sys.executable, "-m", "lra", *map(str, words)],
        cwd=cwd,
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **more,
    )


def _command(words: list[str], output: str, file_limit: int | None) -> None:
    target = os.open(output, os.O_RDWR | os.O_CREAT | os.O_NOCTTY, 0o600)
    for standard in (1, 2):
        os.dup2(target, standard)
    os.environ["TERM"] = "xterm"
    for name in ("COLUMNS", "FORCE_COLOR", "NO_COLOR"):
        os.environ.pop(name, None)
    torch.set_num_threads(1)
    if file_limit is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (file_limit, file_limit))
    main.main(words)


def fork_lra(
    words: Sequence[object], output: Path | str, file_limit: int | None = None
) -> multiprocessing.process.BaseProcess:
    """Start the command in a forked child, with its output sent to a file or a terminal."""
    os.environ["OMP_NUM_THREADS"] = "1"
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["lra.lab.cli.train", "lra.lab.training.loop"])
    child = context.Process(target=_command, args=([*map(str, words)], str(output), file_limit))
    child.start()
    return child


def wait_for(condition: Callable[[], bool], alive: Callable[[], bool]) -> bool:
    """Wait until a condition holds; return False if the process ended before."""
    end = time.monotonic() + PATIENCE
    while not condition():
        if not alive():
            return False
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.002)
    return True


def saved_weight(state: dict[str, torch.Tensor], name: str) -> torch.Tensor:
    """Return a parameter from a saved state, including feedback stored as a difference."""
    if name in state:
        return state[name]
    return state[f"{name}_offset"] + state[name.replace("feedback", "weight")]

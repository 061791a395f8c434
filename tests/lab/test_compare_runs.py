"""A comparison that is stopped, killed or shared ends with the same results."""

import csv
import functools
import io
import multiprocessing
import os
import random
import re
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from test_compare_fair import small
from workbench import PATIENCE, fork_lra, wait_for, work_alone, write_blobs

import lra
from lra.lab.comparison import pool
from lra.lab.comparison.grid import Grid, Search
from lra.lab.comparison.job import Job, execute
from lra.lab.comparison.pool import Pool
from lra.lab.comparison.progress import Display
from lra.lab.comparison.results import tables, write_runs
from lra.lab.comparison.schedule import Schedule
from lra.lab.runs import files, plots
from lra.lab.settings.config import TrainConfig
from lra.lab.training import loop

KILLS = int(os.environ.get("LRA_KILLS", "8"))
"""How often comparisons are killed; LRA_KILL_SEED is the seed of the times."""

RULES = ("backprop", "lra-e:beta=0.2", "kolen-pollack")


@pytest.fixture(scope="module")
def blobs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_blobs(tmp_path_factory.mktemp("data") / "blobs.npz")


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plots, "save", lambda *args, **more: None)


def table_of(schedule: Schedule, path: Path) -> list[dict[str, str]]:
    """Return the rows of a comparison's runs.csv without measured times."""
    write_runs(tables(schedule), path)
    with path.open(encoding="utf-8", newline="") as file:
        return [{k: v for k, v in row.items() if k != "seconds"} for row in csv.DictReader(file)]


def display() -> Display:
    return Display(Console(file=io.StringIO()))


# the pool


@pytest.mark.slow
def test_a_comparison_from_its_command(blobs: Path, tmp_path: Path) -> None:
    output = tmp_path / "output.txt"
    words = [
        *("compare", blobs, "--rules", *RULES[:2], "--models", "mlp:width=5,depth=3", "gpt"),
        *("--epochs", 2, "--batch-size", 16, "--seeds", 2, "--device", "cpu", "--trials", 2),
        *("--out", tmp_path / "out", "--jobs", 2, "--page", tmp_path / "page.md"),
    ]
    child = fork_lra(words, output)
    child.join(PATIENCE)
    text = output.read_text()
    assert child.exitcode == 0, text
    assert "rules: 2, networks: 2, seeds: 2, trials per rule: 2; 2 jobs in parallel" in text
    assert re.search(r"gpt: backprop, a trial: refused \(gpt reads text", text), text
    assert re.search(r"8/\d+  blobs, mlp.*seed \d: validation", text), text
    assert "; about " in text
    assert "Undecided with these 2 seeds, neither different from backprop nor equivalent" in text
    rows = list(csv.DictReader((tmp_path / "out" / "runs.csv").read_text().splitlines()))
    assert [(row["rule"], row["seed"], row["state"]) for row in rows] == [
        (rule, str(seed), "done") for rule in RULES[:2] for seed in range(2)
    ]
    page = (tmp_path / "page.md").read_text()
    assert "refused: gpt reads text" in page
    for name in re.findall(r"\]\((page/\S+\.svg)\)", page):
        assert (tmp_path / name).read_text().startswith("<?xml")
    one = files.read_config(tmp_path / "out" / "runs" / rows[0]["run"])
    assert (one.test, one.seed, one.epochs) == (True, 0, 2)
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "out" / "runs").rglob("result.json")}
    assert len(before) == 8
    again = fork_lra(words, output)
    again.join(PATIENCE)
    assert again.exitcode == 0
    after = {p: p.stat().st_mtime_ns for p in (tmp_path / "out" / "runs").rglob("result.json")}
    assert after == before  # nothing is repeated


def test_a_rule_that_fails_does_not_stop_the_others(
    blobs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    grid = small(blobs, rules=("backprop", "lra-e", "kolen-pollack"), seeds=1)
    train = loop.train

    def failing(config: Any, *args: Any, **more: Any) -> Any:
        if config.rule == lra.LRAE():
            raise ZeroDivisionError("of a rule")
        if config.rule == lra.KolenPollack():
            raise lra.errors.Diverged("the loss became nan")
        return train(config, *args, **more)

    monkeypatch.setattr(loop, "train", failing)
    schedule = work_alone(grid, tmp_path)
    (table,) = tables(schedule)
    assert [entry.runs[0].outcome.state for entry in table.entries] == [
        "done",
        "failed",
        "diverged",
    ]
    assert table.entries[1].runs[0].outcome.reason == "ZeroDivisionError: of a rule"
    monkeypatch.undo()
    schedule.store.forget_refusals()
    states = [e.runs[0].outcome.state for e in tables(work_alone(grid, tmp_path))[0].entries]
    assert states == ["done", "done", "diverged"]  # the failed run is tried again


def test_a_refused_rule_is_tried_once(
    blobs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried = []
    train = loop.train

    def refusing(config: Any, *args: Any, **more: Any) -> Any:
        tried.append(config.seed)
        if config.rule != lra.Backprop():
            raise lra.errors.ConversionError("not this network")
        return train(config, *args, **more)

    monkeypatch.setattr(loop, "train", refusing)
    grid = small(blobs, rules=("lra-e", "backprop"), seeds=3)
    (table,) = tables(work_alone(grid, tmp_path))
    assert table.entries[0].refusal == "refused: not this network"
    assert tried == [0, 0, 1, 2]


@pytest.mark.slow
def test_a_job_whose_process_keeps_dying_fails(
    blobs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    grid = small(blobs, rules=("backprop",), seeds=2)
    monkeypatch.setattr(pool, "_process", _die_at_seed_0)
    schedule = Pool(grid, tmp_path, 1, display()).work()
    first, second = (schedule.run(0, seed) for seed in range(2))
    assert first is not None
    assert second is not None
    assert (first.state, second.state) == ("failed", "done")
    assert first.reason == "its process died 3 times, the last time with exit code -9"
    assert (tmp_path / "deaths").read_text() == "..."


def _die_at_seed_0(grid: Grid, out: Path, task: Job, connection: Any) -> None:
    if task.seed == 0:
        with (out / "deaths").open("a") as file:
            file.write(".")
        os.kill(os.getpid(), signal.SIGKILL)
    _PROCESS(grid, out, task, connection)


_PROCESS = pool._process


def test_an_error_that_affects_all_runs_ends_the_comparison(blobs: Path, tmp_path: Path) -> None:
    data = write_blobs(tmp_path / "gone.npz")
    grid = small(data, rules=("backprop",), seeds=2)
    data.unlink()
    with pytest.raises(lra.errors.RunError, match=r"gone\.npz"):
        Pool(grid, tmp_path / "out", 2, display()).work()


# signals and kills


def long(dataset: Path, **changes: Any) -> Grid:
    """Return a grid whose runs take long enough to be killed."""
    return small(dataset, **({"epochs": 6, "rules": RULES, "seeds": 2, "batch_size": 4} | changes))


def _work(grid: Grid, out: Path, seed: int) -> None:
    """Run all jobs in a separate process, from another state of torch's generator."""
    os.setpgid(0, 0)
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    plots.save = lambda *args, **more: None  # type: ignore[assignment]
    work_alone(grid, out)


def start(target: Callable[..., None], *args: Any) -> Any:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["lra.lab.cli.compare", "lra.lab.comparison.search"])
    process = context.Process(target=target, args=args)
    process.start()
    return process


@pytest.mark.slow
@pytest.mark.parametrize("trials", [0, 2])
def test_a_comparison_killed_at_random_times_ends_with_the_same_table(
    blobs: Path, tmp_path: Path, trials: int
) -> None:
    grid = long(blobs, trials=trials)
    expected = table_of(work_alone(grid, tmp_path / "whole"), tmp_path / "expected.csv")
    draw = random.Random(os.environ.get("LRA_KILL_SEED", "0"))
    out, kills = tmp_path / "killed", 0
    while kills < KILLS:
        process = start(_work, grid, out, kills)
        process.join(draw.uniform(0.0, 3.0) if trials else draw.uniform(0.0, 1.5))
        if process.exitcode is not None:
            assert process.exitcode == 0
            break
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        kills += 1
    last = start(_work, grid, out, 99)
    last.join(PATIENCE)
    assert last.exitcode == 0
    assert table_of(Schedule(grid, out), tmp_path / "found.csv") == expected
    assert len(expected) == len(RULES) * 2


def _unfinished(out: Path) -> list[Path]:
    folders = (out / "runs").iterdir() if (out / "runs").exists() else ()
    return [folder for folder in folders if not (folder / files.RESULT).exists()]


@pytest.mark.slow
def test_ctrl_c_stops_the_workers_and_the_same_command_resumes(blobs: Path, tmp_path: Path) -> None:
    grid = long(blobs, rules=RULES[:2], epochs=40, seeds=1)
    words = [
        *("compare", blobs, "--rules", *RULES[:2], "--models", "mlp:width=5,depth=3"),
        *("--epochs", 40, "--batch-size", 4, "--seeds", 1, "--device", "cpu", "--jobs", 2),
        *("--out", tmp_path / "out"),
    ]
    output = tmp_path / "output.txt"
    child = fork_lra(words, output)
    folders = tmp_path / "out" / "runs"
    ready = functools.partial(_all_have_epochs, folders, 2)
    assert wait_for(ready, child.is_alive), output.read_text()
    assert child.pid is not None
    os.kill(child.pid, signal.SIGINT)
    child.join(PATIENCE)
    assert child.exitcode == 130, output.read_text()
    assert "lra: stopped; run the same command again to resume" in output.read_text()
    assert "Traceback" not in output.read_text()
    assert len(_unfinished(tmp_path / "out")) == 2
    schedule = Schedule(grid, tmp_path / "out")
    assert all(schedule.store.free(schedule.name(i, 0)) for i in range(2))  # no worker is left
    for folder in _unfinished(tmp_path / "out"):
        assert (folder / "checkpoint").exists()
    again = fork_lra(words, output)
    again.join(PATIENCE)
    assert again.exitcode == 0, output.read_text()
    found = table_of(Schedule(grid, tmp_path / "out"), tmp_path / "found.csv")
    assert found == table_of(work_alone(grid, tmp_path / "whole"), tmp_path / "whole.csv")


def _all_have_epochs(folders: Path, count: int) -> bool:
    return len(list(folders.glob("*/checkpoint"))) >= count


@pytest.mark.slow
def test_workers_stop_when_the_main_process_is_killed(blobs: Path, tmp_path: Path) -> None:
    grid = long(blobs, rules=RULES[:2], epochs=1000, seeds=1)
    process = start(_pool, grid, tmp_path)
    ready = functools.partial(_all_have_epochs, tmp_path / "runs", 2)
    assert wait_for(ready, process.is_alive)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    schedule = Schedule(grid, tmp_path)
    end = time.monotonic() + PATIENCE
    while not all(schedule.store.free(schedule.name(i, 0)) for i in range(2)):
        assert time.monotonic() < end
        time.sleep(0.05)
    assert len(_unfinished(tmp_path)) == 2


def _pool(grid: Grid, out: Path) -> None:
    Pool(grid, out, 2, display()).work()


# several workers


def test_a_run_claimed_by_another_process_is_skipped(
    blobs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    grid = small(blobs, rules=("backprop",), seeds=2)
    schedule = Schedule(grid, tmp_path)
    with schedule.store.claim(schedule.name(0, 0)) as claimed:
        assert claimed
        assert execute(grid, tmp_path, Job(0, 0)) is None
        assert schedule.next(()) == Job(0, 1)
    assert schedule.next((Job(0, 1),)) is None  # not checked again at once
    monkeypatch.setattr("lra.lab.comparison.schedule.RETRY_SECONDS", 0.0)
    assert schedule.next(()) == Job(0, 0)


def _share(grid: Grid, out: Path, done: Path) -> None:
    """Run all open jobs, and write a line to `done` for each that this process has run."""
    torch.set_num_threads(1)
    plots.save = lambda *args, **more: None  # type: ignore[assignment]
    train = loop.train

    def counted(config: TrainConfig, folder: Path, **options: Any) -> Any:
        with done.open("a", encoding="utf-8") as file:
            file.write(f"{folder.name}\n")
        return train(config, folder, **options)

    loop.train = counted
    work_alone(grid, out)


@pytest.mark.slow
@pytest.mark.parametrize("sampler", ["even", "tpe"])
def test_four_workers_on_one_folder_share_the_jobs(
    blobs: Path, tmp_path: Path, sampler: str
) -> None:
    grid = long(blobs, rules=RULES[:2], trials=5, seeds=2, options=Search(sampler=sampler))
    out, lists = tmp_path / "shared", [tmp_path / f"{i}.txt" for i in range(4)]
    workers = [start(_share, grid, out, path) for path in lists]
    for worker in workers:
        worker.join(PATIENCE)
        assert worker.exitcode == 0
    done = [path.read_text().split() for path in lists if path.exists()]
    names = [name for part in done for name in part]
    assert len(names) == len(set(names)) == 2 * (5 + 2)  # each once
    assert len(done) > 1
    schedule = Schedule(grid, out)
    assert schedule.finished()
    assert [len(schedule.search_results[i].trials) for i in range(2)] == [5, 5]
    if sampler == "even":  # which adapts to nothing
        alone = table_of(work_alone(grid, tmp_path / "alone"), tmp_path / "alone.csv")
        assert table_of(schedule, tmp_path / "found.csv") == alone


def test_a_killed_trial_is_resumed(blobs: Path, tmp_path: Path) -> None:
    grid = long(blobs, rules=("backprop",), trials=1, seeds=0, epochs=50)
    process = start(_work, grid, tmp_path, 0)
    schedule = Schedule(grid, tmp_path)
    (trial,) = schedule.trials(0)
    name = schedule.job_name(trial)
    assert wait_for(lambda: bool(schedule.store.curve(name)), process.is_alive)
    assert schedule.next(()) is None
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    saved = files.read_config(tmp_path / "runs" / name)
    schedule = Schedule(grid, tmp_path)
    assert schedule.next(()) == trial  # at once
    steps: list[float] = []
    outcome = execute(grid, tmp_path, trial, steps.append)
    assert outcome is not None
    assert outcome.state == "done"
    assert files.read_config(tmp_path / "runs" / name) == saved
    assert steps[0] > 1 / 50  # resumed, not restarted
    assert len(list((tmp_path / "runs").iterdir())) == 1
    assert len(schedule.store.curve(name)) == 50
    assert Schedule(grid, tmp_path).finished()

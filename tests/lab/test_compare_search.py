"""Trials of a search: their points, their order of merit, and several processes on one folder."""

import dataclasses
import math
import multiprocessing
import os
import signal
from pathlib import Path
from typing import Any

import pytest
from test_compare_fair import run_trials, small
from workbench import PATIENCE, wait_for, write_blobs

from lra.lab.comparison.grid import Experiment, Grid, Search
from lra.lab.comparison.search import Study
from lra.lab.comparison.space import Choice, Range, edges
from lra.lab.comparison.store import Outcome, Store
from lra.lab.runs import plots

SPACE = ("lr=1e-4..1e-1:log", "beta=0.1..1")


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plots, "save", lambda *args, **more: None)


@pytest.fixture
def blobs(tmp_path: Path) -> Path:
    return write_blobs(tmp_path / "blobs.npz")


def grid_of(dataset: Path, sampler: str, trials: int = 6, **changes: Any) -> Grid:
    options = Search(SPACE, sampler=sampler, **changes)
    return small(dataset, rules=("lra-e",), trials=trials, seeds=0, options=options)


def record(store: Store, experiment: Experiment, settings: Any, accuracy: float | None) -> None:
    """Write the outcome of a trial: an accuracy, or that it diverged."""
    name = experiment.name_of(experiment.trial_config(settings))
    if accuracy is None:
        store.record(name, Outcome("diverged", "the loss became nan"))
        return
    store.folder(name).mkdir()
    text = f'{{"validation_accuracy": {accuracy}, "validation_loss": 1.0}}'
    (store.folder(name) / "result.json").write_text(text)


@pytest.mark.parametrize("sampler", ["even", "random", "tpe"])
def test_points_depend_on_neither_the_folder_nor_the_dataset(tmp_path: Path, sampler: str) -> None:
    drawn = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        store = Store(tmp_path / name / "out")
        data = write_blobs(tmp_path / name / f"{name}.npz")
        experiment = grid_of(data, sampler).experiments[0]
        study = Study(experiment, store)
        for number in range(6):
            if sampler == "tpe":
                study.draw()
            settings = study.settings()[number]
            record(store, experiment, settings, 90 - 10 * abs(math.log10(settings["lr"]) + 2))
        drawn.append(study.settings())
    assert drawn[0] == drawn[1]
    assert len({point["lr"] for point in drawn[0]}) == 6
    assert all(1e-4 <= p["lr"] <= 0.1 and 0.1 <= p["beta"] <= 1 for p in drawn[0])


@pytest.mark.parametrize("sampler", ["even", "random"])
def test_rules_with_the_same_space_get_the_same_points(blobs: Path, sampler: str) -> None:
    options = Search(sampler=sampler)
    grid = small(blobs, rules=("backprop", "lra-e", "dtp"), trials=5, seeds=0, options=options)
    first, *others = (Study(e, Store(blobs.parent / "out")).settings() for e in grid.experiments)
    assert all(points == first for points in others)


def test_tpe_learns_from_the_scores(blobs: Path, tmp_path: Path) -> None:
    """After good scores at large rates only, it draws larger ones than after the opposite."""
    means = []
    for sign in (1, -1):
        store = Store(tmp_path / f"{sign}")
        experiment = grid_of(blobs, "tpe", trials=24).experiments[0]
        study = Study(experiment, store)
        for number in range(24):
            study.draw()
            settings = study.settings()[number]
            record(store, experiment, settings, 50 + 10 * sign * math.log10(settings["lr"]))
        late = [math.log10(settings["lr"]) for settings in study.settings()[12:]]
        means.append(sum(late) / len(late))
    assert means[0] > means[1] + 1


def test_a_search_draws_no_more_settings_than_trials(blobs: Path, tmp_path: Path) -> None:
    study = Study(grid_of(blobs, "tpe", trials=3).experiments[0], Store(tmp_path / "out"))
    for _ in range(5):
        study.draw()
    assert len(study.settings()) == len(study.store.drawn(study.name)) == 3


def _draw(grid: Grid, out: Path) -> None:
    study = Study(grid.experiments[0], Store(out))
    for _ in range(5):
        study.draw()


@pytest.mark.slow
def test_four_processes_draw_each_trial_once(blobs: Path, tmp_path: Path) -> None:
    grid = grid_of(blobs, "tpe", trials=20)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["lra.lab.cli.main"])
    processes = [context.Process(target=_draw, args=(grid, tmp_path / "out")) for _ in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(PATIENCE)
        assert process.exitcode == 0
    found = Study(grid.experiments[0], Store(tmp_path / "out")).settings()
    assert len({settings["lr"] for settings in found}) == 20


def _hold(out: Path, name: str, ready: Path) -> None:
    with Store(out).claim(name) as claimed:
        assert claimed
        ready.touch()
        signal.pause()


def test_the_slot_of_a_killed_process_is_free_at_once(blobs: Path, tmp_path: Path) -> None:
    store, ready = Store(tmp_path / "out"), tmp_path / "ready"
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["lra.lab.cli.main"])
    process = context.Process(target=_hold, args=(tmp_path / "out", "trial", ready))
    process.start()
    assert wait_for(ready.exists, process.is_alive)
    assert not store.free("trial")
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert store.free("trial")


def test_a_diverged_trial_is_never_the_best(blobs: Path, tmp_path: Path) -> None:
    store = Store(tmp_path / "out")
    experiment = grid_of(blobs, "even", trials=3).experiments[0]
    study = Study(experiment, store)
    points = study.settings()
    for settings, accuracy in zip(points, (None, 0.0, None), strict=True):
        record(store, experiment, settings, accuracy)
    names = [experiment.name_of(experiment.trial_config(settings)) for settings in points]
    result = study.result([outcome for name in names if (outcome := store.outcome(name))])
    assert result.settings == points[1]
    assert [value for _, value in result.trials] == [None, 0.0, None]


def test_a_trial_is_stopped_below_the_median_of_three_complete_ones(
    blobs: Path, tmp_path: Path
) -> None:
    store = Store(tmp_path / "out")
    experiment = grid_of(blobs, "even", trials=4).experiments[0]
    study = Study(experiment, store)
    names = [experiment.name_of(experiment.trial_config(s)) for s in study.settings()]

    def write(number: int, *scores: float) -> None:
        folder = store.folder(names[number])
        folder.mkdir(exist_ok=True)
        lines = [f"{epoch},{score}" for epoch, score in enumerate(scores, 1)]
        (folder / "metrics.csv").write_text("\n".join(("epoch,validation_accuracy", *lines, "")))

    for number, settings in enumerate(study.settings()[:3]):
        write(3, 10.0)
        assert not study.is_behind(names[3])
        record(store, experiment, settings, 90.0)
        write(number, 20.0 + 10 * number, 80.0)  # 20, 30 and 40 after the first epoch
    for scores, behind in (((29.0,), True), ((31.0,), False), ((31.0, 79.0), True)):
        write(3, *scores)
        assert study.is_behind(names[3]) == behind


def test_a_pruned_trial_ends_early_and_is_not_the_best(blobs: Path, tmp_path: Path) -> None:
    grid = dataclasses.replace(grid_of(blobs, "even", prune=True), epochs=4)
    schedule = run_trials(grid, tmp_path / "out")
    trials = schedule.trials(0)
    states = [outcome.state for trial in trials if (outcome := schedule.outcome(trial))]
    assert set(states) == {"done", "pruned"}
    lengths = [len(schedule.store.curve(schedule.job_name(trial))) for trial in trials]
    assert [length < 4 for length in lengths] == [state == "pruned" for state in states]
    best = trials[[dict(t.settings) for t in trials].index(schedule.settings(0))]  # type: ignore[arg-type]
    assert states[trials.index(best)] == "done"


LR, BETA, GAMMA = Range("lr", 1e-4, 1e-1, True), Range("beta", 0, 1), Choice("gamma", ("0", "1"))


@pytest.mark.parametrize(
    ("scores", "expected"),
    [
        ((50.0, 60.0, 70.0, 80.0), ("the highest lr",)),
        ((80.0, 70.0, 60.0, 50.0), ("the lowest lr",)),
        ((50.0, 80.0, 70.0, 60.0), ()),
        ((50.0, 60.0, 70.0, None), ()),
        ((80.0, None, None, None), ("the lowest lr",)),
        ((80.0, 10.0, 79.0, 79.0), ()),  # better on the other side, so no sign of a trend
    ],
)
def test_a_best_trial_at_the_edge_is_reported(
    scores: tuple[float | None, ...], expected: tuple[str, ...]
) -> None:
    rates = (1e-4, 1e-3, 1e-2, 1e-1)
    trials = [({"lr": lr}, score) for lr, score in zip(rates, scores, strict=True)]
    best = max(trials, key=lambda trial: trial[1] or 0)[0]
    assert edges([LR], best, trials) == expected


def test_each_range_has_its_own_edges_and_choices_have_none() -> None:
    trials = [
        ({"lr": 1e-4, "beta": 0.5, "gamma": "0"}, 50.0),
        ({"lr": 1e-3, "beta": 0.1, "gamma": "0"}, 60.0),
        ({"lr": 1e-2, "beta": 0.9, "gamma": "1"}, 80.0),
    ]
    best = trials[2][0]
    assert edges([LR, BETA, GAMMA], best, trials) == ("the highest lr", "the highest beta")
    assert edges([GAMMA], best, trials) == ()
    assert edges([LR], best, trials[2:]) == ()  # a single trial has no edge

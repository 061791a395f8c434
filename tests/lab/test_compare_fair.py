"""Fairness of a comparison: all rules have the same initial weights, batches, splits and trials."""

import dataclasses
import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch import Tensor
from workbench import write_blobs

import lra
from lra.lab.comparison import store
from lra.lab.comparison.grid import Grid, Search
from lra.lab.comparison.job import Job, execute
from lra.lab.comparison.schedule import Schedule
from lra.lab.comparison.store import Outcome
from lra.lab.runs import plots
from lra.lab.settings.spec import RULES_AND_METHODS
from lra.lab.training import loop, session
from lra.lab.training.batches import Batches


@pytest.fixture(autouse=True)
def _no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Skip each run's curves.png, which takes longer than the run."""
    monkeypatch.setattr(plots, "save", lambda *args, **more: None)


@pytest.fixture(scope="module")
def blobs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_blobs(tmp_path_factory.mktemp("data") / "blobs.npz")


def small(dataset: Path | str, **changes: Any) -> Grid:
    settings = {"models": ("mlp:width=5,depth=3",), "epochs": 2, "batch_size": 16, "device": "cpu"}
    return Grid((str(dataset),), **(settings | changes))


def bits(*tensors: Tensor) -> str:
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(tensor.detach().contiguous().numpy().tobytes())
    return digest.hexdigest()


def run_trials(grid: Grid, out: Path) -> Schedule:
    """Run the trials of all rules, one after the other."""
    schedule = Schedule(grid, out)
    while job := schedule.next(()):
        outcome = execute(grid, out, job)
        assert outcome is not None
        schedule.ended(job, outcome)
    assert schedule.finished()
    return schedule


class InputRecorder:
    """Records hashes of a run's initial weights, batches and splits."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.weights: list[str] = []
        self.batches: list[str] = []
        self.splits: list[str] = []
        prepare, epoch, place = session.prepare, Batches.epoch, session.place

        def recorded_prepare(rule: Any, network: Any, *args: Any) -> Any:
            self.weights.append(bits(*network.state_dict().values()))
            return prepare(rule, network, *args)

        def recorded_epoch(batches: Batches, number: int, first: int) -> Any:
            for batch in epoch(batches, number, first):
                self.batches.append(bits(batch.x, batch.y))
                yield batch

        def recorded_place(*args: Any) -> Any:
            pairs = place(*args)
            self.splits.append(bits(*(tensor for pair in pairs if pair for tensor in pair)))
            return pairs

        patch.setattr(session, "prepare", recorded_prepare)
        patch.setattr(Batches, "epoch", recorded_epoch)
        patch.setattr(session, "place", recorded_place)


def test_weights_batches_and_splits_are_the_same_for_every_rule(
    blobs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    grid = small(blobs, rules=tuple(RULES_AND_METHODS), seeds=2)
    inputs: dict[int, list[tuple[Any, ...]]] = {0: [], 1: []}
    for i, experiment in enumerate(grid.experiments):
        for seed in inputs:
            with monkeypatch.context() as patch:
                recorder = InputRecorder(patch)
                outcome = execute(grid, tmp_path, Job(i, seed))
            if outcome is not None and outcome.state == "refused":
                continue
            assert outcome is not None
            assert outcome.state == "done", f"{experiment}: {outcome.reason}"
            assert outcome.result is not None
            budget = outcome.result["epochs"], outcome.result["steps"], outcome.result["weights"]
            assert budget[:2] == (2, 2 * 8)
            assert len(recorder.batches) == 16
            inputs[seed].append((recorder.weights[0], recorder.splits, recorder.batches, budget))
    for records in inputs.values():
        assert len(records) >= 6
        assert all(record == records[0] for record in records)
    assert inputs[0][0][0] != inputs[1][0][0]
    assert inputs[0][0][1] != inputs[1][0][1]
    assert inputs[0][0][2] != inputs[1][0][2]


def test_configurations_differ_only_in_the_rule_and_its_settings(blobs: Path) -> None:
    grid = small(blobs, rules=("backprop", "lra-e:beta=0.2", "kolen-pollack:weight_decay=0.1"))
    chosen = {"lr": 0.01}
    plain = [
        dataclasses.replace(c.config(4, chosen), rule=lra.Backprop(), weight_decay=None)
        for c in grid.experiments
    ]
    assert all(config == plain[0] for config in plain)
    assert grid.experiments[2].config(4, chosen).weight_decay == 0.1
    trials = [
        dataclasses.replace(c.trial_config(chosen), rule=lra.Backprop()) for c in grid.experiments
    ]
    assert trials[0] == trials[1]
    assert trials[0].seed == 1000
    assert trials[0].seed not in range(grid.seeds)


def test_each_rule_has_the_same_trials(blobs: Path, tmp_path: Path) -> None:
    grid = small(blobs, rules=("backprop", "lra-e"), trials=3, seeds=0)
    schedule = run_trials(grid, tmp_path)
    points = [[settings for settings, _ in schedule.search_results[i].trials] for i in range(2)]
    assert points[0] == points[1]
    assert len(points[0]) == 3
    assert len(list((tmp_path / "runs").iterdir())) == 6


def test_trials_never_use_the_test_split_and_runs_use_it_once(
    blobs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with np.load(blobs) as arrays:
        x_test = arrays["x_test"]
    grid = small(blobs, rules=("backprop", "lra-e"), trials=2, seeds=1)
    measured: list[bool] = []
    measure = loop.measure

    def recorded(network: Any, x: Tensor, y: Tensor, loss: Any) -> Any:
        measured.append(len(y) == len(x_test) and bits(x) == bits(x.new_tensor(x_test)))
        return measure(network, x, y, loss)

    monkeypatch.setattr(loop, "measure", recorded)
    schedule = run_trials(dataclasses.replace(grid, seeds=0), tmp_path)
    for trial in (*schedule.trials(0), *schedule.trials(1)):
        outcome = schedule.outcome(trial)
        assert outcome is not None
        assert outcome.result is not None
        assert outcome.result["test_accuracy"] is None
    assert measured == [False] * 8  # two rules, two trials, two epochs
    measured.clear()
    settings = schedule.settings(0)
    assert settings is not None
    outcome = execute(grid, tmp_path, Job(0, 0, tuple(settings.items())))
    assert outcome is not None
    assert outcome.result is not None
    assert measured == [False, False, True, True]  # at the end, the best and the last weights
    execute(grid, tmp_path, Job(0, 0, tuple(settings.items())))
    assert len(measured) == 4


def test_settings_are_chosen_by_validation_and_independent_of_test_labels(
    blobs: Path, tmp_path: Path
) -> None:
    with np.load(blobs) as arrays:
        content = dict(arrays)
    results = []
    for name, labels in (("a", content["y_test"]), ("b", content["y_test"][::-1])):
        path = tmp_path / name / "blobs.npz"
        path.parent.mkdir()
        np.savez(path, **(content | {"y_test": labels}))
        grid = small(path, rules=("lra-e",), trials=3, seeds=0)
        schedule = run_trials(grid, tmp_path / name)
        assert schedule.settings(0)
        results.append(schedule.search_results[0])
    result = results[0]
    assert result == results[1]
    chosen = next(value for settings, value in result.trials if settings == result.settings)
    assert chosen == max(value for _, value in result.trials)


def test_a_smaller_loss_breaks_ties_of_accuracy(
    blobs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    losses = iter((0.5, 0.2, 0.3))

    def train(self: store.Store, name: str, *rest: Any) -> Outcome:
        return Outcome(
            "done", result={"validation_accuracy": 90.0, "validation_loss": next(losses)}
        )

    monkeypatch.setattr(store.Store, "train", train)
    grid = small(blobs, rules=("backprop",), trials=3, seeds=0)
    schedule = run_trials(grid, tmp_path)
    assert schedule.settings(0) == schedule.search_results[0].trials[1][0]


def test_tpe_and_pruning_give_each_rule_the_same_number_of_trials(
    blobs: Path, tmp_path: Path
) -> None:
    options = Search(("lr=1e-4..1e-1:log", "beta=0.1..1"), sampler="tpe", prune=True)
    grid = small(blobs, rules=("backprop", "lra-e"), trials=6, seeds=0, epochs=4, options=options)
    schedule = run_trials(grid, tmp_path)
    for i in range(2):
        assert len(schedule.search_results[i].trials) == 6
        assert len({tuple(s.items()) for s, _ in schedule.search_results[i].trials}) == 6
    stopped = [v is None for i in range(2) for _, v in schedule.search_results[i].trials]
    assert any(stopped)
    assert not all(stopped)

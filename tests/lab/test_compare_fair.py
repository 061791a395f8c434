"""A comparison is fair: each rule starts from the same weights and sees the same batches."""

import dataclasses
import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch import Tensor
from workbench import write_blobs

import lra
from lra.lab import plots, session, training
from lra.lab.batches import Batches
from lra.lab.compare import store
from lra.lab.compare.grid import Grid, Search
from lra.lab.compare.job import Job, execute
from lra.lab.compare.schedule import Schedule
from lra.lab.compare.spec import ENTRANTS
from lra.lab.compare.store import Outcome


@pytest.fixture(autouse=True)
def _no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out each run's curves.png, which takes longer than such a run."""
    monkeypatch.setattr(plots, "curves", lambda *args, **more: None)


@pytest.fixture(scope="module")
def blobs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_blobs(tmp_path_factory.mktemp("data") / "blobs.npz")


def small(dataset: Path | str, **changes: Any) -> Grid:
    settings = {"models": ("mlp:width=5,depth=3",), "epochs": 2, "batch_size": 16, "device": "cpu"}
    return Grid((str(dataset),), **(settings | changes))


def bits(*tensors: Tensor) -> str:
    found = hashlib.sha256()
    for tensor in tensors:
        found.update(tensor.detach().contiguous().numpy().tobytes())
    return found.hexdigest()


class Witness:
    """Writes down what a run starts from and sees."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.weights: list[str] = []
        self.batches: list[str] = []
        self.splits: list[str] = []
        prepare, epoch, place = session.prepare, Batches.epoch, session.place

        def watched_prepare(rule: Any, network: Any, *args: Any) -> Any:
            self.weights.append(bits(*network.state_dict().values()))
            return prepare(rule, network, *args)

        def watched_epoch(batches: Batches, number: int, first: int) -> Any:
            for batch in epoch(batches, number, first):
                self.batches.append(bits(batch.x, batch.y))
                yield batch

        def watched_place(*args: Any) -> Any:
            pairs = place(*args)
            self.splits.append(bits(*(tensor for pair in pairs if pair for tensor in pair)))
            return pairs

        patch.setattr(session, "prepare", watched_prepare)
        patch.setattr(Batches, "epoch", watched_epoch)
        patch.setattr(session, "place", watched_place)


def test_weights_batches_and_splits_are_the_same_for_every_rule(
    blobs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    grid = small(blobs, rules=tuple(ENTRANTS), seeds=2)
    seen: dict[int, list[tuple[Any, ...]]] = {0: [], 1: []}
    for i, contest in enumerate(grid.contests):
        for seed in seen:
            with monkeypatch.context() as patch:
                witness = Witness(patch)
                outcome = execute(grid, tmp_path, Job(i, seed))
            if outcome is not None and outcome.state == "refused":
                continue
            assert outcome is not None
            assert outcome.state == "done", f"{contest}: {outcome.reason}"
            assert outcome.result is not None
            budget = outcome.result["epochs"], outcome.result["steps"], outcome.result["weights"]
            assert budget[:2] == (2, 2 * 8)
            assert len(witness.batches) == 16
            seen[seed].append((witness.weights[0], witness.splits, witness.batches, budget))
    for records in seen.values():
        assert len(records) >= 6
        assert all(record == records[0] for record in records)
    assert seen[0][0][0] != seen[1][0][0]
    assert seen[0][0][1] != seen[1][0][1]
    assert seen[0][0][2] != seen[1][0][2]


def test_configurations_differ_by_the_rule_and_its_own_settings_alone(blobs: Path) -> None:
    grid = small(blobs, rules=("backprop", "lra-e:beta=0.2", "kolen-pollack:weight_decay=0.1"))
    found = {"lr": 0.01}
    plain = [
        dataclasses.replace(c.config(4, found), rule=lra.Backprop(), weight_decay=None)
        for c in grid.contests
    ]
    assert all(config == plain[0] for config in plain)
    assert grid.contests[2].config(4, found).weight_decay == 0.1
    trials = [
        dataclasses.replace(c.trial_config(found), rule=lra.Backprop()) for c in grid.contests
    ]
    assert trials[0] == trials[1]
    assert trials[0].seed == 1000
    assert trials[0].seed not in range(grid.seeds)


def test_each_rule_has_the_same_trials(blobs: Path, tmp_path: Path) -> None:
    grid = small(blobs, rules=("backprop", "lra-e"), trials=3, seeds=0)
    for i in range(2):
        for _ in range(5):  # two more than there are
            execute(grid, tmp_path, Job(i))
    schedule = Schedule(grid, tmp_path)
    assert schedule.finished()
    points = [[settings for settings, _ in schedule.found[i].trials] for i in range(2)]
    assert points[0] == points[1]
    assert len(points[0]) == 3
    assert len(list((tmp_path / "runs").iterdir())) == 6


def test_trials_do_not_touch_the_test_split_and_runs_do_so_once(
    blobs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with np.load(blobs) as arrays:
        x_test = arrays["x_test"]
    grid = small(blobs, rules=("backprop", "lra-e"), trials=2, seeds=1)
    measured: list[bool] = []
    measure = training.measure

    def watched(network: Any, x: Tensor, y: Tensor) -> Any:
        measured.append(len(y) == len(x_test) and bits(x) == bits(x.new_tensor(x_test)))
        return measure(network, x, y)

    monkeypatch.setattr(training, "measure", watched)
    for i in (0, 0, 1, 1):
        outcome = execute(grid, tmp_path, Job(i))
        assert outcome is not None
        assert outcome.result is not None
        assert outcome.result["test_accuracy"] is None
    assert measured == [False] * 8  # two trials of each rule, two epochs of each
    measured.clear()
    schedule = Schedule(grid, tmp_path)
    settings = schedule.settings(0)
    assert settings is not None
    outcome = execute(grid, tmp_path, Job(0, 0, tuple(settings.items())))
    assert outcome is not None
    assert outcome.result is not None
    assert measured == [False, False, True, True]  # at the end: the best weights and the last
    execute(grid, tmp_path, Job(0, 0, tuple(settings.items())))
    assert len(measured) == 4


def test_settings_are_chosen_by_validation_whatever_the_test_labels_say(
    blobs: Path, tmp_path: Path
) -> None:
    with np.load(blobs) as arrays:
        content = dict(arrays)
    found = []
    for name, labels in (("a", content["y_test"]), ("b", content["y_test"][::-1])):
        path = tmp_path / name / "blobs.npz"
        path.parent.mkdir()
        np.savez(path, **(content | {"y_test": labels}))
        grid = small(path, rules=("lra-e",), trials=3, seeds=0)
        for _ in range(3):
            execute(grid, tmp_path / name, Job(0))
        schedule = Schedule(grid, tmp_path / name)
        assert schedule.settings(0)
        found.append(schedule.found[0])
    assert found[0] == found[1]
    values = [value for _, value in found[0].trials]
    chosen = next(value for settings, value in found[0].trials if settings == found[0].settings)
    assert chosen == max(values)


def test_of_equal_accuracies_the_smaller_loss_is_chosen(
    blobs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    losses = iter((0.5, 0.2, 0.3))

    def train(self: store.Store, name: str, *rest: Any) -> Outcome:
        return Outcome(
            "done", result={"validation_accuracy": 90.0, "validation_loss": next(losses)}
        )

    monkeypatch.setattr(store.Store, "train", train)
    grid = small(blobs, rules=("backprop",), trials=3, seeds=0)
    for _ in range(3):
        execute(grid, tmp_path, Job(0))
    schedule = Schedule(grid, tmp_path)
    assert schedule.settings(0) == schedule.found[0].trials[1][0]


def test_tpe_and_pruning_give_each_rule_as_many_trials(blobs: Path, tmp_path: Path) -> None:
    options = Search(("lr=1e-4..1e-1:log", "beta=0.1..1"), sampler="tpe", prune=True)
    grid = small(blobs, rules=("backprop", "lra-e"), trials=6, seeds=0, epochs=4, options=options)
    for i in range(2):
        for _ in range(7):
            execute(grid, tmp_path, Job(i))
    schedule = Schedule(grid, tmp_path)
    assert schedule.finished()
    for i in range(2):
        assert len(schedule.found[i].trials) == 6
        assert len({tuple(s.items()) for s, _ in schedule.found[i].trials}) == 6
    stopped = [v is None for i in range(2) for _, v in schedule.found[i].trials]
    assert any(stopped)
    assert not all(stopped)

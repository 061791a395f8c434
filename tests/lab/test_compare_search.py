"""Trials in a database shared by several processes."""

import threading
import time
from pathlib import Path
from typing import Any

import pytest
from optuna.storages._rdb.models import TrialModel
from optuna.trial import TrialState
from test_compare_fair import small
from workbench import write_blobs

from lra.errors import OptionError
from lra.lab.comparison.grid import Search
from lra.lab.comparison.job import OnEpoch
from lra.lab.comparison.search import Score, Study, open_storage


@pytest.fixture
def experiment(tmp_path: Path) -> Any:
    options = Search(storage=f"sqlite:///{tmp_path / 'shared.db'}")
    return small(
        write_blobs(tmp_path / "blobs.npz"), rules=("backprop",), trials=8, seeds=0, options=options
    ).experiments[0]


def study_of(experiment: Any) -> Study:
    return Study(experiment, open_storage(experiment.grid.options.storage))


def test_each_trial_is_claimed_once(experiment: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also by workers that find it at the same moment, which is stretched here."""
    find = TrialModel.find_or_raise_by_id

    def slowly(trial_id: int, session: Any, for_update: bool = False) -> Any:
        found = find(trial_id, session, for_update)
        if for_update:
            time.sleep(0.05)
        return found

    studies = [study_of(experiment) for _ in range(4)]
    assert studies[0].num_waiting() == 8
    monkeypatch.setattr(TrialModel, "find_or_raise_by_id", slowly)
    claimed: list[float] = []
    barrier = threading.Barrier(len(studies))

    def train(settings: dict[str, Any], report: OnEpoch) -> Score:
        claimed.append(settings["lr"])
        return Score(0.5, 1.0)

    def claim(study: Study) -> None:
        barrier.wait()
        for _ in range(2):
            study.run_one(train)

    threads = [threading.Thread(target=claim, args=(study,)) for study in studies]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(claimed) == len(set(claimed)) == 8
    assert all(study.num_finished() == 8 for study in studies)


@pytest.mark.parametrize("reports", [True, False], ids=["reports", "ends"])
@pytest.mark.parametrize("state", [TrialState.FAIL, TrialState.COMPLETE])
def test_a_suspended_trial_belongs_to_those_who_replaced_it(
    experiment: Any, state: TrialState, reports: bool
) -> None:
    ours, theirs = study_of(experiment), study_of(experiment)
    reached: list[str] = []

    def train(settings: dict[str, Any], report: OnEpoch) -> Score:
        (trial,) = theirs.study.get_trials(states=(TrialState.RUNNING,))
        if state == TrialState.COMPLETE:
            theirs.study._storage.set_trial_user_attr(trial._trial_id, "loss", 1.0)
        values = 0.5 if state == TrialState.COMPLETE else None
        theirs.study.tell(trial.number, values, state)
        reached.append("replaced")
        if reports:
            report(1, 0.9)
            reached.append("continued")
        return Score(0.9, 0.1)

    ours.run_one(train)
    assert reached == ["replaced"]
    ended = state == TrialState.COMPLETE
    assert (theirs.num_finished(), theirs.num_waiting()) == (int(ended), 8 - ended)
    if ended:
        (trial,) = theirs.study.get_trials(states=(TrialState.COMPLETE,))
        assert (trial.value, trial.user_attrs["loss"]) == (0.5, 1.0)


@pytest.mark.parametrize("failure", [ValueError("a defect"), KeyError("a defect")])
def test_an_error_in_a_trial_propagates(experiment: Any, failure: Exception) -> None:
    def train(settings: dict[str, Any], report: OnEpoch) -> Score:
        raise failure

    study = study_of(experiment)
    with pytest.raises(type(failure), match="a defect"):
        study.run_one(train)
    assert study.num_waiting() == 8  # its slot is free again


@pytest.mark.parametrize("url", ["sqlite://", "sqlite:///:memory:"])
def test_a_database_in_memory_is_refused(url: str) -> None:
    with pytest.raises(OptionError, match=r"each process would have its own; name a file"):
        open_storage(url)

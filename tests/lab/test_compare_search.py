"""Trials in a database that several processes share."""

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from optuna.storages._rdb.models import TrialModel
from optuna.trial import TrialState
from test_compare_fair import small
from workbench import write_blobs

from lra.errors import OptionError
from lra.lab.compare.grid import Search
from lra.lab.compare.search import Score, Study, open_storage

Hear = Callable[[int, float], None]


@pytest.fixture
def contest(tmp_path: Path) -> Any:
    options = Search(storage=f"sqlite:///{tmp_path / 'shared.db'}")
    return small(
        write_blobs(tmp_path / "blobs.npz"), rules=("backprop",), trials=8, seeds=0, options=options
    ).contests[0]


def study_of(contest: Any) -> Study:
    return Study(contest, open_storage(contest.grid.options.storage))


def test_each_trial_is_taken_once(contest: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also by those who see it wait at the same moment, which is drawn out here."""
    find = TrialModel.find_or_raise_by_id

    def slowly(trial_id: int, session: Any, for_update: bool = False) -> Any:
        found = find(trial_id, session, for_update)
        if for_update:
            time.sleep(0.05)
        return found

    studies = [study_of(contest) for _ in range(4)]
    assert studies[0].takeable() == 8
    monkeypatch.setattr(TrialModel, "find_or_raise_by_id", slowly)
    taken: list[float] = []
    together = threading.Barrier(len(studies))

    def score(settings: dict[str, Any], hear: Hear) -> Score:
        taken.append(settings["lr"])
        return Score(0.5, 1.0)

    def take(study: Study) -> None:
        together.wait()
        for _ in range(2):
            study.try_one(score)

    threads = [threading.Thread(target=take, args=(study,)) for study in studies]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(taken) == len(set(taken)) == 8
    assert all(study.ended() == 8 for study in studies)


@pytest.mark.parametrize("speaks", [True, False], ids=["reports", "ends"])
@pytest.mark.parametrize("state", [TrialState.FAIL, TrialState.COMPLETE])
def test_a_trial_that_others_took_for_dead_is_theirs(
    contest: Any, state: TrialState, speaks: bool
) -> None:
    ours, theirs = study_of(contest), study_of(contest)
    reached: list[str] = []

    def score(settings: dict[str, Any], hear: Hear) -> Score:
        (trial,) = theirs.study.get_trials(states=(TrialState.RUNNING,))
        if state == TrialState.COMPLETE:
            theirs.study._storage.set_trial_user_attr(trial._trial_id, "loss", 1.0)
        values = 0.5 if state == TrialState.COMPLETE else None
        theirs.study.tell(trial.number, values, state)
        reached.append("slept")
        if speaks:
            hear(1, 0.9)
            reached.append("went on")
        return Score(0.9, 0.1)

    ours.try_one(score)
    assert reached == ["slept"]
    ended = state == TrialState.COMPLETE
    assert (theirs.ended(), theirs.takeable()) == (int(ended), 8 - ended)
    if ended:
        (trial,) = theirs.study.get_trials(states=(TrialState.COMPLETE,))
        assert (trial.value, trial.user_attrs["loss"]) == (0.5, 1.0)


@pytest.mark.parametrize("failure", [ValueError("a defect"), KeyError("a defect")])
def test_what_fails_in_a_trial_is_heard_of(contest: Any, failure: Exception) -> None:
    def score(settings: dict[str, Any], hear: Hear) -> Score:
        raise failure

    study = study_of(contest)
    with pytest.raises(type(failure), match="a defect"):
        study.try_one(score)
    assert study.takeable() == 8  # its slot is open again


@pytest.mark.parametrize("url", ["sqlite://", "sqlite:///:memory:"])
def test_a_database_in_memory_is_refused(url: str) -> None:
    with pytest.raises(OptionError, match=r"each process would have its own; name a file"):
        open_storage(url)

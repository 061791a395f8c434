"""Trials of settings on the validation split, in an Optuna database that machines can share.

A rule on a network has one study, with a slot for each of its trials. If the process of a trial
dies, its slot gets a new trial with the same settings, which resumes the run.
"""

import datetime
import hashlib
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import optuna
import sqlalchemy.event
import sqlalchemy.exc
import sqlalchemy.pool
from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import FrozenTrial, Trial, TrialState

from lra.errors import LraError, OptionError
from lra.lab.comparison.grid import Experiment
from lra.lab.comparison.space import Range, even_point

HEARTBEAT, GRACE = 5, 30
"""Seconds between heartbeats of a trial, and without one until the trial counts as dead."""

FINISHED = (TrialState.COMPLETE, TrialState.PRUNED)
Settings = dict[str, Any]


@dataclass(frozen=True)
class Score:
    """The score of a trial: a larger `value` is better, and of equal ones the smaller `loss`."""

    value: float
    loss: float


@dataclass(frozen=True)
class SearchResult:
    """The result of a search: the best settings, and each trial's settings and value.

    The value is None for a trial that was stopped early.
    """

    settings: Settings
    trials: tuple[tuple[Settings, float | None], ...]


Training = Callable[[Settings, Callable[[int, float], None]], Score]
"""Trains with settings, and passes each epoch's number and value to its second argument."""


class Pruned(LraError):  # noqa: N818 - not an error
    """Raised to stop a trial early."""


class _DuplicateTrial(Exception):  # noqa: N818 - not an error
    """Raised to end a trial whose slot has been given to another trial."""


def open_storage(url: str) -> optuna.storages.RDBStorage:
    """Open a database, and create its tables if needed.

    Raises:
        OptionError: if the database cannot be opened.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    options = {"connect_args": {"timeout": 60}} if url.startswith("sqlite:") else {}
    for attempt in range(6):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
                storage = optuna.storages.RDBStorage(
                    url, options, heartbeat_interval=HEARTBEAT, grace_period=GRACE
                )
            if storage.engine.dialect.name == "sqlite":
                _lock_while_reading(storage.engine, url)
            return storage
        except (sqlalchemy.exc.DBAPIError, sqlalchemy.exc.ArgumentError, ImportError) as error:
            # Creating the tables fails while another process creates them.
            if attempt == 5 or not isinstance(error, sqlalchemy.exc.DBAPIError):
                raise OptionError(
                    f"storage {url!r}: the database cannot be opened ({error})"
                ) from error
            time.sleep(0.2 * 2**attempt)
    raise AssertionError("unreachable")


def _lock_while_reading(engine: sqlalchemy.Engine, url: str) -> None:
    """Make SQLite lock the database from the first read of a transaction.

    Optuna claims a waiting trial with SELECT ... FOR UPDATE, which SQLite does not support. Without
    this lock two processes can claim the same trial.

    Raises:
        OptionError: if the database is in memory.
    """
    if not isinstance(engine.pool, sqlalchemy.pool.QueuePool):  # SQLAlchemy's pool for files
        raise OptionError(
            f"storage {url!r} is a database in memory, so each process would have its own; "
            "name a file (sqlite:///trials.db) or the database of a server"
        )

    @sqlalchemy.event.listens_for(engine, "connect")
    def disable_implicit_transactions(connection: Any, _: Any) -> None:
        connection.isolation_level = None

    @sqlalchemy.event.listens_for(engine, "begin")
    def begin(connection: sqlalchemy.Connection) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    engine.dispose()  # close connections opened without the lock


class Study:
    """The trials of a rule on a network."""

    def __init__(self, experiment: Experiment, storage: optuna.storages.RDBStorage) -> None:
        self.experiment = experiment
        options = experiment.grid.options
        how = repr((experiment.space, options.sampler, options.prune))
        self.name = f"{experiment.key}-{hashlib.sha256(how.encode()).hexdigest()[:8]}"
        pruner: optuna.pruners.BasePruner = optuna.pruners.NopPruner()
        if options.prune:
            pruner = optuna.pruners.MedianPruner(n_startup_trials=3, n_warmup_steps=1)
        self.study = optuna.create_study(
            storage=storage, study_name=self.name, direction="maximize", pruner=pruner,
            load_if_exists=True,
        )  # fmt: skip

    def num_waiting(self) -> int:
        """Return the number of trials that no process has claimed."""
        self._fill_slots()
        return sum(trial.state == TrialState.WAITING for trial in self._slots().values())

    def num_finished(self) -> int:
        """Return the number of trials that have ended."""
        return sum(trial.state in FINISHED for trial in self._slots().values())

    def result(self) -> SearchResult | None:
        """Return the result, or None before all trials have ended."""
        slots = self._slots()
        trials = [slots[i] for i in range(self.experiment.trials) if i in slots]
        if len(trials) < self.experiment.trials or any(t.state not in FINISHED for t in trials):
            return None
        complete = [t for t in trials if t.state == TrialState.COMPLETE]
        best = max(complete, key=lambda t: (t.value, -t.user_attrs["loss"], -t.user_attrs["slot"]))
        values = tuple((t.params, t.value if t in complete else None) for t in trials)
        return SearchResult(best.params, values)

    def run_one(self, train: Training) -> None:
        """Run a waiting trial, if there is one.

        If this process was suspended for so long that others gave its trial away, the trial ends
        here silently.

        Args:
            train: trains; its second argument raises `Pruned` to stop the trial early.
        """
        failures: list[Exception] = []

        def objective(trial: Trial) -> float:
            try:
                return self._train(trial, train)
            except UpdateFinishedTrialError as error:
                raise _DuplicateTrial from error
            except Exception as error:
                failures.append(error)
                raise

        if not self.num_waiting():
            return
        try:
            self.study.optimize(objective, n_trials=1, catch=(_DuplicateTrial,))
        except ValueError as error:  # Optuna raises it for a trial that others have ended
            if error in failures:
                raise

    def _train(self, trial: Trial, train: Training) -> float:
        """Train with a trial's settings, if the trial still holds its slot."""
        trial.set_user_attr("begun", True)
        slot = trial.user_attrs.get("slot", -1)
        holder = self._slots().get(slot)
        if holder is None or holder.number != trial.number:
            raise _DuplicateTrial
        self.study.sampler = self._sampler(slot)
        settings = {
            one.name: trial.suggest_float(one.name, one.low, one.high, log=one.log)
            if isinstance(one, Range)
            else trial.suggest_categorical(one.name, one.values)
            for one in self.experiment.space
        }

        def report(epoch: int, value: float) -> None:
            trial.report(value, epoch)
            if trial.should_prune():
                raise Pruned(f"trial {trial.number} stops after epoch {epoch}")

        try:
            score = train(settings, report)
        except Pruned as stop:
            raise optuna.TrialPruned(str(stop)) from stop
        trial.set_user_attr("loss", score.loss)
        return score.value

    def _slots(self) -> dict[int, FrozenTrial]:
        """Return the trial of each slot that has a live or finished one, the first of several."""
        slots: dict[int, FrozenTrial] = {}
        for trial in self.study.get_trials(deepcopy=False):
            if "slot" in trial.user_attrs and trial.state != TrialState.FAIL:
                slots.setdefault(trial.user_attrs["slot"], trial)
        return slots

    def _fill_slots(self) -> None:
        """Enqueue a trial for each empty slot, with the settings of its dead trial if any."""
        self._fail_stale()
        slots = self._slots()
        if all(slot in slots for slot in range(self.experiment.trials)):
            return
        dead = {
            trial.user_attrs["slot"]: trial.params
            for trial in self.study.get_trials(deepcopy=False)
            if trial.state == TrialState.FAIL and "slot" in trial.user_attrs and trial.params
        }
        for slot in range(self.experiment.trials):
            if slot not in slots:
                settings = dead.get(slot) or self._point(slot)
                self.study.enqueue_trial(settings, user_attrs={"slot": slot})

    def _fail_stale(self) -> None:
        """Mark trials without a recent heartbeat as failed."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            optuna.storages.fail_stale_trials(self.study)
        late = datetime.datetime.now() - datetime.timedelta(seconds=2 * GRACE)
        for trial in self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            # Optuna does not notice a process killed between a trial's start and first heartbeat.
            started = trial.datetime_start
            if "begun" not in trial.user_attrs and started is not None and started < late:
                self.study.tell(trial.number, state=TrialState.FAIL, skip_if_finished=True)

    def _point(self, slot: int) -> Settings:
        """Return the settings of a slot, or none of them if the sampler chooses."""
        match self.experiment.grid.options.sampler:
            case "tpe":
                return {}
            case "random":
                draw = np.random.default_rng(self._seed(slot))
                return {one.name: one.at(draw.random()) for one in self.experiment.space}
            case _:
                return dict(even_point(self.experiment.space, slot))

    def _sampler(self, slot: int) -> optuna.samplers.BaseSampler:
        """Return the sampler of a slot, with the slot's own seed."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            return optuna.samplers.TPESampler(
                seed=self._seed(slot),
                constant_liar=True,
                n_startup_trials=max(2, self.experiment.trials // 3),
            )

    def _seed(self, number: int) -> int:
        return int(hashlib.sha256(f"{self.name}/{number}".encode()).hexdigest()[:8], 16)

"""Trials of settings on the validation split, in an Optuna database that many machines may share.

A rule on a network has one study, with a slot for each of its trials. A slot whose process died is
filled anew with the settings that it had, so that its run goes on where it was.
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
from lra.lab.compare.grid import Contest
from lra.lab.compare.space import Range, even_point

HEARTBEAT, GRACE = 5, 30
"""Seconds between signs of life of a trial, and after which a trial without one is dead."""

FINISHED = (TrialState.COMPLETE, TrialState.PRUNED)
Settings = dict[str, Any]


@dataclass(frozen=True)
class Score:
    """How good a trial was: `value` is the larger the better, and `loss` decides between equals."""

    value: float
    loss: float


@dataclass(frozen=True)
class Found:
    """What a search found: the settings, and each trial's with its value (None: stopped early)."""

    settings: Settings
    trials: tuple[tuple[Settings, float | None], ...]


Training = Callable[[Settings, Callable[[int, float], None]], Score]
"""Trains with settings, and tells each epoch's number and value to its second argument."""


class Pruned(LraError):  # noqa: N818 - no error: the trial has said enough
    """A trial that is not worth its other epochs."""


class _Superfluous(Exception):  # noqa: N818 - no error: another trial has the slot
    """A trial that is nobody's."""


def open_storage(url: str) -> optuna.storages.RDBStorage:
    """Open a database, and make its tables where it has none.

    Raises:
        OptionError: for a URL that leads to no database.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    options = {"connect_args": {"timeout": 60}} if url.startswith("sqlite:") else {}
    for again in range(6):
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
            # Two processes that make the tables at the same moment are in each other's way.
            if again == 5 or not isinstance(error, sqlalchemy.exc.DBAPIError):
                raise OptionError(f"storage {url!r}: no database that opens ({error})") from error
            time.sleep(0.2 * 2**again)
    raise AssertionError("unreachable")


def _lock_while_reading(engine: sqlalchemy.Engine, url: str) -> None:
    """Have SQLite lock the database from a transaction's first reading on.

    It knows no SELECT ... FOR UPDATE, by which Optuna takes a trial that waits: two processes would
    find the same one waiting, and both take it.

    Raises:
        OptionError: for a database in memory.
    """
    if not isinstance(engine.pool, sqlalchemy.pool.QueuePool):  # which only files have
        raise OptionError(
            f"storage {url!r}: a database in memory, of which each process would have its own; "
            "name a file (sqlite:///trials.db), or a server's database"
        )

    @sqlalchemy.event.listens_for(engine, "connect")
    def leave_transactions_to_us(connection: Any, _: Any) -> None:
        connection.isolation_level = None

    @sqlalchemy.event.listens_for(engine, "begin")
    def begin(connection: sqlalchemy.Connection) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    engine.dispose()  # of the connections that were made before


class Study:
    """The trials of a rule on a network."""

    def __init__(self, contest: Contest, storage: optuna.storages.RDBStorage) -> None:
        self.contest = contest
        options = contest.grid.options
        how = repr((contest.space, options.sampler, options.prune))
        self.name = f"{contest.key}-{hashlib.sha256(how.encode()).hexdigest()[:8]}"
        pruner: optuna.pruners.BasePruner = optuna.pruners.NopPruner()
        if options.prune:
            pruner = optuna.pruners.MedianPruner(n_startup_trials=3, n_warmup_steps=1)
        self.study = optuna.create_study(
            storage=storage, study_name=self.name, direction="maximize", pruner=pruner,
            load_if_exists=True,
        )  # fmt: skip

    def takeable(self) -> int:
        """Count the trials that wait for somebody."""
        self._fill()
        return sum(trial.state == TrialState.WAITING for trial in self._slots().values())

    def ended(self) -> int:
        """Count the trials that have ended."""
        return sum(trial.state in FINISHED for trial in self._slots().values())

    def found(self) -> Found | None:
        """Give the best settings, once all trials have ended."""
        slots = self._slots()
        ended = [slots[i] for i in range(self.contest.trials) if i in slots]
        if len(ended) < self.contest.trials or any(t.state not in FINISHED for t in ended):
            return None
        whole = [t for t in ended if t.state == TrialState.COMPLETE]
        best = max(whole, key=lambda t: (t.value, -t.user_attrs["loss"], -t.user_attrs["slot"]))
        trials = tuple((t.params, t.value if t in whole else None) for t in ended)
        return Found(best.params, trials)

    def try_one(self, score: Training) -> None:
        """Run a trial that waits, if there is one.

        A trial that others took for dead, since this process slept, is theirs: it ends here
        without a word.

        Args:
            score: trains; what it tells epochs to raises `Pruned` where the trial is not worth
                more.
        """
        failures: list[Exception] = []

        def objective(trial: Trial) -> float:
            try:
                return self._score(trial, score)
            except UpdateFinishedTrialError as error:
                raise _Superfluous from error
            except Exception as error:
                failures.append(error)
                raise

        if not self.takeable():
            return
        try:
            self.study.optimize(objective, n_trials=1, catch=(_Superfluous,))
        except ValueError as error:  # Optuna's, of a trial that has ended
            if error in failures:
                raise

    def _score(self, trial: Trial, score: Training) -> float:
        """Train with a trial's settings, if the trial is its slot's."""
        trial.set_user_attr("begun", True)
        slot = trial.user_attrs.get("slot", -1)
        taken = self._slots().get(slot)
        if taken is None or taken.number != trial.number:
            raise _Superfluous
        self.study.sampler = self._sampler(slot)
        settings = {
            one.name: trial.suggest_float(one.name, one.low, one.high, log=one.log)
            if isinstance(one, Range)
            else trial.suggest_categorical(one.name, one.values)
            for one in self.contest.space
        }

        def hear(epoch: int, value: float) -> None:
            trial.report(value, epoch)
            if trial.should_prune():
                raise Pruned(f"trial {trial.number} stops after epoch {epoch}")

        try:
            found = score(settings, hear)
        except Pruned as stop:
            raise optuna.TrialPruned(str(stop)) from stop
        trial.set_user_attr("loss", found.loss)
        return found.value

    def _slots(self) -> dict[int, FrozenTrial]:
        """Give the trial of each slot that has one alive or ended: the first, where two have."""
        slots: dict[int, FrozenTrial] = {}
        for trial in self.study.get_trials(deepcopy=False):
            if "slot" in trial.user_attrs and trial.state != TrialState.FAIL:
                slots.setdefault(trial.user_attrs["slot"], trial)
        return slots

    def _fill(self) -> None:
        """Put a trial into each slot that has none, with the settings of the one that died."""
        self._bury()
        slots = self._slots()
        if all(slot in slots for slot in range(self.contest.trials)):
            return
        dead = {
            trial.user_attrs["slot"]: trial.params
            for trial in self.study.get_trials(deepcopy=False)
            if trial.state == TrialState.FAIL and "slot" in trial.user_attrs and trial.params
        }
        for slot in range(self.contest.trials):
            if slot not in slots:
                settings = dead.get(slot) or self._point(slot)
                self.study.enqueue_trial(settings, user_attrs={"slot": slot})

    def _bury(self) -> None:
        """Mark trials whose processes gave no sign of life as failed."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            optuna.storages.fail_stale_trials(self.study)
        late = datetime.datetime.now() - datetime.timedelta(seconds=2 * GRACE)
        for trial in self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            # Killed between its start and its first sign of life, which Optuna does not notice.
            started = trial.datetime_start
            if "begun" not in trial.user_attrs and started is not None and started < late:
                self.study.tell(trial.number, state=TrialState.FAIL, skip_if_finished=True)

    def _point(self, slot: int) -> Settings:
        """Give the settings of a slot; none where the sampler is to choose."""
        match self.contest.grid.options.sampler:
            case "tpe":
                return {}
            case "random":
                draw = np.random.default_rng(self._seed(slot))
                return {one.name: one.at(draw.random()) for one in self.contest.space}
            case _:
                return dict(even_point(self.contest.space, slot))

    def _sampler(self, slot: int) -> optuna.samplers.BaseSampler:
        """Give what chooses a slot's settings, by chance of its own, where they are not given."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            return optuna.samplers.TPESampler(
                seed=self._seed(slot),
                constant_liar=True,
                n_startup_trials=max(2, self.contest.trials // 3),
            )

    def _seed(self, number: int) -> int:
        return int(hashlib.sha256(f"{self.name}/{number}".encode()).hexdigest()[:8], 16)

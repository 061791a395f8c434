"""Trials of settings on the validation split: their points, their scores, and the best one.

A trial is a run of `lra train` without the test split, and is claimed, resumed and stored like one.
Its settings follow from its number, except with the adaptive sampler, which writes them down:

    OUT/trials/NAME.json   the settings drawn so far for a rule on a network
"""

import hashlib
import math
import statistics
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lra.lab.comparison.grid import Experiment
from lra.lab.comparison.space import Range, edges, even_point
from lra.lab.comparison.store import Outcome, Store

Settings = dict[str, Any]

WORST = (-math.inf, -math.inf)
"""The score of a trial that diverged or was stopped early."""

MEDIAN_OF = 3
"""The least number of complete trials whose median stops another one."""


@dataclass(frozen=True)
class SearchResult:
    """The result of a search: the best settings, and each trial's settings and value.

    The value is None for a trial that diverged or was stopped early. `edges` names the settings
    whose best value is the lowest or highest one tried.
    """

    settings: Settings
    trials: tuple[tuple[Settings, float | None], ...]
    edges: tuple[str, ...]


def validation_score(figures: Mapping[str, Any], text: bool) -> float:
    """Return the score by which settings are chosen, higher is better.

    It is the validation accuracy; on text, minus the validation loss.
    """
    return float(-figures["validation_loss"] if text else figures["validation_accuracy"])


class Study:
    """The trials of a rule on a network.

    Args:
        experiment: the rule and the network.
        store: the comparison's folder.
    """

    def __init__(self, experiment: Experiment, store: Store) -> None:
        self.experiment, self.store = experiment, store
        self.adaptive = experiment.grid.options.sampler == "tpe"
        space = hashlib.sha256(repr(experiment.space).encode()).hexdigest()[:8]
        self.name = f"{experiment.name_of(experiment.trial_config({}))}-{space}"

    def settings(self) -> list[Settings]:
        """Return the settings of the trials, in order; of those drawn so far if they adapt."""
        if self.adaptive:
            return self.store.drawn(self.name)[: self.experiment.trials]
        return [self._point(number) for number in range(self.experiment.trials)]

    def draw(self) -> None:
        """Draw the settings of one more trial from the scores so far, and store them."""
        with self.store.lock(self.name):
            known = self.store.drawn(self.name)
            if len(known) < self.experiment.trials:
                self.store.write_drawn(self.name, [*known, self._suggest(known)])

    def result(self, outcomes: Sequence[Outcome]) -> SearchResult:
        """Return the result of all trials, given their outcomes; the first of equal ones wins."""
        scores, trials = [self._score(outcome) for outcome in outcomes], self.settings()
        best = trials[max(range(len(trials)), key=scores.__getitem__)]
        values = [None if score == WORST else score[0] for score in scores]
        pairs = tuple(zip(trials, values, strict=True))
        return SearchResult(best, pairs, edges(self.experiment.space, best, pairs))

    def is_behind(self, name: str) -> bool:
        """Return whether a trial's best score is below the median of the complete trials' then.

        Args:
            name: the name of the trial's run, some of whose epochs are done.
        """
        scores = self._scores(name)
        others = {self._run_name(settings) for settings in self.settings()}
        outcomes = {other: self.store.outcome(other) for other in others}
        done = [other for other, found in outcomes.items() if found and found.state == "done"]
        best = [max(self._scores(other)[: len(scores)]) for other in done]
        return len(best) >= MEDIAN_OF and max(scores) < statistics.median(best)

    def _scores(self, name: str) -> list[float]:
        """Return the validation score of a run after each of its epochs so far."""
        text = self.experiment.problem.text
        return [validation_score(row, text) for row in self.store.curve(name)]

    def _run_name(self, settings: Settings) -> str:
        return self.experiment.name_of(self.experiment.trial_config(settings))

    def _score(self, outcome: Outcome | None) -> tuple[float, float]:
        """Return a score, and for equal ones minus the loss."""
        if outcome is None or outcome.result is None:
            return WORST
        loss = outcome.result["validation_loss"]
        return validation_score(outcome.result, self.experiment.problem.text), -loss

    def _point(self, number: int) -> Settings:
        """Return the settings of a trial, the same for every rule with this space."""
        if self.experiment.grid.options.sampler == "random":
            draw = np.random.default_rng(number)
            return {one.name: one.at(draw.random()) for one in self.experiment.space}
        return dict(even_point(self.experiment.space, number))

    def _suggest(self, known: Sequence[Settings]) -> Settings:
        """Return settings from Optuna's TPE sampler, whose seed is the number of the trial."""
        import optuna  # takes a second

        distributions: dict[str, optuna.distributions.BaseDistribution] = {
            one.name: optuna.distributions.FloatDistribution(one.low, one.high, log=one.log)
            if isinstance(one, Range)
            else optuna.distributions.CategoricalDistribution(one.values)
            for one in self.experiment.space
        }
        verbosity = optuna.logging.get_verbosity()
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
                sampler = optuna.samplers.TPESampler(
                    seed=len(known),
                    constant_liar=True,  # keep away from trials that are still running
                    n_startup_trials=max(2, self.experiment.trials // 3),
                )
            study = optuna.create_study(direction="maximize", sampler=sampler)
            for settings in known:
                outcome = self.store.outcome(self._run_name(settings))
                state = optuna.trial.TrialState.COMPLETE if outcome else None
                study.add_trial(
                    optuna.trial.create_trial(
                        state=state or optuna.trial.TrialState.RUNNING,
                        value=self._score(outcome)[0] if outcome else None,
                        params=settings,
                        distributions=distributions,
                    )
                )
            return dict(study.ask(distributions).params)
        finally:
            optuna.logging.set_verbosity(verbosity)

"""The training loop: steps, epochs, checkpoints, and how a run stops and goes on."""

import contextlib
import math
import platform
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import lra
from lra.errors import Diverged, RunError
from lra.lab import runs
from lra.lab.batches import Batch, Pair
from lra.lab.config import TrainConfig
from lra.lab.diagnoses import DiagnosesReporter
from lra.lab.display import Reporter
from lra.lab.finite import where_not_finite
from lra.lab.learning import answering, step_by
from lra.lab.measure import Measured, count_right, cross_entropy, measure
from lra.lab.models import build_network, plain_state
from lra.lab.reporters import EventsReporter, FilesReporter, Reporters
from lra.lab.schedule import factor
from lra.lab.session import Session
from lra.lab.state import State
from lra.lab.stop import Stop
from lra.lab.verdict import verdict
from lra.methods import Method

CHECK_EVERY = 20
"""Steps between reports, and between looks at the losses where a look waits for a device."""
SAVE_EVERY = 120.0
"""Seconds between checkpoints inside an epoch."""


class Interrupted(lra.LraError):
    """A run that a signal ended; it can be resumed.

    Attributes:
        signal: the signal's number.
    """

    def __init__(self, number: int, folder: Path) -> None:
        super().__init__(f"stopped; go on with: lra train --resume {folder}")
        self.signal = number


def train(
    config: TrainConfig,
    folder: Path,
    *,
    overwrite: bool = False,
    data_folder: Path | None = None,
    reporter: Reporter | None = None,
) -> dict[str, Any]:
    """Train a network as configured, and leave the run in a folder.

    Args:
        config: what to train.
        folder: where the run goes; it must be new or empty.
        overwrite: replace an earlier run in that folder.
        data_folder: where the dataset's files are, if not in the cache.
        reporter: hears what happens; silent by default.

    Returns:
        What `result.json` holds.

    Raises:
        OptionError: for settings that do not fit the data.
        DataError: where the data cannot be had.
        Diverged: where the loss or a weight stops being finite.
        RunError: where the folder is taken, or the disk refuses.
        Interrupted: after Ctrl-C or SIGTERM, with a checkpoint written.
    """
    run = _Run(config, folder, data_folder, reporter or Reporter())
    with run.alone(lambda: runs.make_folder(folder, overwrite)):
        run.first(lambda: runs.create(folder, config))
        return run.go(State())


def resume(
    folder: Path, *, data_folder: Path | None = None, reporter: Reporter | None = None
) -> dict[str, Any]:
    """Continue a run from its newest good checkpoint, to the bits of an uninterrupted run.

    Arguments, results and errors as `train`'s, and a `DataError` for other data than those that
    the run was trained on.
    """
    run = _Run(runs.read_config(folder), folder, data_folder, reporter or Reporter())
    with run.alone():
        return run.go(run.take_up())


class _Run(Session):
    """The loop of one process."""

    def __init__(
        self, config: TrainConfig, folder: Path, data_folder: Path | None, reporter: Reporter
    ) -> None:
        super().__init__(config, folder, data_folder, reporter)
        self.check_every = 1 if self.device.type == "cpu" else CHECK_EVERY
        self.stop = Stop()
        self.diagnoses: DiagnosesReporter | None = None

    def go(self, state: State) -> dict[str, Any]:
        """Train from a state to the end."""
        steps = self.batches.steps
        epochs = self.config.epochs_of(steps)
        self.all_steps = epochs * steps
        patience = self.config.patience or epochs
        with self.stop.listening(), contextlib.closing(self._reporters(state)) as reporter:
            reporter.start(self.describe(), epochs, steps, self.text)
            self.began = time.monotonic() - state.seconds
            try:
                while state.epoch < epochs and state.epoch - state.best_epoch < patience:
                    self._epoch(state, reporter)
                    reporter.epoch(state.rows[-1], epochs)
            except RunError:
                self._say_verdict(reporter)
                raise
            result = self._result(state)
            reporter.end(result, self.folder)
            self._say_verdict(reporter)
        return result

    def _reporters(self, state: State) -> Reporter:
        """Give who hears of the run: its files and log, and whoever was passed; one process's."""
        if not self.fabric.is_global_zero:
            return Reporter()
        shape, classes = list(self.data.sample_shape), list(self.data.classes)
        about = {"sample_shape": shape, "classes": classes}
        rule = self.config.rule.name
        title = f"{self.data.name}, {self.config.model}, {rule}, seed {self.config.seed}"
        files = FilesReporter(self.folder, state, about, title)
        if not self.config.diagnose:
            return Reporters((files, EventsReporter(self.folder, state.rows), self.reporter))
        done = state.epoch * self.batches.steps + state.step
        self.diagnoses = DiagnosesReporter(self.folder, done)
        log = EventsReporter(self.folder, state.rows, self.diagnoses.rows)
        return Reporters((files, log, self.diagnoses, self.reporter))

    def _epoch(self, state: State, reporter: Reporter) -> None:
        """Do an epoch, or the rest of one."""
        pending: list[tuple[Tensor, Tensor, int]] = []
        seen, steps = state.step * self.config.batch_size, self.batches.steps
        self.model.train()
        for batch in self.batches.epoch(state.epoch, state.step):
            self._diagnose(state, batch, reporter)
            self.stepper.zero_grad()
            loss, right = self._learn(batch, reporter)
            state.step += 1
            seen += batch.size
            pending.append((loss.detach(), right, batch.predictions))
            if len(pending) == self.check_every or state.step == steps:
                self._account(state, pending, batch.x)  # before a loss that is not finite spreads
            if loss.requires_grad:  # methods and compiled graphs have been all the way back
                self.fabric.backward(loss)
            self._set_rates(state.epoch * steps + state.step - 1)
            self.stepper.step()
            if not pending and (state.step % CHECK_EVERY == 0 or state.step == steps):
                state.seconds = time.monotonic() - self.began
                each = batch.predictions // batch.size
                reporter.step(state.step, state.loss_sum, state.correct, seen * each)
            if number := self._stop_at(state, pending, batch.x):
                state.seconds = time.monotonic() - self.began
                self.save(state)
                raise Interrupted(number, self.folder)
            if not pending and time.monotonic() - self.last_save > SAVE_EVERY and self.world == 1:
                self.save(state)
        self._close_epoch(state)

    def _diagnose(self, state: State, batch: Batch, reporter: Reporter) -> None:
        """Diagnose the rule at a step's batch, if it is time, in the first process alone."""
        done = state.epoch * self.batches.steps + state.step
        if self.diagnoses is None or done % (self.config.diagnose or 1):
            return
        paused = time.monotonic()

        rule = self.config.rule
        with self.fabric.autocast():
            if isinstance(rule, Method):
                found = lra.diagnose(
                    *(self.network, batch.x, batch.y), loss=cross_entropy,
                    method=rule, loss_terms=batch.predictions, optimizer=self.optimizer,
                )  # fmt: skip
            else:
                found = lra.diagnose(
                    self.network, loss=lambda: self._forward(self.network, batch)[0],
                    optimizer=self.optimizer,
                )  # fmt: skip
        reporter.diagnosis(state.epoch + 1, done, found)
        self.began += time.monotonic() - paused  # it is no part of training

    def _say_verdict(self, reporter: Reporter) -> None:
        """Say which layers' updates were of no use, if any were."""
        if self.diagnoses and (said := verdict(self.diagnoses.rows, self.config.rule)):
            reporter.note(said)

    def _learn(self, batch: Batch, reporter: Reporter) -> tuple[Tensor, Tensor]:
        """Give what `_forward` does, from a compiled graph where there is one for such a batch."""
        if self.compiled is None or batch.size < self.config.batch_size:
            return self._forward(self.model, batch)
        before = self.compiled.compilations
        found: tuple[Tensor, Tensor] = self.compiled.updates(batch.x, batch.y)
        if self.compiled.compilations > before:
            reporter.note(f"compiling took {self.compiled.seconds:.1f} s")
        return found

    def _forward(self, model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
        """Give the loss, and how many predictions are right, of one process's part of a batch."""
        if isinstance(self.config.rule, Method):
            with self.fabric.autocast():
                loss, logits = step_by(
                    *(self.config.rule, self.network, batch.x),
                    lambda logits: cross_entropy(logits, batch.y), batch.predictions,
                )  # fmt: skip
            return loss, count_right(logits, batch.y)
        if self.world == 1:
            logits = model(batch.x)
            return cross_entropy(logits, batch.y), count_right(logits, batch.y)
        # Processes average their updates: each one's share of the mean, times their number.
        lra.set_loss_terms(self.network, batch.predictions / self.world)
        logits = model(batch.x)
        share = self.world / batch.predictions * batch.counts
        return cross_entropy(logits, batch.y, "sum") * share, (
            count_right(logits, batch.y) * batch.counts
        )

    def _set_rates(self, step: int) -> None:
        """Set the step sizes for a step of the run, counted from 0."""
        by = factor(self.config.schedule, self.config.warmup, step, self.all_steps)
        for group, rate in zip(self.optimizer.param_groups, self.rates, strict=True):
            group["lr"] = rate * by

    def _account(self, state: State, pending: list[tuple[Tensor, Tensor, int]], x: Tensor) -> None:
        """Add up the losses of the last steps, and stop where one is not finite."""
        sums = torch.stack([torch.stack((a, c.to(a.dtype))) for a, c, _ in pending])
        sums = self.fabric.all_reduce(sums, reduce_op="sum")  # type: ignore[assignment]
        first = state.step - len(pending)
        for i, (loss, correct) in enumerate(sums.tolist()):
            if not math.isfinite(loss):
                raise Diverged(
                    f"the loss became {loss} in epoch {state.epoch + 1}, step {first + i + 1}, "
                    f"{where_not_finite(self.network, x)}. {self.way_on()}"
                )
            state.loss_sum += loss / self.world * pending[i][2]
            state.correct += int(correct)
        pending.clear()

    def _close_epoch(self, state: State) -> None:
        """Measure, remember the best weights, and write it all down."""
        self.require_finite_weights(state)
        own = isinstance(self.config.rule, Method)  # it knows the network, and no wrapping
        validation = self._measure(self.network if own else self.model, self.validation_set)
        state.seconds = time.monotonic() - self.began
        if state.close_epoch(self.batches.y.numel(), validation, self.text):
            best = plain_state(self.network, self.plain_names)
            state.best_weights = {name: value.clone() for name, value in best.items()}
        self.save(state)

    def _measure(self, network: nn.Module, pair: Pair | None) -> Measured | None:
        if pair is None:
            return None
        network.eval()
        with self.fabric.autocast():
            return measure(answering(self.config.rule, network), *pair)

    def _result(self, state: State) -> dict[str, Any]:
        """Tell how the best-validation weights do on the test pair, and the last ones."""
        config = self.config
        best = build_network(config, self.data.sample_shape, self.data.num_classes)
        best.to(self.device, next(self.network.parameters()).dtype)
        best.load_state_dict(state.best_weights)
        weights, learned = self.sizes()
        test, last = (self._measure(n, self.test_set) for n in (best, self.network))
        return {
            "dataset": self.data.name,
            "rule": config.rule.name,
            "model": config.model,
            "epochs": state.epoch,
            "steps": state.epoch * self.batches.steps,
            "best_epoch": state.best_epoch,
            "validation_accuracy": state.best("validation_accuracy"),
            "validation_loss": state.best("validation_loss"),
            "test_accuracy": test and test.accuracy,
            "test_accuracy_last": last and last.accuracy,
            "test_loss": test and test.loss,
            "test_loss_last": last and last.loss,
            "seconds": round(state.seconds, 3),
            "weights": weights,
            "feedback_weights": learned,
            "device": str(self.device),
            "versions": {
                "lra": lra.__version__,
                "torch": torch.__version__,
                "python": platform.python_version(),
            },
        }

    def _stop_at(self, state: State, pending: list[tuple[Tensor, Tensor, int]], x: Tensor) -> int:
        """Give the signal that came to any process, at which all stop at this step, or 0."""
        number = self.stop.signal or 0
        if self.world > 1:  # one that comes while they agree is for the next step
            came = torch.tensor(float(number), device=self.device)
            number = int(self.fabric.all_reduce(came, reduce_op="max").item())  # type: ignore[union-attr]
        if number and pending:
            self._account(state, pending, x)
        return number

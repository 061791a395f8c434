"""The training loop: steps, epochs, checkpoints, stopping and resuming."""

import contextlib
import math
import platform
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import lra
from lra.display import printable
from lra.errors import Diverged, RunError
from lra.lab.data import Dataset
from lra.lab.networks.build import build_network, plain_state
from lra.lab.runs import files, trackers
from lra.lab.runs.diagnoses import DiagnosesReporter
from lra.lab.runs.display import Reporter
from lra.lab.runs.measure import LOSSES, Metrics, count_correct, measure
from lra.lab.runs.reporters import EventsReporter, FilesReporter, Reporters
from lra.lab.runs.state import State
from lra.lab.runs.verdict import verdict
from lra.lab.settings import code
from lra.lab.settings.config import TrainConfig
from lra.lab.settings.schedule import factor
from lra.lab.training.batches import Batch, Pair
from lra.lab.training.finite import locate_nonfinite
from lra.lab.training.learning import make_predictor, method_step
from lra.lab.training.lengthen import check_epochs, with_epochs
from lra.lab.training.session import Session
from lra.lab.training.stop import Interrupted as Interrupted
from lra.lab.training.stop import Stop
from lra.lab.training.threads import preserve_threads
from lra.methods import Method

CHECK_EVERY = 20
"""Steps between reports; on a device other than the CPU, also between checks of the losses."""
REPORT_EVERY = 5.0
"""Seconds after which slow steps are reported one by one."""
SAVE_EVERY = 120.0
"""Seconds between checkpoints within an epoch."""


@preserve_threads()
def train(
    config: TrainConfig,
    folder: Path,
    *,
    overwrite: bool = False,
    data_folder: Path | None = None,
    reporter: Reporter | None = None,
    dataset: Dataset | None = None,
    log: str = "tensorboard",
) -> dict[str, Any]:
    """Train a network and save the run to a folder.

    Args:
        config: the run's configuration.
        folder: the run's folder, new or empty.
        overwrite: whether to replace an earlier run in that folder.
        data_folder: the folder with the dataset's files, if they are not in the cache.
        reporter: receives the progress; silent by default.
        dataset: the data, if they are not loaded by the name in the configuration.
        log: a tracker in `lra.lab.runs.trackers.TRACKERS` that receives the metrics as well;
            a TensorBoard log is always written.

    Returns:
        The content of `result.json`.

    Raises:
        OptionError: settings do not fit the data.
        DataError: the data cannot be loaded.
        Diverged: the loss or a weight is no longer finite.
        RunError: the folder is in use or not empty, or a file cannot be written.
        Interrupted: the run was stopped by Ctrl-C or SIGTERM, and a checkpoint was written.
    """
    trackers.check(log)
    run = TrainingLoop(config, folder, data_folder, reporter, dataset)
    with run.locked(lambda: files.make_folder(folder, overwrite)):
        run.on_first_process(lambda: files.create(folder, run.config))
        run.on_first_process(lambda: trackers.choose(folder, log))
        return run.train(State())


@preserve_threads()
def resume(
    folder: Path,
    *,
    epochs: int | None = None,
    data_folder: Path | None = None,
    reporter: Reporter | None = None,
    dataset: Dataset | None = None,
) -> dict[str, Any]:
    """Continue a run from its newest valid checkpoint, bit-identical to an uninterrupted run.

    Other arguments, results and errors are those of `train`, with a `DataError` if the data differ
    from those that the run was trained on.

    Args:
        folder: the run's folder.
        epochs: another number of epochs in all, for a run whose learning rate is constant.
        data_folder: the folder with the dataset's files, if they are not in the cache.
        reporter: receives the progress; silent by default.
        dataset: the data, if they are not loaded by the name in the configuration.

    Raises:
        OptionError: the run cannot have this number of epochs.
    """
    config = files.read_config(folder)
    if changed := code.changed(config.references, config.sources, config.source_folder):
        raise RunError(
            f"{' and '.join(changed)} changed since the run began, so resuming would mix two "
            "versions. Restore it, or start a new run in another folder: lra train ... --out FOLDER"
        )
    trackers.check(trackers.chosen(folder))
    if epochs is not None:
        config = with_epochs(config, epochs)
    run = TrainingLoop(config, folder, data_folder, reporter, dataset)
    with run.locked():
        state = run.load_checkpoint(other_epochs=epochs is not None)
        if epochs is not None:
            check_epochs(state, epochs)
            if epochs != files.read_config(folder).epochs:
                run.save(state)  # if the process ends now, the previous checkpoint is as before
        run.on_first_process(lambda: files.change(folder, run.config))
        return run.train(state)


class TrainingLoop(Session):
    """The training loop of one process."""

    def __init__(
        self,
        config: TrainConfig,
        folder: Path,
        data_folder: Path | None,
        reporter: Reporter | None,
        dataset: Dataset | None,
    ) -> None:
        super().__init__(config, folder, data_folder, reporter or Reporter(), dataset)
        self.loss = LOSSES[config.loss]
        self.check_every = 1 if self.device.type == "cpu" else CHECK_EVERY
        self.stop = Stop()
        self.last_report = time.monotonic()
        self.diagnoses: DiagnosesReporter | None = None

    def train(self, state: State) -> dict[str, Any]:
        """Train from a state to the end, and return the result."""
        steps = self.batches.steps
        epochs = self.config.count_epochs(steps)
        self.all_steps = epochs * steps
        patience = self.config.patience or epochs
        with self.stop.listening(), contextlib.closing(self._reporters(state)) as reporter:
            reporter.start(self.describe(), epochs, steps, self.text)
            self.began = time.monotonic() - state.seconds
            try:
                while state.epoch < epochs and state.epoch - state.best_epoch < patience:
                    self._train_epoch(state, reporter)
                    reporter.epoch(state.rows[-1], epochs)
            except RunError:
                self._report_verdict(reporter)
                raise
            result = self._result(state)
            reporter.end(result, self.folder)
            self._report_verdict(reporter)
        return result

    def _reporters(self, state: State) -> Reporter:
        """Return the reporter for files, log and user; a silent one except in the first process."""
        if not self.fabric.is_global_zero:
            return Reporter()
        shape, classes = list(self.data.sample_shape), list(self.data.classes)
        about = {"sample_shape": shape, "classes": classes, "reads": self.data.reads}
        rule = self.config.rule_name
        title = f"{self.data.name}, {self.config.model}, {rule}, seed {self.config.seed}"
        reporters: list[Reporter] = [FilesReporter(self.folder, state, about, printable(title))]
        if self.config.diagnose:
            done = state.epoch * self.batches.steps + state.step
            self.diagnoses = DiagnosesReporter(self.folder, done)
            reporters.append(self.diagnoses)
        diagnosed = self.diagnoses.rows if self.diagnoses else ()
        reporters.append(EventsReporter(self.folder, state.rows, diagnosed))
        reporters += trackers.reporters(self.folder, self.config, state.rows)
        return Reporters((*reporters, self.reporter))

    def _train_epoch(self, state: State, reporter: Reporter) -> None:
        """Train for an epoch, or for the rest of one."""
        pending: list[tuple[Tensor, Tensor, int]] = []
        seen, steps = state.step * self.config.batch_size, self.batches.steps
        self.model.train()
        for batch in self.batches.epoch(state.epoch, state.step):
            self._diagnose(state, batch, reporter)
            self.stepper.zero_grad()
            loss, correct = self._compute_loss(batch, reporter)
            state.step += 1
            seen += batch.size
            pending.append((loss.detach(), correct, batch.predictions))
            if len(pending) == self.check_every or state.step == steps:
                self._add_losses(state, pending, batch.x)  # before a non-finite loss spreads
            if loss.requires_grad:  # methods and compiled steps have computed the updates already
                self.fabric.backward(loss)
            self._set_rates(state.epoch * steps + state.step - 1)
            self.stepper.step()
            self._mirror(state.epoch * steps + state.step)
            now = time.monotonic()
            due = state.step % CHECK_EVERY == 0 or now - self.last_report > REPORT_EVERY
            if not pending and (due or state.step == steps):
                self.last_report, state.seconds = now, now - self.began
                per_sample = batch.predictions // batch.size
                reporter.step(state.step, state.loss_sum, state.correct, seen * per_sample)
            if number := self._received_signal(state, pending, batch.x):
                state.seconds = time.monotonic() - self.began
                self.save(state)
                raise Interrupted(number, self.folder)
            if not pending and time.monotonic() - self.last_save > SAVE_EVERY and self.world == 1:
                self.save(state)
        self._close_epoch(state)

    def _mirror(self, done: int) -> None:
        """Mirror the feedback weights, if that is due after this number of steps."""
        config = self.config
        if config.mirror_every and done % config.mirror_every == 0:
            lra.mirror(
                *(self.network, config.mirror_samples),
                step=config.mirror_step, decay=config.mirror_decay,
            )  # fmt: skip

    def _diagnose(self, state: State, batch: Batch, reporter: Reporter) -> None:
        """Diagnose the rule on a batch in the first process, if a diagnosis is due."""
        done = state.epoch * self.batches.steps + state.step
        if self.diagnoses is None or done % (self.config.diagnose or 1):
            return
        paused = time.monotonic()
        with self.fabric.autocast():
            if isinstance(self.rule, Method):
                diagnosis = lra.diagnose(
                    *(self.network, batch.x, batch.y), loss=self.loss,
                    method=self.rule, loss_terms=batch.predictions, optimizer=self.optimizer,
                )  # fmt: skip
            else:
                diagnosis = lra.diagnose(
                    self.network, loss=lambda: self._forward(self.network, batch)[0],
                    optimizer=self.optimizer,
                )  # fmt: skip
        reporter.diagnosis(state.epoch + 1, done, diagnosis)
        self.began += time.monotonic() - paused  # exclude the diagnosis from the training time

    def _report_verdict(self, reporter: Reporter) -> None:
        """Report layers with useless updates, if there are any."""
        if self.diagnoses and (sentence := verdict(self.diagnoses.rows, self.rule)):
            reporter.note(sentence)

    def _compute_loss(self, batch: Batch, reporter: Reporter) -> tuple[Tensor, Tensor]:
        """Return the results of `_forward`, computed by the compiled step if it fits the batch."""
        if self.compiled is None or batch.size < self.config.batch_size:
            return self._forward(self.model, batch)
        before = self.compiled.compilations
        loss_and_correct: tuple[Tensor, Tensor] = self.compiled.updates(batch.x, batch.y)
        if self.compiled.compilations > before:
            reporter.note(f"compiling took {self.compiled.seconds:.1f} s")
        return loss_and_correct

    def _forward(self, model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return loss and number of correct predictions of this process's part of a batch."""
        if isinstance(self.rule, Method):
            with self.fabric.autocast():
                loss, logits = method_step(
                    *(self.rule, self.network, batch.x),
                    lambda logits: self.loss(logits, batch.y), batch.predictions,
                )  # fmt: skip
            return loss, count_correct(logits, batch.y)
        if self.world == 1:
            logits = model(batch.x)
            return self.loss(logits, batch.y), count_correct(logits, batch.y)
        # Processes average their updates, so each multiplies its share of the mean by their number.
        lra.set_loss_terms(self.network, batch.predictions / self.world)
        logits = model(batch.x)
        share = self.world / batch.predictions * batch.counts
        return self.loss(logits, batch.y, "sum") * share, (
            count_correct(logits, batch.y) * batch.counts
        )

    def _set_rates(self, step: int) -> None:
        """Set the learning rates for a step of the run, counted from 0."""
        config = self.config
        scale = factor(config.schedule, config.warmup, step, self.all_steps)
        scale *= 0.1 ** sum(step >= end * self.batches.steps for end in config.milestones)
        for group, rate in zip(self.optimizer.param_groups, self.rates, strict=True):
            group["lr"] = rate * scale

    def _add_losses(
        self, state: State, pending: list[tuple[Tensor, Tensor, int]], x: Tensor
    ) -> None:
        """Add the pending losses to the state; raise `Diverged` if one is not finite."""
        sums = torch.stack([torch.stack((a, c.to(a.dtype))) for a, c, _ in pending])
        sums = self.fabric.all_reduce(sums, reduce_op="sum")  # type: ignore[assignment]
        first = state.step - len(pending)
        for i, (loss, correct) in enumerate(sums.tolist()):
            if not math.isfinite(loss):
                raise Diverged(
                    f"the loss became {loss} in epoch {state.epoch + 1}, step {first + i + 1}, "
                    f"{locate_nonfinite(self.network, x)}. {self.recovery_hint()}"
                )
            state.loss_sum += loss / self.world * pending[i][2]
            state.correct += int(correct)
        pending.clear()

    def _close_epoch(self, state: State) -> None:
        """Validate, keep the best weights, and save a checkpoint."""
        self.require_finite_weights(state)
        unwrapped = isinstance(self.rule, Method)  # attached to the network, not to Fabric's
        model = self.network if unwrapped else self.model
        validation = self._measure(model, self.validation_set)
        test = self._measure(model, self.test_set) if self.config.test_each_epoch else None
        state.seconds = time.monotonic() - self.began
        if state.close_epoch(self.batches.y.numel(), validation, self.text, test):
            best = plain_state(self.network, self.plain_names)
            state.best_weights = {name: value.clone() for name, value in best.items()}
        self.save(state)

    def _measure(self, network: nn.Module, pair: Pair | None) -> Metrics | None:
        if pair is None:
            return None
        network.eval()
        with self.fabric.autocast():
            return measure(make_predictor(self.rule, network), *pair, self.loss)

    def _result(self, state: State) -> dict[str, Any]:
        """Return the result, with the best and the last weights evaluated on the test set."""
        config = self.config
        best = build_network(config, self.data.sample_shape, self.data.num_classes)
        best.to(self.device, next(self.network.parameters()).dtype)
        best.load_state_dict(state.best_weights)
        weights, learned = self.sizes()
        test, last = (self._measure(n, self.test_set) for n in (best, self.network))
        return {
            "dataset": self.data.name,
            "rule": config.rule_name,
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
            "test_samples": self.test_set and self.test_set[1].numel(),
            "seconds": round(state.seconds, 3),
            "weights": weights,
            "feedback_weights": learned,
            "device": str(self.device),
            "threads": config.threads,
            "versions": {
                "lra": lra.__version__,
                "torch": torch.__version__,
                "python": platform.python_version(),
            },
        }

    def _received_signal(
        self, state: State, pending: list[tuple[Tensor, Tensor, int]], x: Tensor
    ) -> int:
        """Return the signal that any process has received, or 0, the same in all processes."""
        number = self.stop.signal or 0
        if self.world > 1:  # a signal that arrives during the reduction counts at the next step
            own = torch.tensor(float(number), device=self.device)
            number = int(self.fabric.all_reduce(own, reduce_op="max").item())  # type: ignore[union-attr]
        if number and pending:
            self._add_losses(state, pending, x)
        return number

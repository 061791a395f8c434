"""The training loop: steps, epochs, checkpoints, and how a run stops and goes on."""

import contextlib
import hashlib
import math
import platform
import signal
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from lightning_fabric import Fabric
from tensorboardX import SummaryWriter  # type: ignore[import-untyped]
from torch import Tensor, nn

import lra
from lra.errors import OptionError, RunError
from lra.lab import checkpoint, data, plots, runs
from lra.lab.config import PRECISIONS, TrainConfig
from lra.lab.display import Reporter
from lra.lab.models import build_network, build_optimizer, plain_state
from lra.rules import name_of

CHECK_EVERY = 20
"""Steps between looks at the losses, each of which waits for the device."""
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


@dataclass
class _State:
    """All that moves during a run, besides weights, optimizer and random generators."""

    epoch: int = 0
    step: int = 0
    loss_sum: float = 0.0
    correct: int = 0
    seconds: float = 0.0
    rows: list[dict[str, Any]] = field(default_factory=list)
    best_epoch: int = 0
    best_weights: dict[str, Tensor] = field(default_factory=dict)

    @property
    def best_accuracy(self) -> float | None:
        return self.rows[self.best_epoch - 1]["validation_accuracy"] if self.best_epoch else None


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
        RunError: where the folder is taken, the loss stops being finite, or the disk refuses.
        Interrupted: after Ctrl-C or SIGTERM, with a checkpoint written.
    """
    run = _Run(config, folder, data_folder, reporter or Reporter())
    if run.fabric.is_global_zero:
        runs.create(folder, config, overwrite)
    run.fabric.barrier()
    return run.go(_State())


def resume(
    folder: Path, *, data_folder: Path | None = None, reporter: Reporter | None = None
) -> dict[str, Any]:
    """Continue a run from its newest good checkpoint, to the bits of an uninterrupted run.

    Arguments, results and errors as `train`'s.
    """
    config = runs.read_config(folder)
    reporter = reporter or Reporter()
    saved, troubles = checkpoint.latest(folder, config.to_config())
    run = _Run(config, folder, data_folder, reporter)
    for trouble in troubles:
        reporter.note(f"passed over: {trouble}")
    return run.go(run.take_up(saved))


class _Run:
    """One process's part of a run."""

    def __init__(
        self, config: TrainConfig, folder: Path, data_folder: Path | None, reporter: Reporter
    ) -> None:
        self.config, self.folder = config, folder
        self.fabric = Fabric(
            accelerator=config.device,
            devices=config.devices,
            precision=PRECISIONS[config.precision],  # type: ignore[arg-type]
            strategy="ddp" if config.devices > 1 else "auto",
        )
        self.fabric.launch()
        self.device = self.fabric.device
        self.reporter = reporter if self.fabric.is_global_zero else Reporter()
        self.data = data.load(config.dataset, data_folder, self.reporter.note)
        self._place_data()
        torch.manual_seed(config.seed)
        self.network = build_network(config, self.data.sample_shape, self.data.num_classes)
        lra.convert(self.network, config.rule)
        self.optimizer = build_optimizer(config, self.network)
        self.model, self.stepper = self.fabric.setup(self.network, self.optimizer)
        self.stopped_by: int | None = None
        self.last_save = time.monotonic()

    def _place_data(self) -> None:
        """Put the data on the device, split as configured."""
        arrays, config = self.data, self.config
        n = len(arrays.y_train)
        count = min(2000, n // 10) if config.validation is None else config.validation
        train, validation = data.split(arrays, count, config.seed)
        if config.batch_size > len(train):
            raise OptionError(
                f"batch_size {config.batch_size} is more than the {len(train)} training samples"
            )
        dtype = torch.float64 if config.precision == "64" else torch.float32

        def place(x: Any, y: Any) -> tuple[Tensor, Tensor]:
            samples = torch.from_numpy(x).to(self.device, dtype)
            return samples, torch.from_numpy(y).to(self.device)

        self.train_set = place(arrays.x_train[train], arrays.y_train[train])
        self.validation_set = (
            place(arrays.x_train[validation], arrays.y_train[validation]) if count else None
        )
        has_test = arrays.x_test is not None and arrays.y_test is not None
        self.test_set = place(arrays.x_test, arrays.y_test) if has_test else None

    def take_up(self, saved: dict[str, Any]) -> _State:
        """Set everything as the checkpoint has it."""
        self.network.load_state_dict(saved["model"])
        self.optimizer.load_state_dict(saved["optimizer"])
        torch.set_rng_state(saved["rng"])
        if saved["cuda_rng"]:
            torch.cuda.set_rng_state_all(saved["cuda_rng"])
        return _State(**saved["state"])

    def save(self, state: _State) -> None:
        """Write a checkpoint, and the files that follow from it."""
        self._require_finite_weights(state)
        self.last_save = time.monotonic()
        if self.fabric.is_global_zero:
            content = {
                "config": self.config.to_config(),
                "state": vars(state),
                "model": self.network.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "rng": torch.get_rng_state(),
                "cuda_rng": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
            }
            checkpoint.save(self.folder, content)
        self.fabric.barrier()

    def publish(self, state: _State) -> None:
        """Write what others read: metrics and best weights."""
        if not self.fabric.is_global_zero:
            return
        runs.write_metrics(self.folder, state.rows)
        if state.best_weights:
            shape, classes = list(self.data.sample_shape), list(self.data.classes)
            about = {"sample_shape": shape, "classes": classes}
            runs.write_weights(self.folder, state.best_weights, about)

    def go(self, state: _State) -> dict[str, Any]:
        """Train from a state to the end."""
        config = self.config
        steps = math.ceil(len(self.train_set[1]) / config.batch_size)
        epochs = config.epochs or max(10, math.ceil(1000 / steps))
        self.reporter.start(self._describe(), epochs, steps)
        self.publish(state)
        with self._events(state) as events, self._signals():
            began = time.monotonic() - state.seconds
            while state.epoch < epochs and not self._stale(state):
                self._epoch(state, steps, began)
                row = state.rows[-1]
                for column in runs.COLUMNS[1:]:
                    if events and row[column] is not None:
                        events.add_scalar(column, row[column], row["epoch"])
                self.reporter.epoch(row, epochs)
        return self._finish(state)

    def _describe(self) -> str:
        config = self.config
        sizes = (math.prod(self.data.sample_shape), *config.hidden, self.data.num_classes)
        learned = sum(E.numel() for E in lra.feedback_parameters(self.network))
        weights = sum(p.numel() for p in self.network.parameters()) - learned
        return (
            f"{name_of(config.rule)} on {self.data.name}: {'-'.join(map(str, sizes))}, "
            f"{config.activation}; {weights:,} weights, {learned:,} learned feedback weights; "
            f"{len(self.train_set[1]):,} samples; {self.device}; run in {self.folder}"
        )

    def _epoch(self, state: _State, steps: int, began: float) -> None:
        """Do an epoch, or the rest of one."""
        config = self.config
        x, y = self.train_set
        order = _order(len(y), config.seed, state.epoch).to(self.device)
        world, rank = self.fabric.world_size, self.fabric.global_rank
        pending: list[tuple[Tensor, Tensor, int]] = []
        self.model.train()
        while state.step < steps:
            start = state.step * config.batch_size
            batch = order[start : start + config.batch_size]
            own = batch[rank::world]
            logits = self.model(x[own])
            target = y[own]
            if world == 1:
                loss = F.cross_entropy(logits, target)
            else:
                # Processes average their updates: each one's share of the mean, times their number.
                lra.set_loss_terms(self.network, len(batch) / world)
                loss = F.cross_entropy(logits, target, reduction="sum") * (world / len(batch))
            self.stepper.zero_grad()
            self.fabric.backward(loss)
            self.stepper.step()
            state.step += 1
            pending.append((loss.detach(), (logits.argmax(1) == target).sum(), len(batch)))
            if len(pending) == CHECK_EVERY or state.step == steps:
                self._account(state, pending, x[own])
                state.seconds = time.monotonic() - began
                self.reporter.step(state.step, state.loss_sum, state.correct, start + len(batch))
            if self._must_stop(state, pending, x[own]):
                state.seconds = time.monotonic() - began
                self.save(state)
                assert self.stopped_by is not None
                raise Interrupted(self.stopped_by, self.folder)
            if not pending and time.monotonic() - self.last_save > SAVE_EVERY and world == 1:
                self.save(state)
        self._close_epoch(state, began)

    def _account(self, state: _State, pending: list[tuple[Tensor, Tensor, int]], x: Tensor) -> None:
        """Add up the losses of the last steps, and stop where one is not finite."""
        sums = torch.stack([torch.stack((a, c.to(a.dtype))) for a, c, _ in pending])
        sums = self.fabric.all_reduce(sums, reduce_op="sum")  # type: ignore[assignment]
        first = state.step - len(pending)
        for i, (loss, correct) in enumerate(sums.tolist()):
            if not math.isfinite(loss):
                raise RunError(
                    f"the loss became {loss} in epoch {state.epoch + 1}, step {first + i + 1}, "
                    f"{self._not_finite(x) or 'in the loss itself'}. {self._way_on()}"
                )
            state.loss_sum += loss / self.fabric.world_size * pending[i][2]
            state.correct += int(correct)
        pending.clear()

    def _close_epoch(self, state: _State, began: float) -> None:
        """Measure, remember the best weights, and write it all down."""
        samples = len(self.train_set[1])
        validation = self._measure(self.model, self.validation_set)
        best = state.best_accuracy
        state.epoch, state.step = state.epoch + 1, 0
        state.seconds = time.monotonic() - began
        state.rows.append(
            {
                "epoch": state.epoch,
                "loss": state.loss_sum / samples,
                "train_accuracy": 100.0 * state.correct / samples,
                "validation_accuracy": validation,
                "seconds": round(state.seconds, 3),
            }
        )
        state.loss_sum, state.correct = 0.0, 0
        if validation is None or best is None or validation > best:
            state.best_epoch = state.epoch
            state.best_weights = {k: v.clone() for k, v in plain_state(self.network).items()}
        self.save(state)
        self.publish(state)

    def _measure(self, network: nn.Module, pair: tuple[Tensor, Tensor] | None) -> float | None:
        if pair is None:
            return None
        network.eval()
        with self.fabric.autocast():
            return runs.accuracy(runs.logits_of(network, pair[0]), pair[1])

    def _stale(self, state: _State) -> bool:
        patience = self.config.patience
        return patience is not None and state.epoch - state.best_epoch >= patience

    def _finish(self, state: _State) -> dict[str, Any]:
        """Report the test accuracy of the best-validation weights and of the last."""
        config = self.config
        best = build_network(config, self.data.sample_shape, self.data.num_classes)
        best.to(self.device, self.train_set[0].dtype).load_state_dict(state.best_weights)
        learned = sum(E.numel() for E in lra.feedback_parameters(self.network))
        result: dict[str, Any] = {
            "dataset": self.data.name,
            "rule": name_of(config.rule),
            "epochs": state.epoch,
            "best_epoch": state.best_epoch,
            "validation_accuracy": state.best_accuracy,
            "test_accuracy": self._measure(best, self.test_set),
            "test_accuracy_last": self._measure(self.network, self.test_set),
            "seconds": round(state.seconds, 3),
            "weights": sum(p.numel() for p in self.network.parameters()) - learned,
            "feedback_weights": learned,
            "device": str(self.device),
            "versions": {
                "lra": lra.__version__,
                "torch": torch.__version__,
                "python": platform.python_version(),
            },
        }
        if self.fabric.is_global_zero:
            title = f"{self.data.name}, {result['rule']}, seed {config.seed}"
            plots.curves(self.folder / runs.CURVES, state.rows, title)
            runs.write_json(self.folder / runs.RESULT, result)
        self.reporter.end(result, self.folder)
        return result

    def _must_stop(
        self, state: _State, pending: list[tuple[Tensor, Tensor, int]], x: Tensor
    ) -> bool:
        """Tell whether a signal came to any process; if so, all agree to stop at this step."""
        if self.fabric.world_size > 1:
            came = torch.tensor(float(self.stopped_by or 0), device=self.device)
            self.stopped_by = int(self.fabric.all_reduce(came, reduce_op="max").item()) or None  # type: ignore[union-attr]
        if self.stopped_by and pending:
            self._account(state, pending, x)
        return self.stopped_by is not None

    @contextlib.contextmanager
    def _signals(self) -> Iterator[None]:
        """Let Ctrl-C and SIGTERM end the run at the next step; a second one ends it at once."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {s: signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)}

        def note(number: int, frame: FrameType | None) -> None:
            self.stopped_by = number
            for s, handler in before.items():
                signal.signal(s, handler)

        for s in before:
            signal.signal(s, note)
        try:
            yield
        finally:
            for s, handler in before.items():
                signal.signal(s, handler)

    @contextlib.contextmanager
    def _events(self, state: _State) -> Iterator[SummaryWriter | None]:
        """Open the TensorBoard log; what an interrupted run wrote after its checkpoint is void."""
        if not self.fabric.is_global_zero:
            yield None
            return
        purge = state.epoch + 1 if state.epoch or state.step else None
        with SummaryWriter(str(self.folder), purge_step=purge) as writer:
            yield writer

    def _require_finite_weights(self, state: _State) -> None:
        for name, weight in self.network.named_parameters():
            if not bool(torch.isfinite(weight).all()):
                raise RunError(
                    f"weights stopped being finite by epoch {state.epoch + 1}, step {state.step}, "
                    f"in {name}. {self._way_on()}"
                )

    @torch.no_grad()
    def _not_finite(self, x: Tensor) -> str:
        """Name the first layer whose weights or output are not finite."""
        for name, layer in self.network.named_children():
            title = f"in layer {name} ({type(layer).__name__.removeprefix('Local')})"
            for kind, weight in layer.named_parameters():
                if not bool(torch.isfinite(weight).all()):
                    return f"{title}: its {kind} is no longer finite"
            x = layer(x)
            if not bool(torch.isfinite(x).all()):
                return f"{title}: its output is no longer finite"
        return ""

    def _way_on(self) -> str:
        good = self.folder / checkpoint.NAME
        kept = f"The last good checkpoint is {good}. " if good.exists() else ""
        return f"{kept}Try a smaller --lr, a smaller --beta, or another initialisation"


def _order(n: int, seed: int, epoch: int) -> Tensor:
    """Draw an epoch's order of samples, from the seed and the epoch alone."""
    digest = hashlib.sha256(f"{seed}/{epoch}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))
    return torch.randperm(n, generator=generator)

"""What a run works with: data, network and optimizer, its folder, and its checkpoints."""

import contextlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

import lra
from lra.errors import DataError, Diverged
from lra.lab import checkpoint, data, fits, lock, runs
from lra.lab.batches import Batches, place
from lra.lab.config import TrainConfig
from lra.lab.display import Reporter
from lra.lab.fabric import start_fabric
from lra.lab.finite import weight_not_finite
from lra.lab.learning import compiled, feedback, prepare, share
from lra.lab.models import build_network, build_optimizer, check_reads, describe
from lra.lab.state import State
from lra.torch.compiled import CompiledStep


class Session:
    """One process's part of a run: everything that is there before the first step.

    Args:
        config: what to train.
        folder: the run's.
        data_folder: where the dataset's files are, if not in the cache.
        reporter: hears what happens.
    """

    def __init__(
        self, config: TrainConfig, folder: Path, data_folder: Path | None, reporter: Reporter
    ) -> None:
        self.config, self.folder = config, folder
        self.fabric = start_fabric(config)
        self.device, self.world = self.fabric.device, self.fabric.world_size
        self.reporter = reporter if self.fabric.is_global_zero else Reporter()
        options = config.data_options
        self.data = data.load(config.dataset, data_folder, self.reporter.note, **options)
        check_reads(config, self.data)
        self.fingerprint = self.data.fingerprint()
        self.text = self.data.reads == "text"
        train_set, self.validation_set, self.test_set = place(self.data, config, self.device)
        self.batches = Batches(train_set, config, self.world, self.fabric.global_rank)
        torch.manual_seed(config.seed)
        self.network = build_network(config, self.data.sample_shape, self.data.num_classes)
        self.plain_names = tuple(self.network.state_dict())
        for note in prepare(config.rule, self.network, train_set[0][:2].cpu(), self.text):
            self.reporter.note(note)
        self.optimizer = build_optimizer(config, self.network)
        self.learned = self._moving()
        share(config, self.network, self.optimizer)
        self.rates = [group["lr"] for group in self.optimizer.param_groups]
        self.compiled = self._compiled()
        self.model, self.stepper = self.fabric.setup(self.network, self.optimizer)
        self.last_save = time.monotonic()

    def _compiled(self) -> CompiledStep | None:
        """Give the run's compiled step, if it is to have one."""
        steps = self.batches.steps * self.config.epochs_of(self.batches.steps)
        return compiled(self.config, steps, self.network, self.optimizer, self.device)

    def first(self, do: Callable[[], None]) -> None:
        """Do something in the first process alone; where it fails, all stop."""
        error: lra.LraError | None = None
        if self.fabric.is_global_zero:
            try:
                do()
            except lra.LraError as found:
                error = found
        error = self.fabric.broadcast(error)
        if error is not None:
            raise error

    @contextlib.contextmanager
    def alone(self, before: Callable[[], None] = lambda: None) -> Iterator[None]:
        """Hold the run's folder, so that no other command trains in it."""
        with contextlib.ExitStack() as stack:

            def take() -> None:
                before()
                stack.enter_context(lock.held(self.folder))
                runs.remove_leftovers(self.folder)

            self.first(take)
            yield

    def take_up(self) -> State:
        """Set everything as the newest good checkpoint has it; a run without one begins."""
        if not checkpoint.exists(self.folder) and not (self.folder / runs.WEIGHTS).exists():
            return State()  # ended before its first
        found: list[dict[str, Any]] = []

        def look() -> None:
            saved, troubles = checkpoint.latest(self.folder, self.config.to_config(), self._check)
            found.append(saved)
            for trouble in troubles:
                self.reporter.note(f"passed over: {trouble}")

        self.first(look)
        if not found:  # the first process has moved aside what is not good
            look()
        (saved,) = found
        self.network.load_state_dict(dict(saved["model"]))
        self.optimizer.load_state_dict(saved["optimizer"])
        torch.set_rng_state(saved["rng"])
        if saved["cuda_rng"] and torch.cuda.is_available():
            torch.cuda.set_rng_state_all(saved["cuda_rng"])
        return State(**saved["state"])

    def _check(self, saved: dict[str, Any]) -> None:
        """Refuse a checkpoint that this run would not have saved."""
        fits.check_names(saved, self._content(State()), "checkpoint")
        if saved["data"] != self.fingerprint:
            raise DataError(
                f"{self.folder}: {self.data.name} holds other data than those that the run was "
                "trained on. Remedy: bring those back, or start anew: lra train ... --out in "
                "another folder"
            )
        network = self.network.state_dict()
        fits.check_like(saved["model"], network, "weights")
        fits.check_optimizer(saved["optimizer"], self.optimizer)
        fits.check_state(
            saved["state"], self.batches.steps, {name: network[name] for name in self.plain_names}
        )
        fits.check_random(saved["rng"], saved["cuda_rng"])

    def _content(self, state: State) -> dict[str, Any]:
        """Give all that a checkpoint holds."""
        return {
            "config": self.config.to_config(),
            "data": self.fingerprint,
            "state": vars(state),
            "model": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "rng": torch.get_rng_state(),
            "cuda_rng": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        }

    def save(self, state: State) -> None:
        """Write a checkpoint."""
        self.require_finite_weights(state)
        self.last_save = time.monotonic()
        self.first(lambda: checkpoint.save(self.folder, self._content(state)))

    def describe(self) -> str:
        """Tell, in a line, what is trained."""
        weights, learned = self.sizes()
        shared = self._moving() < self.learned
        kept = " (kept as their difference to the weights)" if shared else ""
        return (
            f"{self.config.rule.name} on {self.data.name}: {describe(self.config, self.data)}; "
            f"{weights:,} weights, {learned:,} learned feedback weights{kept}; "
            f"{len(self.batches.y):,} samples; {self.device}; run in {self.folder}"
        )

    def sizes(self) -> tuple[int, int]:
        """Count the forward weights, and the learned feedback weights."""
        return sum(p.numel() for p in self.network.parameters()) - self.learned, self.learned

    def _moving(self) -> int:
        """Count the feedback weights that the optimizer moves."""
        return sum(E.numel() for E in feedback(self.config.rule, self.network))

    def require_finite_weights(self, state: State) -> None:
        """Refuse to go on with weights that are not finite."""
        if weight := weight_not_finite(self.network):
            raise Diverged(
                f"weights stopped being finite by epoch {state.epoch + 1}, step {state.step}, "
                f"in {weight}. {self.way_on()}"
            )

    def way_on(self) -> str:
        """Say where the last good checkpoint is, and what else to try."""
        good = self.folder / checkpoint.NAME
        kept = f"The last good checkpoint is {good}. " if good.exists() else ""
        return f"{kept}Try a smaller --lr, a smaller --beta, or another initialisation"

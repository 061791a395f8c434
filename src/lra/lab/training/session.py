"""The state of a running process: data, network, optimizer, folder and checkpoints."""

import contextlib
import dataclasses
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

import lra
from lra.errors import DataError, Diverged
from lra.lab import data
from lra.lab.data import Dataset
from lra.lab.networks.build import build_network, build_optimizer, check_dataset
from lra.lab.networks.model import check_output
from lra.lab.runs import checkpoint, files, fits, lock
from lra.lab.runs.display import Reporter
from lra.lab.runs.state import State
from lra.lab.settings.config import TrainConfig
from lra.lab.training.batches import Batches, place
from lra.lab.training.fabric import start_fabric
from lra.lab.training.finite import find_nonfinite_weight
from lra.lab.training.learning import compile_step, feedback_parameters, prepare, share_feedback
from lra.lab.training.lengthen import comparable
from lra.lab.training.threads import choose_threads


class Session:
    """Everything that one process of a run needs before its first step.

    Args:
        config: the run's configuration.
        folder: the run's folder.
        data_folder: the folder with the dataset's files, if they are not in the cache.
        reporter: receives the progress, in the first process.
        dataset: the data, if they are not loaded by the name in the configuration.
    """

    def __init__(
        self,
        config: TrainConfig,
        folder: Path,
        data_folder: Path | None,
        reporter: Reporter,
        dataset: Dataset | None = None,
    ) -> None:
        self.config, self.folder = config, folder
        self.fabric = start_fabric(config)
        self.device, self.world = self.fabric.device, self.fabric.world_size
        self.reporter = reporter if self.fabric.is_global_zero else Reporter()
        options = config.data_options
        self.data = dataset or data.load(config.dataset, data_folder, self.reporter.note, **options)
        check_dataset(config, self.data)
        self.fingerprint = self.data.fingerprint()
        self.rule = config.built_rule
        self.text = self.data.reads == "text"
        train_set, self.validation_set, self.test_set = place(self.data, config, self.device)
        self.batches = Batches(train_set, config, self.world, self.fabric.global_rank)
        available = torch.get_num_threads()
        torch.set_num_threads(config.threads or 1)  # the bits of the first weights depend on it
        torch.manual_seed(config.seed)
        self.network = build_network(config, self.data.sample_shape, self.data.num_classes)
        if config.threads is None:
            few = train_set[0][:2].cpu()
            threads = choose_threads(config, self.network, few, self.device, available)
            self.config = config = dataclasses.replace(config, threads=threads)
            torch.set_num_threads(threads)
        self.plain_names = tuple(self.network.state_dict())
        samples = train_set[0][:2].cpu()
        own = config.network.entry is None
        if own:
            check_output(config.network, self.network, samples, self.data.num_classes)
        prepare(self.rule, self.network, samples, self.text, own)
        self.optimizer = build_optimizer(config, self.network)
        self.learned = self._count_feedback()
        share_feedback(config, self.network, self.optimizer)
        self.rates = [group["lr"] for group in self.optimizer.param_groups]
        steps = self.batches.steps * config.count_epochs(self.batches.steps)
        self.compiled = compile_step(config, steps, self.network, self.optimizer, self.device)
        self.model, self.stepper = self.fabric.setup(self.network, self.optimizer)
        self.last_save = time.monotonic()

    def on_first_process(self, action: Callable[[], None]) -> None:
        """Call a function in the first process alone, and raise its error in all processes."""
        error: lra.LraError | None = None
        if self.fabric.is_global_zero:
            try:
                action()
            except lra.LraError as raised:
                error = raised
        error = self.fabric.broadcast(error)
        if error is not None:
            raise error

    @contextlib.contextmanager
    def locked(self, before: Callable[[], None] = lambda: None) -> Iterator[None]:
        """Lock the run's folder, so that no other command trains in it.

        Args:
            before: called before the folder is locked, in the first process.
        """
        with contextlib.ExitStack() as stack:

            def lock_folder() -> None:
                before()
                stack.enter_context(lock.hold(self.folder))
                files.remove_leftovers(self.folder)

            self.on_first_process(lock_folder)
            yield

    def load_checkpoint(self, other_epochs: bool = False) -> State:
        """Restore the newest valid checkpoint, and return its state; a new one if there is none.

        Args:
            other_epochs: whether its number of epochs may differ, where steps do not depend on it.
        """
        if not checkpoint.exists(self.folder) and not (self.folder / files.WEIGHTS).exists():
            files.check_files(self.folder)
            return State()  # the run ended before its first checkpoint
        loaded: list[dict[str, Any]] = []

        def read() -> None:
            plain = comparable(self.config) if other_epochs else self.config.to_config()
            saved, problems = checkpoint.latest(self.folder, plain, self._check)
            loaded.append(saved)
            for problem in problems:
                self.reporter.note(f"skipped: {problem}")

        self.on_first_process(read)
        if not loaded:  # the first process has renamed invalid files by now
            read()
        (saved,) = loaded
        self.network.load_state_dict(dict(saved["model"]))
        self.optimizer.load_state_dict(saved["optimizer"])
        torch.set_rng_state(saved["rng"])
        if saved["cuda_rng"] and torch.cuda.is_available():
            torch.cuda.set_rng_state_all(saved["cuda_rng"])
        return State(**saved["state"])

    def _check(self, saved: dict[str, Any]) -> None:
        """Raise an error for a checkpoint that this run would not have saved."""
        parts = dict.fromkeys(self._checkpoint_content(State()), fits.ANY)
        fits.check_structure(saved, parts | {"data": self.fingerprint}, "checkpoint")
        if saved["data"] != self.fingerprint:
            raise DataError(
                f"{self.folder}: {self.data.name} differs from the data that the run was trained "
                "on. Remedy: restore those data, or start a new run in another folder: lra train "
                "... --out FOLDER"
            )
        network = self.network.state_dict()
        plain = {name: network[name] for name in self.plain_names}
        cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
        expected = parts | {
            "state": fits.expect_state(saved["state"], self.batches.steps, plain),
            "model": network,
            "optimizer": fits.expect_optimizer(saved["optimizer"], self.optimizer),
            "rng": fits.expect_random(),
            "cuda_rng": cuda if cuda and saved["cuda_rng"] else fits.LIST,
        }
        fits.check_structure(saved, expected, "checkpoint")

    def _checkpoint_content(self, state: State) -> dict[str, Any]:
        """Return the content of a checkpoint."""
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
        self.on_first_process(lambda: checkpoint.save(self.folder, self._checkpoint_content(state)))

    def describe(self) -> str:
        """Describe the run in one line."""
        weights, learned = self.sizes()
        network = self.config.network.describe(self.data.sample_shape, self.data.num_classes)
        shared = self._count_feedback() < self.learned
        storage = " (stored as their difference from the weights)" if shared else ""
        return (
            f"{self.config.rule_name} on {self.data.name}: {network}; "
            f"{weights:,} weights, {learned:,} learned feedback weights{storage}; "
            f"{len(self.batches.y):,} samples; {self.device}; run in {self.folder}"
        )

    def sizes(self) -> tuple[int, int]:
        """Count the forward weights and the learned feedback weights."""
        return sum(p.numel() for p in self.network.parameters()) - self.learned, self.learned

    def _count_feedback(self) -> int:
        """Count the feedback weights that the optimizer updates, which excludes shared ones."""
        return sum(E.numel() for E in feedback_parameters(self.rule, self.network))

    def require_finite_weights(self, state: State) -> None:
        """Raise `Diverged` if a weight is not finite."""
        if weight := find_nonfinite_weight(self.network):
            raise Diverged(
                f"weights stopped being finite by epoch {state.epoch + 1}, step {state.step}, "
                f"in {weight}. {self.recovery_hint()}"
            )

    def recovery_hint(self) -> str:
        """Return advice for a diverged run: the last good checkpoint, and settings to try."""
        path = self.folder / checkpoint.NAME
        saved = f"The last good checkpoint is {path}. " if path.exists() else ""
        return f"{saved}Try a smaller --lr, a smaller beta in --rule, or another init in --model"

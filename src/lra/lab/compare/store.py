"""A comparison's folder: its runs, what became of each, and whose turn it is.

    OUT/runs/NAME/       an ordinary run of `lra train`, named by what it trains
    OUT/records/NAME.json  what the run's folder cannot tell: refused, diverged, failed, memory
    OUT/locks/NAME.lock  locked by the process that trains; the system opens it when that one ends

Several machines may share the folder, where its file system lets processes lock files.
"""

import contextlib
import csv
import json
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import filelock

from lra.errors import ConversionError, Diverged, LraError, MethodError, OptionError, RunError
from lra.lab import checkpoint, runs, training
from lra.lab.compare.machine import machine
from lra.lab.compare.memory import peak_memory
from lra.lab.config import TrainConfig
from lra.lab.display import Reporter

State = Literal["done", "diverged", "refused", "failed"]


@dataclass(frozen=True)
class Outcome:
    """What became of a run.

    Attributes:
        state: done; diverged, which is a result too; refused, where the rule cannot train the
            network; or failed, by an error that nobody foresaw.
        reason: why it is not done.
        memory: the most that the process held, in bytes, where that can be measured.
        machine: where it came to its end.
        result: what `result.json` holds, where it is done.
    """

    state: State
    reason: str = ""
    memory: int | None = None
    machine: str = ""
    result: dict[str, Any] | None = None


class Store:
    """The folder of a comparison."""

    def __init__(self, out: Path) -> None:
        self.out = out
        for part in ("runs", "records", "locks"):
            try:
                (out / part).mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise RunError(f"cannot make the folder {out / part}: {error.strerror}") from error

    def storage(self, url: str | None) -> str:
        """Give the database of the trials: the one that is named, or a file here."""
        return url or f"sqlite:///{self.out.resolve() / 'trials.db'}"

    def folder(self, name: str) -> Path:
        """Give a run's folder."""
        return self.out / "runs" / name

    def outcome(self, name: str) -> Outcome | None:
        """Tell what became of a run, if it has ended."""
        record = _read_json(self._record(name))
        result = _read_json(self.folder(name) / runs.RESULT)
        if result is not None:
            known = {k: v for k, v in (record or {}).items() if k in ("memory", "machine")}
            return Outcome("done", **known, result=result)
        if record is None or record["state"] == "done":  # its folder was removed since
            return None
        return Outcome(record["state"], record["reason"])

    def curve(self, name: str) -> list[dict[str, float]]:
        """Read a run's epochs, as in metrics.csv."""
        path = self.folder(name) / runs.METRICS
        if not path.exists():
            return []
        with path.open(newline="") as file:
            return [{k: float(v) for k, v in row.items() if v} for row in csv.DictReader(file)]

    def forget_refusals(self) -> None:
        """Forget what was refused or failed, which another version may be able to train."""
        for path in (self.out / "records").glob("*.json"):
            record = _read_json(path)
            if record is None or record["state"] in ("refused", "failed"):
                path.unlink(missing_ok=True)

    def free(self, name: str) -> bool:
        """Tell whether nobody trains a run at this moment."""
        with self.claim(name) as ours:
            return ours

    @contextlib.contextmanager
    def claim(self, name: str) -> Iterator[bool]:
        """Take a run for this process, or give False where another one has it."""
        lock = filelock.FileLock(self.out / "locks" / f"{name}.lock")
        try:
            lock.acquire(blocking=False)
        except filelock.Timeout:
            yield False
            return
        try:
            yield True
        finally:
            lock.release()

    def record(self, name: str, outcome: Outcome) -> None:
        """Write down what became of a run; its result is in the run's own folder."""
        content = {k: v for k, v in asdict(outcome).items() if k != "result"}
        runs.write_json(self._record(name), content)

    def _record(self, name: str) -> Path:
        return self.out / "records" / f"{name}.json"

    def train(self, name: str, config: TrainConfig, reporter: Reporter) -> Outcome:
        """Train a run that is claimed, or go on with it.

        Raises:
            Interrupted: after a signal; it can be resumed.
            RunError: where the disk refuses.
            DataError: where the data cannot be had.
        """
        found = self.outcome(name)
        if found is not None:
            return found
        folder = self.folder(name)
        try:
            with peak_memory(config.device) as peak:
                result = self._go(folder, config, reporter)
            outcome = Outcome("done", memory=peak(), machine=machine(), result=result)
        except Diverged as error:
            outcome = Outcome("diverged", str(error))
        except (ConversionError, MethodError, OptionError) as error:
            outcome = Outcome("refused", str(error))
        except LraError:
            raise
        except Exception as error:  # of one rule on one network; the others go on
            outcome = Outcome("failed", f"{type(error).__name__}: {error}")
        self.record(name, outcome)
        return outcome

    def _go(self, folder: Path, config: TrainConfig, reporter: Reporter) -> dict[str, Any]:
        if checkpoint.exists(folder):
            return training.resume(folder, reporter=reporter)
        if folder.exists():  # killed before its first checkpoint, maybe amid its configuration
            shutil.rmtree(folder)
        return training.train(config, folder, reporter=reporter)


def _read_json(path: Path) -> dict[str, Any] | None:
    try:
        content: dict[str, Any] = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise RunError(f"{path}: cannot be read ({error}); remove it, and go on") from error
    return content

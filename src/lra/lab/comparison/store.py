"""The folder of a comparison: its runs, their outcomes, and their locks.

    OUT/grid.json          the grids of the comparisons in this folder, the newest last
    OUT/runs/NAME/         an ordinary run of `lra train`, named by its configuration
    OUT/records/NAME.json  the outcome: refused, diverged, failed, ...; machine and peak memory
    OUT/locks/NAME.lock    held by the process that trains; the system releases it when that ends

Several machines can share the folder if its file system supports file locks.
"""

import contextlib
import csv
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import filelock

from lra.errors import ConversionError, Diverged, LraError, MethodError, OptionError, RunError
from lra.lab.comparison.machine import machine
from lra.lab.comparison.memory import peak_memory
from lra.lab.runs import checkpoint, files
from lra.lab.runs.display import Reporter
from lra.lab.settings.config import TrainConfig
from lra.lab.training import loop

_PARTS = ("runs", "records", "locks")

_WRITTEN = ("report", "report.html", "report.md", "report.tex", "runs.csv", "grid.json", "trials")
"""What a comparison writes to its folder beside these."""

State = Literal["done", "diverged", "refused", "failed", "pruned"]


class Pruned(LraError):  # noqa: N818 - the outcome of a trial
    """Raised to stop a trial early."""


@dataclass(frozen=True)
class Outcome:
    """The outcome of a run.

    Attributes:
        state: "done"; "diverged"; "refused" if the rule cannot train the network; "failed" after
            an unexpected error; or "pruned" for a trial that was stopped early.
        reason: why the run is not done.
        memory: the peak memory of the process in bytes, or None if it cannot be measured.
        machine: the machine on which the run ended.
        result: the content of `result.json` of a run that is done.
    """

    state: State
    reason: str = ""
    memory: int | None = None
    machine: str = ""
    result: dict[str, Any] | None = None


class Store:
    """The folder of a comparison.

    Args:
        out: the folder; it is created if needed.

    Raises:
        RunError: if it cannot be created, or files of something else in it would be replaced.
    """

    def __init__(self, out: Path) -> None:
        self.out = out
        try:
            found = {path.name for path in out.iterdir()} if out.exists() else set()
            foreign = sorted(found.intersection(_WRITTEN))
            if foreign and not found.issuperset(_PARTS):
                raise RunError(
                    f"{out} is not a comparison's folder, and its {foreign[0]} would be replaced; "
                    "choose another --out"
                )
            for part in _PARTS:
                (out / part).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RunError(f"cannot make the folder {out}: {error.strerror}") from error

    def folder(self, name: str) -> Path:
        """Return the folder of a run."""
        return self.out / "runs" / name

    def outcome(self, name: str) -> Outcome | None:
        """Return the outcome of a run, or None if it has not ended."""
        record = _read_json(self._record(name))
        result = _read_json(self.folder(name) / files.RESULT)
        if result is not None:
            known = {k: v for k, v in (record or {}).items() if k in ("memory", "machine")}
            return Outcome("done", **known, result=result)
        if record is None or record["state"] == "done":  # done, but its folder was removed
            return None
        return Outcome(record["state"], record["reason"])

    def curve(self, name: str) -> list[dict[str, float]]:
        """Return the rows of a run's metrics.csv, one for each epoch."""
        path = self.folder(name) / files.METRICS
        if not path.exists():
            return []
        with path.open(newline="") as file:
            return [{k: float(v) for k, v in row.items() if v} for row in csv.DictReader(file)]

    def forget_refusals(self) -> None:
        """Delete the records of refused and failed runs, so that they are tried again."""
        for path in (self.out / "records").glob("*.json"):
            record = _read_json(path)
            if record is None or record["state"] in ("refused", "failed"):
                path.unlink(missing_ok=True)

    def free(self, name: str) -> bool:
        """Return whether no process is training a run."""
        with self.claim(name) as claimed:
            return claimed

    def lock(self, name: str) -> filelock.BaseFileLock:
        """Return a lock. The system releases it when its process ends, however that ends."""
        return filelock.FileLock(self.out / "locks" / f"{name}.lock")

    @contextlib.contextmanager
    def claim(self, name: str) -> Iterator[bool]:
        """Claim a run for this process; yield False if another process holds it."""
        lock = self.lock(name)
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
        """Write the record of a run, without the result, which is in the run's folder."""
        content = {k: v for k, v in asdict(outcome).items() if k != "result"}
        files.write_json(self._record(name), content)

    def drawn(self, name: str) -> list[dict[str, Any]]:
        """Return the settings drawn so far for the trials of a study."""
        content = _read_json(self.out / "trials" / f"{name}.json") or {"settings": []}
        drawn: list[dict[str, Any]] = content["settings"]
        return drawn

    def write_drawn(self, name: str, settings: list[dict[str, Any]]) -> None:
        """Write the settings drawn so far for the trials of a study."""
        (self.out / "trials").mkdir(exist_ok=True)
        files.write_json(self.out / "trials" / f"{name}.json", {"settings": settings})

    def _record(self, name: str) -> Path:
        return self.out / "records" / f"{name}.json"

    def train(self, name: str, config: TrainConfig, reporter: Reporter) -> Outcome:
        """Train or resume a claimed run.

        Raises:
            Interrupted: after a signal; the run can be resumed.
            RunError: if a file cannot be read or written.
            DataError: if the data cannot be loaded.
        """
        known = self.outcome(name)
        if known is not None:
            return known
        folder = self.folder(name)
        try:
            with peak_memory(config.device) as peak:
                result = self._train_or_resume(folder, config, reporter)
            outcome = Outcome("done", memory=peak(), machine=machine(), result=result)
        except Diverged as error:
            outcome = Outcome("diverged", str(error))
        except Pruned as stop:
            outcome = Outcome("pruned", str(stop))
        except (ConversionError, MethodError, OptionError) as error:
            outcome = Outcome("refused", str(error))
        except LraError:
            raise
        except Exception as error:  # must not end the other runs
            outcome = Outcome("failed", f"{type(error).__name__}: {error}")
        self.record(name, outcome)
        return outcome

    def _train_or_resume(
        self, folder: Path, config: TrainConfig, reporter: Reporter
    ) -> dict[str, Any]:
        if checkpoint.exists(folder):
            return loop.resume(folder, reporter=reporter)
        # A run that was killed before its first checkpoint starts again.
        return loop.train(config, folder, overwrite=True, reporter=reporter)


def _read_json(path: Path) -> dict[str, Any] | None:
    try:
        content: dict[str, Any] = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise RunError(f"{path}: cannot be read ({error}); delete it and run again") from error
    return content

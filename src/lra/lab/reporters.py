"""What a run leaves besides its checkpoint, each kind by a reporter: its files, and its log."""

import contextlib
import socket
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from tensorboardX.proto.event_pb2 import Event  # type: ignore[import-untyped]
from tensorboardX.record_writer import RecordWriter  # type: ignore[import-untyped]
from tensorboardX.summary import scalar  # type: ignore[import-untyped]

from lra.lab import plots, runs
from lra.lab.atomic import refused
from lra.lab.display import Reporter
from lra.lab.state import COLUMNS, State
from lra.torch.diagnose import Diagnosis, scalars_of


class Reporters(Reporter):
    """Passes on what it hears, to each in turn.

    Args:
        reporters: who is to hear it.
    """

    def __init__(self, reporters: Iterable[Reporter]) -> None:
        self.reporters = tuple(reporters)

    def start(self, what: str, epochs: int, steps: int, text: bool) -> None:
        """Pass on the start."""
        for reporter in self.reporters:
            reporter.start(what, epochs, steps, text)

    def note(self, text: str) -> None:
        """Pass on a remark."""
        for reporter in self.reporters:
            reporter.note(text)

    def step(self, step: int, loss_sum: float, correct: int, seen: int) -> None:
        """Pass on how far the epoch is."""
        for reporter in self.reporters:
            reporter.step(step, loss_sum, correct, seen)

    def epoch(self, row: dict[str, Any], epochs: int) -> None:
        """Pass on an epoch's figures."""
        for reporter in self.reporters:
            reporter.epoch(row, epochs)

    def diagnosis(self, epoch: int, step: int, found: Diagnosis) -> None:
        """Pass on a diagnosis."""
        for reporter in self.reporters:
            reporter.diagnosis(epoch, step, found)

    def end(self, result: dict[str, Any], folder: Path) -> None:
        """Pass on the result."""
        for reporter in self.reporters:
            reporter.end(result, folder)

    def close(self) -> None:
        """Close each, whatever happens to the others."""
        with contextlib.ExitStack() as stack:
            for reporter in reversed(self.reporters):
                stack.callback(reporter.close)


class FilesReporter(Reporter):
    """Writes metrics.csv and the best weights at each epoch; the picture and the result at the end.

    Args:
        folder: the run's folder.
        state: the run's state, which goes on.
        about: how to rebuild the network: the samples' shape, and the classes.
        title: of the picture.
    """

    def __init__(self, folder: Path, state: State, about: dict[str, Any], title: str) -> None:
        self.folder, self.state, self.about, self.title = folder, state, about, title

    def start(self, what: str, epochs: int, steps: int, text: bool) -> None:
        """Write what a checkpoint has, which a killed run may have written no more."""
        self.text = text
        self._write()

    def epoch(self, row: dict[str, Any], epochs: int) -> None:
        """Write figures and weights."""
        self._write()

    def end(self, result: dict[str, Any], folder: Path) -> None:
        """Draw the curves, and write the result."""
        plots.curves(self.folder / runs.CURVES, self.state.rows, self.title, text=self.text)
        runs.write_json(self.folder / runs.RESULT, result)

    def _write(self) -> None:
        runs.write_metrics(self.folder, self.state.rows)
        if self.state.best_weights:
            runs.write_weights(self.folder, self.state.best_weights, self.about)


class EventsReporter(Reporter):
    """Writes TensorBoard's log: a new one, since a killed run's may lack its last epochs.

    Each event is written when it is heard, by no thread of its own, so that whatever ends the run
    finds nothing to wait for.

    Args:
        folder: the run's folder.
        rows: the figures of the epochs before.
        diagnosed: the rows of the diagnoses before.
    """

    def __init__(
        self,
        folder: Path,
        rows: Sequence[dict[str, Any]],
        diagnosed: Sequence[dict[str, Any]] = (),
    ) -> None:
        self.folder, self.rows, self.diagnosed = folder, rows, diagnosed
        self.log: RecordWriter | None = None

    def start(self, what: str, epochs: int, steps: int, text: bool) -> None:
        """Open the log with the epochs before."""
        with self._refusing():
            for old in self.folder.glob(runs.EVENTS):
                old.unlink()
            name = f"{int(time.time())}.{socket.gethostname()}"
            self.log = RecordWriter(str(self.folder / runs.EVENTS.replace("*", name)))
            self._add(file_version="brain.Event:2")
            for row in self.rows:
                self._add_row(row)
            for row in self.diagnosed:
                self._add_layer(row)
            self.log.flush()

    def epoch(self, row: dict[str, Any], epochs: int) -> None:
        """Add an epoch's figures."""
        assert self.log is not None
        with self._refusing():
            self._add_row(row)
            self.log.flush()

    def diagnosis(self, epoch: int, step: int, found: Diagnosis) -> None:
        """Add what was found of each layer."""
        assert self.log is not None
        with self._refusing():
            for row in found.rows():
                self._add_layer(row | {"step": step})
            self.log.flush()

    def close(self) -> None:
        """Close the log; a full disk has been told of already."""
        if self.log is not None:
            with contextlib.suppress(OSError):
                self.log.close()
            self.log = None

    def _add_row(self, row: dict[str, Any]) -> None:
        for column in COLUMNS[1:]:
            if row[column] is not None:
                self._add(step=row["epoch"], summary=scalar(column, row[column]))

    def _add_layer(self, row: dict[str, Any]) -> None:
        for name, value in scalars_of(row).items():
            self._add(step=row["step"], summary=scalar(f"diagnose/{name}", value))

    def _add(self, **content: Any) -> None:
        assert self.log is not None
        self.log.write(Event(wall_time=time.time(), **content).SerializeToString())

    @contextlib.contextmanager
    def _refusing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise refused(self.folder / runs.EVENTS, error) from error

"""Reporters that write a run's files, apart from checkpoints: metrics, weights, plots, logs."""

import contextlib
import socket
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from tensorboardX.proto.event_pb2 import Event  # type: ignore[import-untyped]
from tensorboardX.record_writer import RecordWriter  # type: ignore[import-untyped]
from tensorboardX.summary import scalar  # type: ignore[import-untyped]

from lra.lab.runs import files, plots
from lra.lab.runs.atomic import write_error
from lra.lab.runs.display import Reporter
from lra.lab.runs.state import COLUMNS, State
from lra.torch.diagnose import Diagnosis, scalars_of


class Reporters(Reporter):
    """Forwards each call to several reporters in turn.

    Args:
        reporters: the reporters.
    """

    def __init__(self, reporters: Iterable[Reporter]) -> None:
        self.reporters = tuple(reporters)

    def start(self, description: str, epochs: int, steps: int, text: bool) -> None:
        """Forward the start."""
        for reporter in self.reporters:
            reporter.start(description, epochs, steps, text)

    def note(self, text: str) -> None:
        """Forward a remark."""
        for reporter in self.reporters:
            reporter.note(text)

    def step(self, step: int, loss_sum: float, correct: int, seen: int) -> None:
        """Forward the progress of an epoch."""
        for reporter in self.reporters:
            reporter.step(step, loss_sum, correct, seen)

    def epoch(self, row: dict[str, Any], epochs: int) -> None:
        """Forward the metrics of an epoch."""
        for reporter in self.reporters:
            reporter.epoch(row, epochs)

    def diagnosis(self, epoch: int, step: int, diagnosis: Diagnosis) -> None:
        """Forward a diagnosis."""
        for reporter in self.reporters:
            reporter.diagnosis(epoch, step, diagnosis)

    def end(self, result: dict[str, Any], folder: Path) -> None:
        """Forward the result."""
        for reporter in self.reporters:
            reporter.end(result, folder)

    def close(self) -> None:
        """Close each reporter, even if another one fails."""
        with contextlib.ExitStack() as stack:
            for reporter in reversed(self.reporters):
                stack.callback(reporter.close)


class FilesReporter(Reporter):
    """Writes metrics.csv and the best weights after each epoch; plot and result at the end.

    Args:
        folder: the run's folder.
        state: the run's state, which training updates.
        about: what rebuilding the network needs: the shape of a sample, and the classes.
        title: the title of the plot.
    """

    def __init__(self, folder: Path, state: State, about: dict[str, Any], title: str) -> None:
        self.folder, self.state, self.about, self.title = folder, state, about, title

    def start(self, description: str, epochs: int, steps: int, text: bool) -> None:
        """Write what the checkpoint holds, since a killed run may not have written it."""
        self.text = text
        self._write()

    def epoch(self, row: dict[str, Any], epochs: int) -> None:
        """Write metrics and weights."""
        self._write()

    def end(self, result: dict[str, Any], folder: Path) -> None:
        """Write plot and result."""
        figure = plots.curves(self.state.rows, self.title, text=self.text, result=result)
        plots.save(figure, self.folder / files.CURVES)
        files.write_json(self.folder / files.RESULT, result)

    def _write(self) -> None:
        files.write_metrics(self.folder, self.state.rows)
        if self.state.best_weights:
            files.write_weights(self.folder, self.state.best_weights, self.about)


class EventsReporter(Reporter):
    """Writes a new TensorBoard log, since that of a killed run may lack its last epochs.

    Events are written synchronously, without a thread, so that the end of a run never waits.

    Args:
        folder: the run's folder.
        rows: the metrics of earlier epochs.
        diagnosed: the rows of earlier diagnoses.
    """

    def __init__(
        self,
        folder: Path,
        rows: Sequence[dict[str, Any]],
        diagnosed: Sequence[dict[str, Any]] = (),
    ) -> None:
        self.folder, self.rows, self.diagnosed = folder, rows, diagnosed
        self.log: RecordWriter | None = None

    def start(self, description: str, epochs: int, steps: int, text: bool) -> None:
        """Open the log and write earlier epochs and diagnoses."""
        with self._write_errors():
            for old in self.folder.glob(files.EVENTS):
                old.unlink()
            name = f"{int(time.time())}.{socket.gethostname()}"
            self.log = RecordWriter(str(self.folder / files.EVENTS.replace("*", name)))
            self._add(file_version="brain.Event:2")
            for row in self.rows:
                self._add_row(row)
            for row in self.diagnosed:
                self._add_layer(row)
            self.log.flush()

    def epoch(self, row: dict[str, Any], epochs: int) -> None:
        """Write the metrics of an epoch."""
        assert self.log is not None
        with self._write_errors():
            self._add_row(row)
            self.log.flush()

    def diagnosis(self, epoch: int, step: int, diagnosis: Diagnosis) -> None:
        """Write the numbers of each layer."""
        assert self.log is not None
        with self._write_errors():
            for row in diagnosis.rows():
                self._add_layer(row | {"step": step})
            self.log.flush()

    def close(self) -> None:
        """Close the log. A full disk has already raised an error."""
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
    def _write_errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise write_error(self.folder / files.EVENTS, error) from error

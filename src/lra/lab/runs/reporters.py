"""Reporters that write a run's files, apart from checkpoints: metrics, weights, plots, logs."""

import contextlib
import functools
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from tensorboardX.event_file_writer import EventsWriter  # type: ignore[import-untyped]
from tensorboardX.proto.event_pb2 import Event  # type: ignore[import-untyped]
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
        for name in ("start", "note", "step", "epoch", "diagnosis", "end"):
            setattr(self, name, functools.partial(self._forward, name))

    def _forward(self, name: str, *arguments: Any) -> None:
        for reporter in self.reporters:
            getattr(reporter, name)(*arguments)

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

    Events are written synchronously. The loggers of Fabric and tensorboardX write in a thread: if
    the disk is full, it ends with an error that training does not see, and their queue blocks.

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
        self.log: EventsWriter | None = None

    def start(self, description: str, epochs: int, steps: int, text: bool) -> None:
        """Open the log and write earlier epochs and diagnoses."""
        with self._writing():
            for old in self.folder.glob(files.EVENTS):
                old.unlink()
            self.log = EventsWriter(str(self.folder / files.EVENTS.partition(".")[0]))
            for row in self.rows:
                self._add_row(row)
            for row in self.diagnosed:
                self._add(row["step"], scalars_of(row), "diagnose/")

    def epoch(self, row: dict[str, Any], epochs: int) -> None:
        """Write the metrics of an epoch."""
        with self._writing():
            self._add_row(row)

    def diagnosis(self, epoch: int, step: int, diagnosis: Diagnosis) -> None:
        """Write the numbers of each layer."""
        with self._writing():
            for row in diagnosis.rows():
                self._add(step, scalars_of(row | {"step": step}), "diagnose/")

    def close(self) -> None:
        """Close the log. A full disk has already raised an error."""
        if self.log is not None:
            with contextlib.suppress(OSError):
                self.log.close()
            # If its last flush fails, `close` leaves the file open.
            self.log._py_recordio_writer.close()
            self.log = None

    def _add_row(self, row: dict[str, Any]) -> None:
        self._add(row["epoch"], {name: row[name] for name in COLUMNS[1:] if row[name] is not None})

    def _add(self, step: int, values: dict[str, float], prefix: str = "") -> None:
        assert self.log is not None
        for name, value in values.items():
            summary = scalar(prefix + name, value)
            self.log.write_event(Event(wall_time=time.time(), step=step, summary=summary))

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
            if self.log is not None:
                self.log.flush()
        except OSError as error:
            raise write_error(self.folder / files.EVENTS, error) from error

"""Progress of a run: the silent `Reporter`, and one with a progress bar or plain lines."""

import datetime
import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from lra.torch.diagnose import Diagnosis


class Reporter:
    """Receives the progress of a run. This base class ignores all of it."""

    def start(self, description: str, epochs: int, steps: int, text: bool) -> None:
        """Receive the start of training.

        Args:
            description: a line that describes the run.
            epochs: the number of epochs.
            steps: the number of steps in an epoch.
            text: whether the data are text.
        """

    def note(self, text: str) -> None:
        """Receive a remark."""

    def step(self, step: int, loss_sum: float, correct: int, seen: int) -> None:
        """Receive the progress of an epoch.

        Args:
            step: the number of finished steps of the epoch.
            loss_sum: the sum of the losses of all predictions so far.
            correct: the number of correct predictions so far.
            seen: the number of predictions so far: samples, or characters of text.
        """

    def epoch(self, row: dict[str, Any], epochs: int) -> None:
        """Receive the metrics of an epoch, by column."""

    def diagnosis(self, epoch: int, step: int, diagnosis: Diagnosis) -> None:
        """Receive a diagnosis, with its epoch, from 1, and the run's number of finished steps."""

    def end(self, result: dict[str, Any], folder: Path) -> None:
        """Receive the result of a finished run."""

    def close(self) -> None:
        """Release resources. Called once, whether the run finished or not."""


LINE_EVERY = 20.0
"""Seconds after which a line of progress is printed where there is no terminal for a bar."""


class ConsoleReporter(Reporter):
    """Prints a line per epoch, and shows a progress bar on a terminal.

    Without a terminal, it prints a line of progress in long epochs.

    Args:
        console: the output.
    """

    def __init__(self, console: Console) -> None:
        self.console = console
        self.bar: Progress | None = None

    def start(self, description: str, epochs: int, steps: int, text: bool) -> None:
        """Print the description and the column titles, and start the bar."""
        self.epochs, self.steps, self.text = epochs, steps, text
        self.rate_unit = "characters/s" if text else "samples/s"
        self._print(description)
        validation = "validation loss" if text else "validation %"
        self._print(f"epoch      loss   train %   {validation}   {self.rate_unit}")
        self.mark, self.seen_at_mark, self.rate, self.done = time.monotonic(), 0, 0.0, 0
        self.began = self.last_line = self.mark
        if self.console.is_terminal:
            self.bar = Progress(
                TextColumn("epoch {task.fields[epoch]}"),
                BarColumn(),
                TextColumn("{task.fields[figures]}"),
                TimeRemainingColumn(),
                console=self.console,
                transient=True,
            )
            self.task = self.bar.add_task("", total=epochs * steps, epoch=1, figures="")
            self.bar.start()

    def note(self, text: str) -> None:
        """Print a remark."""
        self._print(text)

    def step(self, step: int, loss_sum: float, correct: int, seen: int) -> None:
        """Advance the bar."""
        now = time.monotonic()
        if seen <= self.seen_at_mark:
            self.seen_at_mark = 0
        self.rate = (seen - self.seen_at_mark) / max(now - self.mark, 1e-9)
        if self.bar and seen:
            figures = f"loss {loss_sum / seen:.4f}  train {100 * correct / seen:.2f}%"
            self.bar.update(
                self.task,
                completed=self.done * self.steps + step,
                figures=f"{figures}  {self.rate:,.0f} {self.rate_unit}",
            )
        elif seen and now - self.last_line >= LINE_EVERY:
            elapsed = datetime.timedelta(seconds=int(now - self.began))
            self._print(
                f"{self.done + 1:>3}/{self.epochs:<3}  {loss_sum / seen:7.4f}   "
                f"step {step:,} of {self.steps:,}, {elapsed}"
            )

    def epoch(self, row: dict[str, Any], epochs: int) -> None:
        """Print the epoch's line."""
        if row["validation_loss"] is None:
            validation = "-"
        elif self.text:
            validation = f"{row['validation_loss']:.4f}"
        else:
            validation = f"{row['validation_accuracy']:.2f}"
        widths = (18, 12) if self.text else (15, 9)
        self._print(
            f"{row['epoch']:>3}/{epochs:<3}  {row['loss']:7.4f}   {row['train_accuracy']:7.2f}"
            f"{validation:>{widths[0]}}   {self.rate:{widths[1]},.0f}"
        )
        self.done = row["epoch"]
        self.mark, self.seen_at_mark = time.monotonic(), 0
        if self.bar:
            self.bar.update(self.task, epoch=min(self.done + 1, epochs))

    def end(self, result: dict[str, Any], folder: Path) -> None:
        """Stop the bar and print the result."""
        self.close()
        test, loss = result["test_accuracy"], result["test_loss"]
        best = f"best epoch {result['best_epoch']} of {result['epochs']}"
        if test is None:
            self._print(
                f"{best}; no test set: {result['dataset']} has none, or --no-test was given"
            )
        elif self.text:
            self._print(
                f"test loss {loss:.4f} nats per character, accuracy {test:.2f}% ({best}), "
                f"{result['test_loss_last']:.4f} with the last weights; {result['seconds']:.1f} s"
            )
        else:
            self._print(
                f"test accuracy {test:.2f}% ({best}), {result['test_accuracy_last']:.2f}% "
                f"with the last weights; {result['seconds']:.1f} s"
            )
        self._print(f"curves, weights and figures are in {folder}")

    def close(self) -> None:
        """Remove the bar from the terminal."""
        if self.bar:
            self.bar.stop()
            self.bar = None

    def _print(self, text: str) -> None:
        self.last_line = time.monotonic()
        self.console.print(text, markup=False, highlight=False, soft_wrap=True)

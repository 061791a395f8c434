"""What a run says while it goes: nothing, or a live bar that degrades to plain lines."""

import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from lra.torch.diagnose import Diagnosis


class Reporter:
    """Hears what a run does, and keeps silent."""

    def start(self, what: str, epochs: int, steps: int, text: bool) -> None:
        """Hear that training starts: what, its epochs, the steps in one, whether it is on text."""

    def note(self, text: str) -> None:
        """Hear a remark."""

    def step(self, step: int, loss_sum: float, correct: int, seen: int) -> None:
        """Hear how far the epoch is: sums over the samples, or the characters, seen in it."""

    def epoch(self, row: dict[str, Any], epochs: int) -> None:
        """Hear an epoch's figures."""

    def diagnosis(self, epoch: int, step: int, found: Diagnosis) -> None:
        """Hear a diagnosis, in an epoch, from 1, when so many steps of the run are done."""

    def end(self, result: dict[str, Any], folder: Path) -> None:
        """Hear the result."""

    def close(self) -> None:
        """Hear that no more comes, whether the run came to its end or not."""


class ConsoleReporter(Reporter):
    """Shows a bar on a terminal, and a line for each epoch anywhere.

    Args:
        console: where to write.
    """

    def __init__(self, console: Console) -> None:
        self.console = console
        self.bar: Progress | None = None

    def start(self, what: str, epochs: int, steps: int, text: bool) -> None:
        """Show what is trained, and start the bar."""
        self.steps, self.text = steps, text
        self.each = "characters/s" if text else "samples/s"
        self._print(what)
        judge = "validation loss" if text else "validation %"
        self._print(f"epoch      loss   train %   {judge}   {self.each}")
        self.mark, self.seen_at_mark, self.rate, self.done = time.monotonic(), 0, 0.0, 0
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
        """Move the bar."""
        now = time.monotonic()
        if seen <= self.seen_at_mark:
            self.seen_at_mark = 0
        self.rate = (seen - self.seen_at_mark) / max(now - self.mark, 1e-9)
        if self.bar and seen:
            figures = f"loss {loss_sum / seen:.4f}  train {100 * correct / seen:.2f}%"
            self.bar.update(
                self.task,
                completed=self.done * self.steps + step,
                figures=f"{figures}  {self.rate:,.0f} {self.each}",
            )

    def epoch(self, row: dict[str, Any], epochs: int) -> None:
        """Print the epoch's line."""
        if row["validation_loss"] is None:
            shown = "-"
        elif self.text:
            shown = f"{row['validation_loss']:.4f}"
        else:
            shown = f"{row['validation_accuracy']:.2f}"
        columns = (18, 12) if self.text else (15, 9)
        self._print(
            f"{row['epoch']:>3}/{epochs:<3}  {row['loss']:7.4f}   {row['train_accuracy']:7.2f}"
            f"{shown:>{columns[0]}}   {self.rate:{columns[1]},.0f}"
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
            self._print(f"{best}; {result['dataset']} has no test pair, or it was left out")
        elif self.text:
            self._print(
                f"test loss {loss:.4f} nats a character, {test:.2f}% right ({best}), "
                f"{result['test_loss_last']:.4f} with the last weights; {result['seconds']:.1f} s"
            )
        else:
            self._print(
                f"test accuracy {test:.2f}% ({best}), {result['test_accuracy_last']:.2f}% "
                f"with the last weights; {result['seconds']:.1f} s"
            )
        self._print(f"curves, weights and figures are in {folder}")

    def close(self) -> None:
        """Take the bar off the screen."""
        if self.bar:
            self.bar.stop()
            self.bar = None

    def _print(self, text: str) -> None:
        self.console.print(text, markup=False, highlight=False, soft_wrap=True)

"""Handling of Ctrl-C and SIGTERM, which end a run at its next step."""

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

from lra.errors import LraError


class Interrupted(LraError):  # noqa: N818 - a state of a run, like Diverged
    """Raised for a run that was ended by a signal and can be resumed.

    Attributes:
        signal: the number of the signal.
    """

    def __init__(self, number: int, folder: Path) -> None:
        super().__init__(f"stopped; continue with: lra train --resume {folder}")
        self.signal = number


class Stop:
    """Records SIGINT and SIGTERM.

    Attributes:
        signal: the number of the received signal, or None.
    """

    def __init__(self) -> None:
        self.signal: int | None = None

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """Record the first signal. A second one has its usual effect, and ends the program."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {s: signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)}

        def record(number: int, frame: FrameType | None) -> None:
            self.signal = number
            restore()

        def restore() -> None:
            for s, handler in before.items():
                signal.signal(s, handler)

        for s in before:
            signal.signal(s, record)
        try:
            yield
        finally:
            restore()


def _exit(number: int, frame: FrameType | None) -> None:
    if os.environ.get("LOCAL_RANK", "0") == "0":  # one message for all processes of a run
        print("lra: stopped", file=sys.stderr, flush=True)  # noqa: T201
    os._exit(128 + number)


@contextlib.contextmanager
def exit_on_interrupt() -> Iterator[None]:
    """End the process at once on Ctrl-C, since imports may swallow KeyboardInterrupt."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, _exit)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def exit_with_parent() -> None:
    """Exit this process when its parent process ends, even if it is blocked."""
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1.0)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()

"""How Ctrl-C and SIGTERM end a run: at the next step."""

import contextlib
import os
import signal
import threading
import time
from collections.abc import Iterator
from types import FrameType


class Stop:
    """Notes signals.

    Attributes:
        signal: the number of the one that came, or None.
    """

    def __init__(self) -> None:
        self.signal: int | None = None

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """Note the first signal; a second one ends the program at once."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {s: signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)}

        def note(number: int, frame: FrameType | None) -> None:
            self.signal = number
            restore()

        def restore() -> None:
            for s, handler in before.items():
                signal.signal(s, handler)

        for s in before:
            signal.signal(s, note)
        try:
            yield
        finally:
            restore()


def end_with_parent() -> None:
    """End this process as soon as the one that started it has ended, whatever it waits for."""
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1.0)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()

"""The entry point of the `lra` command, also run by `python -m lra`."""

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator
from types import FrameType


def _stop(number: int, frame: FrameType | None) -> None:
    if os.environ.get("LOCAL_RANK", "0") == "0":  # one message for all processes of a run
        print("lra: stopped", file=sys.stderr, flush=True)  # noqa: T201
    os._exit(128 + number)


@contextlib.contextmanager
def exit_on_interrupt() -> Iterator[None]:
    """End the process at once on Ctrl-C, since imports may swallow KeyboardInterrupt."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, _stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def main() -> None:
    """Import and run the command."""
    # OpenMP reads this as torch is loaded. Threads that spin slow down other processes.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    with exit_on_interrupt():
        from lra.lab.cli.main import main
    main()


if __name__ == "__main__":
    main()

"""Run the `lra` command: also as `python -m lra`."""

import os
import signal
import sys
from types import FrameType


def _stop(number: int, frame: FrameType | None) -> None:
    if os.environ.get("LOCAL_RANK", "0") == "0":  # one of a run's processes says so
        print("lra: stopped", file=sys.stderr, flush=True)  # noqa: T201
    os._exit(128 + number)


def main() -> None:
    """Load the command and run it; Ctrl-C while it loads ends the process at once."""
    before = signal.signal(signal.SIGINT, _stop)  # libraries that load may swallow the exception
    from lra.lab import cli

    signal.signal(signal.SIGINT, before)
    cli.main()


if __name__ == "__main__":
    main()

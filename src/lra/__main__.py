"""The entry point of the `lra` command, also run by `python -m lra`."""

import os
import signal
import sys
from types import FrameType


def _stop(number: int, frame: FrameType | None) -> None:
    if os.environ.get("LOCAL_RANK", "0") == "0":  # one message for all processes of a run
        print("lra: stopped", file=sys.stderr, flush=True)  # noqa: T201
    os._exit(128 + number)


def main() -> None:
    """Import and run the command. Ctrl-C during the import ends the process at once."""
    before = signal.signal(signal.SIGINT, _stop)  # imports may swallow KeyboardInterrupt
    from lra.lab.cli.main import main

    signal.signal(signal.SIGINT, before)
    main()


if __name__ == "__main__":
    main()

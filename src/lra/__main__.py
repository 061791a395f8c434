"""The entry point of the `lra` command, also run by `python -m lra`."""

import os

from lra.lab.training.stop import exit_on_interrupt


def main() -> None:
    """Import and run the command."""
    # OpenMP reads this as torch is loaded. Threads that spin slow down other processes.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    with exit_on_interrupt():
        from lra.lab.cli.main import main
    main()


if __name__ == "__main__":
    main()

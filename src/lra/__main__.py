"""The entry point of the `lra` command, also run by `python -m lra`."""

import importlib.util
import os
import sys

from lra.lab.training.stop import exit_on_interrupt


def main() -> None:
    """Import and run the command."""
    if missing := [
        name for name in ("rich", "torch", "tyro") if not importlib.util.find_spec(name)
    ]:
        sys.exit(f"lra: the command needs {', '.join(missing)}: pip install 'lra-e[lab]'")
    # OpenMP reads this as torch is loaded. Threads that spin slow down other processes.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    with exit_on_interrupt():
        from lra.lab.cli.main import main
    main()


if __name__ == "__main__":
    main()

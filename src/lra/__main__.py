"""Run the `lra` command as `python -m lra`."""

from lra.lab.cli import main

if __name__ == "__main__":
    main()

"""Attack the workbench: files that are not sound, and processes that are killed.

    python benchmarks/attack.py files --count 10000 --seed 0
    python benchmarks/attack.py files --seed 0 --only 4711      # one case again
    python benchmarks/attack.py kills --count 300 --seed 0
    python benchmarks/attack.py kills --count 9 --devices 2     # each starts Python twice

A file must be refused in one line, or used; nothing in it may run. A run that was killed, or
stopped by a signal, at whatever moment, must end in the same bits as one that was not. Needs a
system with fork and signals (Linux, macOS).
"""

import argparse
import os
import sys


def main() -> None:
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=("files", "kills"))
    parser.add_argument("--count", type=int, default=1000, help="of files, or of kills")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", type=int, help="files: the number of one case")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="files: at once")
    parser.add_argument("--devices", type=int, default=1, help="kills: processes of a run")
    options = parser.parse_args()
    from attacks import files, kills

    if options.what == "files":
        good = files.run(options.count, options.seed, options.only, options.jobs)
    else:
        good = kills.run(options.count, options.seed, options.devices)
    sys.exit(not good)


if __name__ == "__main__":
    main()

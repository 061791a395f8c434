"""Attack the workbench with corrupt files and by killing processes.

    python benchmarks/attack.py files --count 10000 --seed 0
    python benchmarks/attack.py files --seed 0 --only 4711      # one case again
    python benchmarks/attack.py kills --count 300 --seed 0
    python benchmarks/attack.py kills --count 9 --devices 2     # each starts Python twice
    python benchmarks/attack.py compare --count 50 --seed 0

A file must be used, or refused with an error of one line; no code in it may run. A run that was
killed or stopped by a signal at a random time must end with the same bits as an undisturbed one;
so must all runs of a comparison, one or two of whose main processes, or their workers, are killed.
Needs a system with fork and signals (Linux, macOS).
"""

import argparse
import os
import sys


def main() -> None:
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=("files", "kills", "compare"))
    parser.add_argument("--count", type=int, default=1000, help="number of files or kills")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", type=int, help="files: run only the case of this number")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="files: processes")
    parser.add_argument("--devices", type=int, default=1, help="kills: processes of each run")
    options = parser.parse_args()
    from attacks import compare, files, kills

    if options.what == "files":
        passed = files.run(options.count, options.seed, options.only, options.jobs)
    elif options.what == "compare":
        passed = compare.run(options.count, options.seed)
    else:
        passed = kills.run(options.count, options.seed, options.devices)
    sys.exit(not passed)


if __name__ == "__main__":
    main()

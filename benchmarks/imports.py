"""Time `import lra` and the first use of `lra.convert` after `import torch`, in new processes.

python benchmarks/imports.py
"""

import statistics
import subprocess
import sys

CODE = """
import time, torch
start = time.perf_counter()
import lra
first = time.perf_counter()
lra.convert
print((first - start) * 1e3, (time.perf_counter() - start) * 1e3)
"""


def main() -> None:
    runs = [
        subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=True)
        for _ in range(11)
    ]
    figures = [[float(word) for word in run.stdout.split()] for run in runs]
    for name, values in zip(
        ("import lra", "and lra.convert"), zip(*figures, strict=True), strict=True
    ):
        median = statistics.median(values)
        print(f"{name:<16} {median:6.1f} ms ({min(values):.1f} to {max(values):.1f})")


if __name__ == "__main__":
    main()

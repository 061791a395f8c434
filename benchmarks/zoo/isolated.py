"""Run each measurement in a separate process, so that a crash or timeout affects only that one."""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",  # jobs run in parallel, and one thread is reproducible
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_VERBOSITY": "error",
    "PYTHONHASHSEED": "0",
}


def measure(arguments: list[str], seconds: float) -> dict[str, Any]:
    """Return the JSON in the last line that a command of `benchmarks/` prints, or its error."""
    run = subprocess.Popen(
        [sys.executable, "-W", "ignore", *arguments],
        cwd=Path(__file__).parents[1],
        env=os.environ | ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        out, err = run.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        run.kill()
        run.communicate()
        return {"error": f"took over {seconds:.0f} s"}
    if run.returncode:
        lines = [line for line in err.splitlines() if line.strip()]
        return {"error": lines[-1] if lines else f"ended with {run.returncode}"}
    result: dict[str, Any] = json.loads(out.splitlines()[-1])
    return result


def measure_all(
    names: list[str], command: Callable[[str], list[str]], jobs: int, seconds: float
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Measure with several parallel processes, and yield the results in the order of the names.

    Args:
        names: the names to measure.
        command: returns the arguments of the process that measures a name.
        jobs: the number of parallel processes.
        seconds: the time limit of a process.
    """
    stopped = threading.Event()

    def run(name: str) -> dict[str, Any]:
        return {"error": "stopped"} if stopped.is_set() else measure(command(name), seconds)

    with ThreadPoolExecutor(jobs) as pool:
        try:
            yield from zip(names, pool.map(run, names), strict=True)
        finally:
            stopped.set()

"""Run one measurement in a process of its own, so that nothing it does ends the others."""

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
    "OMP_NUM_THREADS": "1",  # jobs run beside each other, and one thread gives the same bits
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_VERBOSITY": "error",
    "PYTHONHASHSEED": "0",
}


def measured(arguments: list[str], seconds: float) -> dict[str, Any]:
    """Give what a command of `benchmarks/` prints last as JSON, or why it gave nothing."""
    run = subprocess.Popen(
        [sys.executable, "-W", "ignore", *arguments],
        cwd=Path(__file__).parents[1],
        env=os.environ | ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        out, complaints = run.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        run.kill()
        run.communicate()
        return {"error": f"took over {seconds:.0f} s"}
    if run.returncode:
        lines = [line for line in complaints.splitlines() if line.strip()]
        return {"error": lines[-1] if lines else f"ended with {run.returncode}"}
    result: dict[str, Any] = json.loads(out.splitlines()[-1])
    return result


def each(
    names: list[str], command: Callable[[str], list[str]], jobs: int, seconds: float
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Measure by several processes at a time, and give the results in the order of the names."""
    stopped = threading.Event()

    def one(name: str) -> dict[str, Any]:
        return {"error": "stopped"} if stopped.is_set() else measured(command(name), seconds)

    with ThreadPoolExecutor(jobs) as pool:
        try:
            yield from zip(names, pool.map(one, names), strict=True)
        finally:
            stopped.set()

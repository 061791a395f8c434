"""Kill comparisons and their workers at random times, resume them, and compare all bits."""

import contextlib
import csv
import os
import random
import signal
import subprocess
import tempfile
import time
from collections import Counter
from pathlib import Path

from .files import forked, make_target
from .kills import PATIENCE, Child, Fault, check_end, content

WORDS = (
    "--rules backprop lra-e:beta=0.2 --models mlp:width=16,depth=3 --epochs 4 --batch-size 4 "
    "--seeds 1 --trials 2 --search lr=1e-3..1e-2:log --device cpu --jobs 2"
)
MAIN_SIGNALS = (signal.SIGKILL, signal.SIGKILL, signal.SIGINT, signal.SIGTERM)
WORKER_SIGNALS = (signal.SIGKILL, signal.SIGTERM)
WORKER_KILLS = 2
"""Kills of workers of one main process, which reports a job as failed after three."""


def _start(name: str, home: Path, number: int, new_python: bool) -> Child:
    words = ["compare", "blobs.npz", *WORDS.split(), "--out", name]
    return Child(words, home, new_python, output=f"output{number}.txt")


def _workers(child: Child) -> list[int]:
    """Return the workers of a main process: those below it that lead a process group."""
    listed = subprocess.run(
        ["ps", "-A", "-o", "pid=,ppid=,pgid="], capture_output=True, text=True, check=True
    ).stdout
    rows = [tuple(map(int, line.split())) for line in listed.splitlines()]
    family = {child.process.pid}
    for _ in range(2):  # a server, from which the workers are forked
        family |= {pid for pid, parent, _ in rows if parent in family}
    return [pid for pid, _, group in rows if pid in family and pid == group]


def _wait_for_workers(child: Child) -> None:
    while child.wait(0.2) is None and not _workers(child):
        pass


def _kill(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def _results(folder: Path) -> dict[str, object]:
    """Return all that an interrupted comparison must have in common with an undisturbed one."""
    with (folder / "runs.csv").open(newline="") as file:
        rows = [{k: v for k, v in row.items() if k != "seconds"} for row in csv.DictReader(file)]
    runs = {path.name: content(path) for path in (folder / "runs").iterdir()}
    records = sorted(path.name for path in (folder / "records").iterdir())
    return {"runs.csv": rows, "records": records} | runs


def _attack(home: Path, draw: random.Random, seconds: float, name: str) -> list[str]:
    """Run a comparison with some kills; return what was killed."""
    sent: list[str] = []
    wanted, mains = draw.randrange(1, 6), 1 + (draw.random() < 0.4)
    new_python = draw.random() < 0.1
    children: list[Child | None] = [None] * mains
    of_workers = 0
    while True:
        for i, child in enumerate(children):
            if child is None:
                children[i] = _start(name, home, i, new_python)
                of_workers *= mains > 1  # the other one goes on counting
        last = len(sent) == wanted
        i = draw.randrange(mains)
        child = children[i]
        assert child is not None
        if not last and draw.random() < 0.8:  # the others come while it starts
            _wait_for_workers(child)
        code = child.wait(PATIENCE if last else draw.uniform(0, seconds / 2))
        allowed = {0}
        if code is None and not last:
            workers = _workers(child) if of_workers < WORKER_KILLS and draw.random() < 0.6 else []
            if workers:
                number = draw.choice(WORKER_SIGNALS)
                _kill(draw.choice(workers), number)
                of_workers += 1
                sent.append(f"worker {number.name}")
                continue
            number = draw.choice(MAIN_SIGNALS)
            _kill(child.process.pid, number)
            sent.append(number.name)
            code, allowed = child.wait(PATIENCE), {0, 128 + number, -number}
        check_end(child, code, allowed, f"{name} after {sent}")
        children[i] = None
        if code == 0:
            break
    for other in children:
        if other is not None and other.wait(PATIENCE) != 0:
            raise Fault(f"{name} after {sent}: {other.output.read_text(errors='replace')}")
    return sent


def run(count: int, seed: int) -> bool:
    """Send `count` kills and signals, print the outcomes, and return whether none had a fault."""
    sent: Counter[str] = Counter()
    faults = number = 0
    with tempfile.TemporaryDirectory() as text:
        home = Path(text)
        builder = forked().Process(target=make_target, args=(home,))
        builder.start()
        builder.join()
        whole = _start("whole", home, 0, new_python=False)
        _wait_for_workers(whole)
        began = time.monotonic()
        if whole.wait(PATIENCE) != 0:
            raise RuntimeError(whole.output.read_text())
        seconds = time.monotonic() - began
        expected = _results(home / "whole")
        began = time.monotonic()
        while sent.total() < count:
            draw, number = random.Random(f"{seed}/{number}"), number + 1
            name = f"comparison{number}"
            try:
                sent.update(_attack(home, draw, seconds, name))
                actual = _results(home / name)
                names = expected.keys() | actual.keys()
                if wrong := [n for n in sorted(names) if actual.get(n) != expected.get(n)]:
                    raise Fault(f"{name} differs from an undisturbed comparison in {wrong}")
            except Fault as fault:
                faults += 1
                sent["in a comparison with a fault"] += 1
                print(fault, flush=True)
            print(f"{sent.total():>5} of {count}: {dict(sent)}", flush=True)
        each = (time.monotonic() - began) / sent.total()
    print(
        f"{sent.total()} kills and signals in {number} comparisons, {each:.1f} s each, "
        f"{faults} faults (seed {seed})"
    )
    return not faults

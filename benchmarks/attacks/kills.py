"""Kill and stop trainings at random times, resume them, and compare the results bit by bit."""

import contextlib
import csv
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from lra.lab.cli import main
from lra.lab.runs import checkpoint, files

from .files import forked, make_target

WORDS = "--model mlp:hidden=24-16 --epochs 12 --batch-size 4 --device cpu"
SIGNALS = (signal.SIGKILL, signal.SIGKILL, signal.SIGINT, signal.SIGTERM)
PATIENCE = 300.0
"""Time limit of a process, in seconds; exceeding it is a fault."""


class Fault(Exception):  # noqa: N818 - a result of the attack
    """Raised for a command that ended in an unexpected way, or with other bits."""


class Child:
    """A command in a child process: forked from a server that has torch, or a new Python."""

    def __init__(
        self, words: list[str], home: Path, new_python: bool, output: str = "output.txt"
    ) -> None:
        self.output = home / output
        self.process: Any
        if new_python:
            with self.output.open("w") as file:
                self.process = subprocess.Popen(
                    [sys.executable, "-m", "lra", *words], cwd=home, stdout=file, stderr=file
                )
        else:
            self.output.unlink(missing_ok=True)
            self.process = forked().Process(target=_command, args=(words, home, self.output))
            self.process.start()
            # Until the output exists, the child has no signal handler.
            while not self.output.exists() and self.process.is_alive():
                time.sleep(0.001)

    def wait(self, seconds: float) -> int | None:
        """Wait for the process to end; return its exit code, or None after a timeout."""
        if isinstance(self.process, subprocess.Popen):
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(seconds)
            code: int | None = self.process.returncode
            return code
        self.process.join(seconds)
        code = self.process.exitcode
        return code


def _command(words: list[str], home: Path, output: Path) -> None:
    before = signal.signal(signal.SIGINT, lambda number, frame: os._exit(128 + number))
    target = os.open(output, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)
    for standard in (1, 2):
        os.dup2(target, standard)
    os.chdir(home)
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, before)
    main.main(words)


def _train(folder: str, home: Path, devices: int) -> list[str]:
    if (home / folder / files.CONFIG).exists():
        return ["train", "--resume", folder]
    return ["train", "blobs.npz", *WORDS.split(), "--devices", str(devices), "--out", folder]


def bits(value: Any) -> Iterator[bytes]:
    """Yield the bytes of all entries of a state except measured times."""
    if isinstance(value, dict):
        for name, part in value.items():
            if name != "seconds":
                yield str(name).encode()
                yield from bits(part)
    elif isinstance(value, (list, tuple)):
        for part in value:
            yield from bits(part)
    else:
        yield value.numpy().tobytes() if isinstance(value, torch.Tensor) else repr(value).encode()


def content(folder: Path) -> dict[str, bytes]:
    """Return the content that a finished run must have, however often it was interrupted."""
    state = checkpoint.load(folder / checkpoint.NAME, files.read_config(folder).to_config())
    with (folder / files.METRICS).open(newline="") as file:
        rows = list(csv.DictReader(file))
    result = json.loads((folder / files.RESULT).read_text())
    return {
        checkpoint.NAME: b"\0".join(bits(state)),
        files.METRICS: b"\0".join(bits(rows)),
        files.RESULT: b"\0".join(bits(result)),
        files.WEIGHTS: (folder / files.WEIGHTS).read_bytes(),
        "left behind": b" ".join(sorted(p.name.encode() for p in folder.glob("*.tmp"))),
    }


def _attack(home: Path, draw: random.Random, seconds: float, devices: int, name: str) -> list[str]:
    """Train a run with a few kills and signals; return the names of the signals sent."""
    sent: list[str] = []
    wanted = draw.randrange(1, 6)
    while True:
        child = Child(_train(name, home, devices), home, new_python=devices > 1)
        last = len(sent) == wanted
        code = child.wait(PATIENCE if last else draw.uniform(0, seconds))
        if code is None and not last:
            number = draw.choice(SIGNALS)
            os.kill(child.process.pid, number)
            sent.append(number.name)
            if draw.random() < 0.1:  # an impatient second signal
                time.sleep(draw.uniform(0, 0.05))
                with contextlib.suppress(ProcessLookupError):
                    os.kill(child.process.pid, number)
            code = child.wait(PATIENCE)
            allowed = {0, 128 + number, -number}
        else:
            allowed = {0}
        check_end(child, code, allowed, f"{name} after {sent}")
        if (home / name / files.RESULT).exists() and code == 0:
            return sent


def check_end(child: Child, code: int | None, allowed: set[int], name: str) -> None:
    """Raise `Fault` for a process that did not end, or ended with another code or a traceback."""
    output = child.output.read_text(errors="replace")
    if code is None:
        child.process.kill()
        raise Fault(f"{name} did not end within {PATIENCE:g} s: {output}")
    if code not in allowed or "Traceback" in output:
        raise Fault(f"{name} ended with {code}: {output}")


def run(count: int, seed: int, devices: int) -> bool:
    """Send `count` kills and signals, print the outcomes, and return whether none had a fault."""
    sent: Counter[str] = Counter()
    faults = 0
    with tempfile.TemporaryDirectory() as text:
        home = Path(text)
        builder = forked().Process(target=make_target, args=(home,))
        builder.start()
        builder.join()
        began = time.monotonic()
        whole = Child(_train("whole", home, devices), home, new_python=devices > 1)
        if whole.wait(PATIENCE) != 0:
            raise RuntimeError(whole.output.read_text())
        seconds = time.monotonic() - began
        expected = content(home / "whole")
        number = 0
        while sent.total() < count:
            draw, number = random.Random(f"{seed}/{number}"), number + 1
            name = f"run{number}"
            try:
                sent.update(_attack(home, draw, seconds, devices, name))
                actual = content(home / name)
                if wrong := [part for part in expected if actual[part] != expected[part]]:
                    raise Fault(f"{name} differs from an undisturbed run in {wrong}")
            except Fault as fault:
                faults += 1
                sent["in a run with a fault"] += 1
                print(fault, flush=True)
            print(f"{sent.total():>5} of {count}: {dict(sent)}", flush=True)
    print(f"{sent.total()} kills and signals in {number} runs, {faults} faults (seed {seed})")
    return not faults

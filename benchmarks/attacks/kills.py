"""Kill and stop a training at random moments, resume it, and hold it to the bits of a whole one."""

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

from lra.lab import checkpoint, cli, runs

from .files import forked, make_target

WORDS = "--hidden 24 16 --epochs 12 --batch-size 4 --device cpu"
SIGNALS = (signal.SIGKILL, signal.SIGKILL, signal.SIGINT, signal.SIGTERM)
PATIENCE = 300.0
"""Seconds after which a process that does not end is a fault."""


class Fault(Exception):  # noqa: N818 - what the attack found
    """A command that ended in another way than it may."""


class Child:
    """A command in a process of its own: forked from one that has torch, or Python in full."""

    def __init__(self, words: list[str], home: Path, whole: bool) -> None:
        self.said = home / "said.txt"
        self.process: Any
        if whole:
            with self.said.open("w") as said:
                self.process = subprocess.Popen(
                    [sys.executable, "-m", "lra", *words], cwd=home, stdout=said, stderr=said
                )
        else:
            self.said.unlink(missing_ok=True)
            self.process = forked().Process(target=_command, args=(words, home, self.said))
            self.process.start()
            while not self.said.exists() and self.process.is_alive():  # before, nothing listens
                time.sleep(0.001)

    def wait(self, seconds: float) -> int | None:
        """Wait for the end; None where it does not come."""
        if isinstance(self.process, subprocess.Popen):
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(seconds)
            code: int | None = self.process.returncode
            return code
        self.process.join(seconds)
        code = self.process.exitcode
        return code


def _command(words: list[str], home: Path, said: Path) -> None:
    before = signal.signal(signal.SIGINT, lambda number, frame: os._exit(128 + number))
    target = os.open(said, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)
    for standard in (1, 2):
        os.dup2(target, standard)
    os.chdir(home)
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, before)
    cli.main(words)


def _train(folder: str, home: Path, devices: int) -> list[str]:
    if (home / folder / runs.CONFIG).exists():
        return ["train", "--resume", folder]
    return ["train", "blobs.npz", *WORDS.split(), "--devices", str(devices), "--out", folder]


def bits(value: Any) -> Iterator[bytes]:
    """Give all that a state holds, but for measured times."""
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
    """Give what a finished run must have, whatever happened to it."""
    state = checkpoint.load(folder / checkpoint.NAME, runs.read_config(folder).to_config())
    with (folder / runs.METRICS).open(newline="") as file:
        rows = list(csv.DictReader(file))
    result = json.loads((folder / runs.RESULT).read_text())
    return {
        checkpoint.NAME: b"\0".join(bits(state)),
        runs.METRICS: b"\0".join(bits(rows)),
        runs.RESULT: b"\0".join(bits(result)),
        runs.WEIGHTS: (folder / runs.WEIGHTS).read_bytes(),
        "left behind": b" ".join(sorted(p.name.encode() for p in folder.glob("*.tmp"))),
    }


def _attack(home: Path, draw: random.Random, seconds: float, devices: int, name: str) -> list[str]:
    """Train with a few kills and signals on the way; tell which they were."""
    sent: list[str] = []
    wanted = draw.randrange(1, 6)
    while True:
        child = Child(_train(name, home, devices), home, whole=devices > 1)
        last = len(sent) == wanted
        code = child.wait(PATIENCE if last else draw.uniform(0, seconds))
        if code is None and not last:
            number = draw.choice(SIGNALS)
            os.kill(child.process.pid, number)
            sent.append(number.name)
            if draw.random() < 0.1:  # in a hurry
                time.sleep(draw.uniform(0, 0.05))
                with contextlib.suppress(ProcessLookupError):
                    os.kill(child.process.pid, number)
            code = child.wait(PATIENCE)
            allowed = {0, 128 + number, -number}
        else:
            allowed = {0}
        said = child.said.read_text(errors="replace")
        if code is None:
            child.process.kill()
            raise Fault(f"{name} did not end within {PATIENCE:g} s after {sent}: {said}")
        if code not in allowed or "Traceback" in said:
            raise Fault(f"{name} ended with {code} after {sent}: {said}")
        if (home / name / runs.RESULT).exists() and code == 0:
            return sent


def run(count: int, seed: int, devices: int) -> bool:
    """Send that many kills and signals, and print what came of them; True where all went well."""
    sent: Counter[str] = Counter()
    faults = 0
    with tempfile.TemporaryDirectory() as text:
        home = Path(text)
        make = forked().Process(target=make_target, args=(home,))
        make.start()
        make.join()
        began = time.monotonic()
        if Child(_train("whole", home, devices), home, whole=devices > 1).wait(PATIENCE) != 0:
            raise RuntimeError((home / "said.txt").read_text())
        seconds = time.monotonic() - began
        expected = content(home / "whole")
        number = 0
        while sent.total() < count:
            draw, number = random.Random(f"{seed}/{number}"), number + 1
            name = f"run{number}"
            try:
                sent.update(_attack(home, draw, seconds, devices, name))
                found = content(home / name)
                if other := [part for part in expected if found[part] != expected[part]]:
                    raise Fault(f"{name} differs from a run that nothing stopped in {other}")
            except Fault as fault:
                faults += 1
                sent["of a run with a fault"] += 1
                print(fault, flush=True)
            print(f"{sent.total():>5} of {count}: {dict(sent)}", flush=True)
    print(f"{sent.total()} kills and signals in {number} runs, {faults} faults (seed {seed})")
    return not faults

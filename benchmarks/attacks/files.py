"""Attack the command with corrupt files, which it must use or refuse with one line."""

import contextlib
import io
import json
import multiprocessing
import random
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np

from lra.lab.cli import main
from lra.lab.runs import checkpoint, files

from . import mutate

SECONDS = 60.0
"""Time limit of a case."""
CHUNK = 200
"""Number of cases in one process."""
MEMORY = 6 * 2**30
"""Memory limit of a process, in bytes."""

Change = Callable[[bytes, random.Random, Path], bytes]


@dataclass(frozen=True)
class Attack:
    """An attack: the file of the target, how it is changed, and the command that reads it."""

    file: str
    change: Change
    words: tuple[str, ...]


def _sealed(content: bytes, draw: random.Random, target: Path) -> bytes:
    """Change a checkpoint's content, and seal it with a valid checksum."""
    start = len(checkpoint.MAGIC) + 32
    return checkpoint.seal(mutate.forge_checkpoint(content[start:], draw, target))


def _corrupt(content: bytes, draw: random.Random, target: Path) -> bytes:
    return mutate.corrupt(content, draw)


def _npy(content: bytes, draw: random.Random, target: Path) -> bytes:
    return mutate.forge_npy(draw, target)


def _json(content: bytes, draw: random.Random, target: Path) -> bytes:
    return mutate.mutate_json(content, draw)


def _header(content: bytes, draw: random.Random, target: Path) -> bytes:
    return mutate.mutate_safetensors(content, draw)


_FETCH = ("data", "fetch", "blobs.npz")
_PREDICT = ("predict", "run", "x.npy")
_PREDICT_NPZ = ("predict", "run", "blobs.npz")
_EVALUATE = ("evaluate", "run")
_RESUME = ("train", "--resume", "run")


ATTACKS = {
    "npz, bytes, as data": Attack("blobs.npz", _corrupt, _FETCH),
    "npz, forged, as data": Attack("blobs.npz", mutate.forge_zip, _FETCH),
    "npz, bytes, predicted": Attack("blobs.npz", _corrupt, _PREDICT_NPZ),
    "npz, forged, predicted": Attack("blobs.npz", mutate.forge_zip, _PREDICT_NPZ),
    "npy, bytes": Attack("x.npy", _corrupt, _PREDICT),
    "npy, forged": Attack("x.npy", _npy, _PREDICT),
    "text, bytes": Attack("words.txt", _corrupt, ("data", "fetch", "words.txt")),
    "safetensors, bytes": Attack(f"run/{files.WEIGHTS}", _corrupt, _PREDICT),
    "safetensors, forged": Attack(f"run/{files.WEIGHTS}", _header, _PREDICT),
    "config, bytes": Attack(f"run/{files.CONFIG}", _corrupt, _EVALUATE),
    "config, forged": Attack(f"run/{files.CONFIG}", _json, _EVALUATE),
    "config, forged, resumed": Attack(f"run/{files.CONFIG}", _json, _RESUME),
    "checkpoint, bytes": Attack("run/checkpoint", _corrupt, _RESUME),
    "checkpoint, forged": Attack("run/checkpoint", _sealed, _RESUME),
}
"""The attacks, by name."""


def forked() -> multiprocessing.context.ForkServerContext:
    """Return a context that forks processes from a server that has loaded the command."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(
        ["lra.lab.cli.commands", "lra.lab.training.loop"]
    )  # takes effect with the first process
    return context


def make_target(folder: Path) -> None:
    """Train a small run, and write the files to attack."""
    rng = np.random.default_rng(0)
    y = np.arange(120) % 3
    x = (rng.normal(size=(120, 2, 3)) + y[:, None, None]).astype(np.float32)
    np.savez(folder / "blobs.npz", x=x, y=y, x_test=x[:40], y_test=y[:40])
    np.save(folder / "x.npy", x[:5])
    (folder / "words.txt").write_text("the quick brown fox\n" * 40, "utf-8")
    words = "--hidden 7 5 --epochs 2 --batch-size 16 --device cpu --out run"
    with contextlib.chdir(folder), contextlib.redirect_stdout(io.StringIO()):
        main.main(["train", "blobs.npz", *words.split()])


def run_case(number: int, seed: int, home: Path) -> tuple[str, str]:
    """Run one case in a copy of the target; return the attack's name and the fault or ""."""
    draw = random.Random(f"{seed}/{number}")
    name = list(ATTACKS)[number % len(ATTACKS)]
    attack = ATTACKS[name]
    with tempfile.TemporaryDirectory() as text, contextlib.chdir(text):
        folder = Path(text)
        shutil.copytree(home, folder, dirs_exist_ok=True)
        target = folder / "code-has-run"
        path = folder / attack.file
        path.write_bytes(attack.change(path.read_bytes(), draw, target))
        if "checkpoint" in name:
            shutil.copy(path, folder / "run" / checkpoint.PREVIOUS)
        out, err = io.StringIO(), io.StringIO()
        code, began = 0, time.monotonic()
        try:
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
                main.main(list(attack.words))
        except SystemExit as stop:
            code = stop.code if isinstance(stop.code, int) else 1
        except BaseException as error:
            return name, f"{type(error).__name__}: {error}"
        if target.exists():
            return name, "code in the file has run"
        if time.monotonic() - began > SECONDS:
            return name, f"took {time.monotonic() - began:.0f} s"
        return name, _fault(code, err.getvalue())


def _fault(code: int, stderr: str) -> str:
    """Return what is wrong with how a command ended, or ""."""
    lines = stderr.splitlines()
    extra = [line for line in lines[1:] if not line.startswith(("  - ", "Start "))]
    if code not in (0, 1, 2):
        return f"ended with {code}: {stderr}"
    if code and (not stderr.startswith("lra: ") or extra):
        return f"ended with {code} without a clear error of one line: {stderr}"
    return ""


def _work(numbers: list[int], seed: int, home: Path, pipe: Connection) -> None:
    import resource

    import torch

    torch.set_num_threads(1)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    for number in numbers:
        pipe.send((number, None))
        pipe.send((number, run_case(number, seed, home)))


def run(count: int, seed: int, only: int | None, jobs: int) -> bool:
    """Run the cases, print their outcomes, and return whether none had a fault."""
    done: Counter[str] = Counter()
    faults: list[str] = []
    with tempfile.TemporaryDirectory() as text:
        home = Path(text)
        context = forked()
        builder = context.Process(target=make_target, args=(home,))
        builder.start()
        builder.join()
        numbers = list(range(count)) if only is None else [only]
        chunks = [numbers[i : i + CHUNK] for i in range(0, len(numbers), CHUNK)]
        while chunks:
            current, chunks = chunks[:jobs], chunks[jobs:]
            workers = []
            for chunk in current:
                receiver, sender = context.Pipe(duplex=False)
                worker = context.Process(target=_work, args=(chunk, seed, home, sender))
                worker.start()
                sender.close()
                workers.append((chunk, worker, receiver))
            for chunk, worker, pipe in workers:
                last, result = _collect(pipe, done, faults)
                worker.join()
                if result is None and last is not None:
                    faults.append(f"case {last}: the process ended with {worker.exitcode}")
                    chunks.append([n for n in chunk if n > last])
            print(f"{sum(done.values()):>7,} of {len(numbers):,}", flush=True)
    for fault in faults:
        print(fault)
    print(json.dumps(dict(sorted(done.items())), indent=1))
    print(f"{sum(done.values()):,} files, {len(faults)} faults (seed {seed})")
    return not faults


def _collect(
    pipe: Connection, done: Counter[str], faults: list[str]
) -> tuple[int | None, tuple[str, str] | None]:
    """Receive a worker's results until it ends; return its last case and that case's result."""
    number, result = None, None
    while True:
        try:
            number, result = pipe.recv()
        except EOFError:
            return number, result
        if result is not None:
            name, fault = result
            done[name] += 1
            if fault:
                faults.append(f"case {number} ({name}): {fault}")

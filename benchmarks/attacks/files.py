"""Hand the command files that are not sound; it must refuse them in a line, or use them."""

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

from lra.lab import checkpoint, cli, runs

from . import mutate

SECONDS = 60.0
"""How long a case may take."""
CHUNK = 200
"""Cases of one process."""
MEMORY = 6 * 2**30
"""Bytes that a process may have."""

Change = Callable[[bytes, random.Random, Path], bytes]


@dataclass(frozen=True)
class Kind:
    """One way to attack: which file of the target is changed how, and the command that reads it."""

    file: str
    change: Change
    words: tuple[str, ...]


def _sealed(content: bytes, draw: random.Random, target: Path) -> bytes:
    """Change a checkpoint's content, with a checksum that fits."""
    start = len(checkpoint.MAGIC) + 32
    return checkpoint.seal(mutate.forge_checkpoint(content[start:], draw, target))


def _corrupt(content: bytes, draw: random.Random, target: Path) -> bytes:
    return mutate.corrupt(content, draw)


def _npy(content: bytes, draw: random.Random, target: Path) -> bytes:
    return mutate.forge_npy(draw, target)


def _json(content: bytes, draw: random.Random, target: Path) -> bytes:
    return mutate.twist_json(content, draw)


def _header(content: bytes, draw: random.Random, target: Path) -> bytes:
    return mutate.twist_safetensors(content, draw)


_FETCH = ("data", "fetch", "blobs.npz")
_PREDICT = ("predict", "run", "x.npy")
_PREDICT_NPZ = ("predict", "run", "blobs.npz")
_EVALUATE = ("evaluate", "run")
_RESUME = ("train", "--resume", "run")


KINDS = {
    "npz, bytes, as data": Kind("blobs.npz", _corrupt, _FETCH),
    "npz, forged, as data": Kind("blobs.npz", mutate.forge_zip, _FETCH),
    "npz, bytes, predicted": Kind("blobs.npz", _corrupt, _PREDICT_NPZ),
    "npz, forged, predicted": Kind("blobs.npz", mutate.forge_zip, _PREDICT_NPZ),
    "npy, bytes": Kind("x.npy", _corrupt, _PREDICT),
    "npy, forged": Kind("x.npy", _npy, _PREDICT),
    "text, bytes": Kind("words.txt", _corrupt, ("data", "fetch", "words.txt")),
    "safetensors, bytes": Kind(f"run/{runs.WEIGHTS}", _corrupt, _PREDICT),
    "safetensors, forged": Kind(f"run/{runs.WEIGHTS}", _header, _PREDICT),
    "config, bytes": Kind(f"run/{runs.CONFIG}", _corrupt, _EVALUATE),
    "config, forged": Kind(f"run/{runs.CONFIG}", _json, _EVALUATE),
    "config, forged, resumed": Kind(f"run/{runs.CONFIG}", _json, _RESUME),
    "checkpoint, bytes": Kind("run/checkpoint", _corrupt, _RESUME),
    "checkpoint, forged": Kind("run/checkpoint", _sealed, _RESUME),
}
"""The ways to attack, by name."""


def forked() -> multiprocessing.context.ForkServerContext:
    """Give what forks processes from one that has loaded the command already."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["lra.lab.cli"])  # heeded when the first process is started
    return context


def make_target(folder: Path) -> None:
    """Train a small run, and write the files that are attacked."""
    rng = np.random.default_rng(0)
    y = np.arange(120) % 3
    x = (rng.normal(size=(120, 2, 3)) + y[:, None, None]).astype(np.float32)
    np.savez(folder / "blobs.npz", x=x, y=y, x_test=x[:40], y_test=y[:40])
    np.save(folder / "x.npy", x[:5])
    (folder / "words.txt").write_text("the quick brown fox\n" * 40, "utf-8")
    words = "--hidden 7 5 --epochs 2 --batch-size 16 --device cpu --out run"
    with contextlib.chdir(folder), contextlib.redirect_stdout(io.StringIO()):
        cli.main(["train", "blobs.npz", *words.split()])


def attack(number: int, seed: int, home: Path) -> tuple[str, str]:
    """Do one case, in a copy of the target; tell its kind, and what is wrong or ""."""
    draw = random.Random(f"{seed}/{number}")
    name = list(KINDS)[number % len(KINDS)]
    kind = KINDS[name]
    with tempfile.TemporaryDirectory() as text, contextlib.chdir(text):
        folder = Path(text)
        shutil.copytree(home, folder, dirs_exist_ok=True)
        target = folder / "code-has-run"
        path = folder / kind.file
        path.write_bytes(kind.change(path.read_bytes(), draw, target))
        if "checkpoint" in name:
            shutil.copy(path, folder / "run" / checkpoint.PREVIOUS)
        out, err = io.StringIO(), io.StringIO()
        code, began = 0, time.monotonic()
        try:
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
                cli.main(list(kind.words))
        except SystemExit as stop:
            code = stop.code if isinstance(stop.code, int) else 1
        except BaseException as error:
            return name, f"{type(error).__name__}: {error}"
        if target.exists():
            return name, "code was run"
        if time.monotonic() - began > SECONDS:
            return name, f"took {time.monotonic() - began:.0f} s"
        return name, _fault(code, err.getvalue())


def _fault(code: int, said: str) -> str:
    """Tell what is wrong with how a command ended."""
    lines = said.splitlines()
    listed = [line for line in lines[1:] if not line.startswith(("  - ", "Start the run anew"))]
    if code not in (0, 1, 2):
        return f"ended with {code}: {said}"
    if code and (not said.startswith("lra: ") or listed):
        return f"ended with {code}, and said no one clear line: {said}"
    return ""


def _work(numbers: list[int], seed: int, home: Path, pipe: Connection) -> None:
    import resource

    import torch

    torch.set_num_threads(1)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    for number in numbers:
        pipe.send((number, None))
        pipe.send((number, attack(number, seed, home)))


def run(count: int, seed: int, only: int | None, jobs: int) -> bool:
    """Do the cases, and print how they ended; True where all ended well."""
    done: Counter[str] = Counter()
    faults: list[str] = []
    with tempfile.TemporaryDirectory() as text:
        home = Path(text)
        context = forked()
        maker = context.Process(target=make_target, args=(home,))
        maker.start()
        maker.join()
        numbers = list(range(count)) if only is None else [only]
        chunks = [numbers[i : i + CHUNK] for i in range(0, len(numbers), CHUNK)]
        while chunks:
            now, chunks = chunks[:jobs], chunks[jobs:]
            workers = []
            for chunk in now:
                ours, theirs = context.Pipe(duplex=False)
                worker = context.Process(target=_work, args=(chunk, seed, home, theirs))
                worker.start()
                theirs.close()
                workers.append((chunk, worker, ours))
            for chunk, worker, pipe in workers:
                at, result = _collect(pipe, done, faults)
                worker.join()
                if result is None and at is not None:
                    faults.append(f"case {at}: the process ended with {worker.exitcode}")
                    chunks.append([n for n in chunk if n > at])
            print(f"{sum(done.values()):>7,} of {len(numbers):,}", flush=True)
    for fault in faults:
        print(fault)
    print(json.dumps(dict(sorted(done.items())), indent=1))
    print(f"{sum(done.values()):,} files, {len(faults)} faults (seed {seed})")
    return not faults


def _collect(
    pipe: Connection, done: Counter[str], faults: list[str]
) -> tuple[int | None, tuple[str, str] | None]:
    """Hear what a worker did, up to its end; give the last case and its result."""
    at, result = None, None
    while True:
        try:
            at, result = pipe.recv()
        except EOFError:
            return at, result
        if result is not None:
            name, fault = result
            done[name] += 1
            if fault:
                faults.append(f"case {at} ({name}): {fault}")

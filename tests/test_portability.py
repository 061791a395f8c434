"""What differs between systems: how processes start, modules of POSIX, paths, encodings."""

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from lra.lab import compare
from lra.lab.comparison import machine, memory, pool
from lra.lab.run import new_folder
from lra.lab.settings.config import TrainConfig

SOURCE = Path(__file__).resolve().parent.parent / "src" / "lra"
POSIX = {"crypt", "fcntl", "grp", "posix", "pty", "pwd", "resource", "syslog", "termios", "tty"}
FOREIGN = "Größe 日本"


def write_table(path):
    rows = np.random.default_rng(0).random((60, 2))
    lines = (f"{a},{b},{'ä' if a > b else 'ö'}" for a, b in rows)
    path.write_text("\n".join(["länge,b,label", *lines]), "utf-8")
    return path


def guarded(tree):
    """Return the lines of imports inside `try: ... except ImportError` or an `if`."""
    places = (node for node in ast.walk(tree) if isinstance(node, (ast.Try, ast.If)))
    return {n.lineno for place in places for b in place.body for n in ast.walk(b) if is_import(n)}


def is_import(node):
    return isinstance(node, (ast.Import, ast.ImportFrom))


def test_modules_that_only_posix_has_are_imported_with_a_guard():
    found = set()
    for path in SOURCE.rglob("*.py"):
        tree = ast.parse(path.read_text("utf-8"))
        for node in filter(is_import, ast.walk(tree)):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else [node.module]
            if POSIX.intersection(names):
                found.add(path.name)
                assert node.lineno in guarded(tree), f"{path}:{node.lineno}"
    assert found == {"memory.py"}


def test_without_posix_modules_and_proc_a_comparison_measures_what_it_can(monkeypatch):
    monkeypatch.setitem(sys.modules, "resource", None)
    with memory.peak_memory("cpu") as peak:
        assert peak() is None
    monkeypatch.setattr(machine, "CPUINFO", Path("/does/not/exist"))
    machine.machine.cache_clear()
    try:
        assert "cores" in machine.machine()
    finally:
        machine.machine.cache_clear()


@pytest.mark.slow
def test_comparison_runs_in_spawned_processes(monkeypatch, tmp_path):
    started = []
    context = pool.multiprocessing.get_context

    def spawn(method):
        started.append(method)
        return context(method)

    monkeypatch.setattr(pool, "START_METHOD", "spawn")
    monkeypatch.setattr(pool.multiprocessing, "get_context", spawn)
    options = {"depths": (1,), "epochs": 1, "seeds": 1}
    done = compare("digits", ["backprop"], folder=tmp_path, progress=False, **options)
    assert started == ["spawn"]
    assert [row["state"] for row in done.rows] == ["done"]


@pytest.mark.slow
def test_paths_with_spaces_and_unicode_in_any_encoding_of_the_terminal(tmp_path):
    """Without UTF-8, as on Windows: what a terminal cannot show is escaped, and files are UTF-8."""
    folder = tmp_path / FOREIGN
    folder.mkdir()
    table, run = write_table(folder / "Daten ü.csv"), folder / "Lauf β"
    names = {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONIOENCODING": "ascii"}
    settings = {**os.environ, **names, "PYTHONPATH": str(SOURCE.parent)}

    def call(utf8, *words):
        command = [sys.executable, "-X", f"utf8={utf8}", "-m", "lra", *map(str, words)]
        done = subprocess.run(command, env=settings, cwd=folder, capture_output=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout.decode("ascii")

    assert "Daten" in call(0, "train", table, "--epochs", 1, "--model", "mlp:depth=1", "--out", run)
    for utf8 in (0, 1):
        assert re.search(r",\\x(e4|f6),", call(utf8, "predict", run, table))  # ä or ö
    rules = ("--rules", "backprop", "--depths", 1, "--epochs", 1, "--seeds", 1)
    call(0, "compare", table, *rules, "--out", folder / "Vergleich é")
    assert "±" in (folder / "Vergleich é" / "report.md").read_text("utf-8")


def test_runs_whose_names_differ_only_in_case_have_their_own_folders(monkeypatch, tmp_path):
    """On a file system that ignores case."""
    monkeypatch.chdir(tmp_path)
    exists = Path.exists

    def exists_in_any_case(path):
        beside = path.parent.iterdir() if exists(path.parent) else ()
        return any(path.name.lower() == other.name.lower() for other in beside)

    monkeypatch.setattr(Path, "exists", exists_in_any_case)
    monkeypatch.setattr("lra.lab.run.time.strftime", lambda form: "20260101-000000")
    folders = []
    for name in ("Data.csv", "data.csv"):
        write_table(tmp_path / name)
        folders.append(new_folder(TrainConfig(name)))
        folders[-1].mkdir(parents=True)
    assert len({str(folder).lower() for folder in folders}) == 2

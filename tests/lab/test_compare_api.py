"""Comparisons and searches from Python, and what their commands print, write and return."""

import csv
import json
import re
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable
from html.parser import HTMLParser
from multiprocessing import spawn
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from workbench import ENVIRONMENT, write_blobs

import lra
from lra.errors import OptionError, RunError
from lra.lab.cli import main
from lra.lab.comparison import api, pool
from lra.lab.comparison.api import Comparison, compare, tune
from lra.lab.comparison.grid import Grid
from lra.lab.comparison.job import Job, execute
from lra.lab.runs import plots
from lra.lab.training import loop

TINY: dict[str, Any] = {
    **{"models": "mlp:width=5,depth=3", "epochs": 2, "batch_size": 16, "device": "cpu"},
    "jobs": 2,
}
WORDS = ("--models", "mlp:width=5,depth=3", "--epochs", 2, "--batch-size", 16, "--device", "cpu")


@pytest.fixture
def blobs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return write_blobs(tmp_path / "blobs.npz")


@pytest.fixture
def in_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Run jobs in this process, without pictures, where the processes are not what is tested."""

    def run_once(self: pool.Pool, job: Job) -> tuple[str, Any]:
        return "outcome", execute(self.grid, self.out, job)

    monkeypatch.setattr(pool.Pool, "_run_once", run_once)
    monkeypatch.setattr(plots, "save", lambda *args, **more: None)


def lra_compare(*words: object) -> None:
    main.parse(["compare", *map(str, words)]).execute(Console())


# Python


def test_a_comparison_has_its_runs_tables_folder_and_report(
    blobs: Path, in_process: None, capsys: pytest.CaptureFixture[str]
) -> None:
    found = compare(blobs, ("backprop", "lra-e:lr=0.1"), seeds=2, **TINY)
    assert capsys.readouterr() == ("", "")
    assert found.folder == Path("runs/compare-blobs")
    assert [(row["rule"], row["seed"], row["state"]) for row in found.rows] == [
        (rule, seed, "done") for rule in ("backprop", "lra-e:lr=0.1") for seed in (0, 1)
    ]
    for row in found.rows:
        result = json.loads((row["folder"] / "result.json").read_text())
        assert row["test_accuracy"] == result["test_accuracy"]
    paths = found.report()
    assert all(path.exists() for path in paths)
    with (found.folder / "runs.csv").open() as file:
        assert len(list(csv.DictReader(file))) == 4
    assert repr(found) == (
        "Comparison('runs/compare-blobs', rules: 2, networks: 1, 4 of 4 runs done)"
    )
    again = Comparison.open(found.folder)
    assert (again.grid, again.rows) == (found.grid, found.rows)
    assert again.failure == ""
    assert any("Few seeds: with 2" in text for text in found.warnings)


def test_the_commands_and_the_functions_make_the_same_runs(
    blobs: Path, in_process: None, capsys: pytest.CaptureFixture[str]
) -> None:
    options = {"search": "lr=1e-3..1e-1:log", "trials": 2, "seeds": 1}
    tuning = tune(str(blobs), "backprop", folder="a", **(TINY | options))
    found = compare([blobs], ["backprop"], folder=Path("a"), **(TINY | options))
    names = {path.name for path in Path("a/runs").iterdir()}
    assert len(names) == 3
    lra_compare(blobs, "--rules", "backprop", "--search", "lr=1e-3..1e-1:log", "--trials", 2,
                "--seeds", 1, "--out", "b", *WORDS)  # fmt: skip
    assert {path.name for path in Path("b/runs").iterdir()} == names
    (row,) = tuning.rows
    assert row["settings"] == found.rows[0]["settings"]
    assert len(row["trials"]) == 2
    assert main.parse(tuning.command.split()[1:]).grid == found.grid  # type: ignore[attr-defined]


def test_progress_is_printed_where_it_is_asked_for(
    blobs: Path, in_process: None, capsys: pytest.CaptureFixture[str]
) -> None:
    compare(blobs, "backprop", seeds=1, progress=True, **TINY)
    output = capsys.readouterr().out
    assert "rules: 1, networks: 1, seeds: 1; 2 jobs in parallel" in output
    assert re.search(r"1/1  blobs, mlp:width=5,depth=3: backprop, seed 0: validation", output)


class Texts(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.cells: list[str] = []

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.tags.add(tag)

    def handle_data(self, data: str) -> None:
        self.cells.append(data)


def test_tables_in_a_notebook_are_escaped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, in_process: None
) -> None:
    monkeypatch.chdir(tmp_path)
    data = write_blobs(tmp_path / '"><img src=x onerror=alert(1)>.npz')
    found = compare(data, ("backprop", "lra-e"), seeds=1, folder="out", **TINY)
    searched = tune(data, "backprop", trials=2, folder="out", **TINY)
    for shown in (found, searched):
        parser = Texts()
        parser.feed(shown._repr_html_())
        assert "table" in parser.tags
        assert "img" not in parser.tags
        assert any("<img src=x onerror=alert(1)>" in cell for cell in parser.cells)
        assert "backprop" in parser.cells


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: compare("digits", epocs=3), "unknown option 'epocs'; .* Did you mean 'epochs'"),
        (lambda: tune("digits", storage="x"), "unknown option 'storage'"),
        (lambda: compare("digits", options=3), "unknown option 'options'"),
        (lambda: compare("digits", seeds=0), "seeds must be 1 or more; got 0"),
        (lambda: tune("digits", trials=0), "trials must be 1 or more; got 0"),
        (lambda: compare("digits", jobs=0), "jobs must be 1 or more; got 0"),
        (lambda: compare("digits", rules=()), "rules has no values"),
        (lambda: compare(()), "no dataset is given; name one, such as digits"),
        (lambda: compare("digits", search="lr=1..2"), "search has no effect without trials"),
    ],
)
def test_wrong_arguments_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: Callable[[], object], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(OptionError, match=message):
        call()
    assert list(tmp_path.iterdir()) == []


# commands


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("compare digts", "unknown dataset 'digts'; .* Did you mean 'digits'"),
        ("compare digits --seeds 0", "seeds must be 1 or more; got 0"),
        ("compare digits --rules", "rules has no values"),
        ("compare digits --rules --seeds 3", "rules has no values"),
        ("compare digits --models", "models has no values"),
        ("compare digits --depths", "depths has no values"),
        ("compare digits --trials 3 --search", "search has no settings"),
        ("compare digits --search lr=1..2", "search has no effect without trials"),
        ("compare digits --sampler tpe", "sampler has no effect without trials"),
        ("compare", "no dataset is given"),
        ("tune", "no dataset is given"),
        ("tune digits --trials 0", "trials must be 1 or more"),
        ("compare --report", "--report needs the folder of a comparison; name it by --out"),
        ("compare digits --report --jobs 2", "leave out --jobs"),
        ("compare digits --report --seeds 5", "leave out --seeds"),
        ("compare --report --rules backprop --out x", "leave out --rules"),
    ],
)
def test_wrong_options_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: str, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(OptionError, match=message):
        main.parse(words.split()).execute(Console())
    assert list(tmp_path.iterdir()) == []


def test_tune_states_its_own_defaults(capsys: pytest.CaptureFixture[str]) -> None:
    shown = {}
    for command in ("compare", "tune"):
        with pytest.raises(SystemExit):
            main.parse([command, "--help"])
        text = re.sub(r"[\s│]+", " ", capsys.readouterr().out)
        shown[command] = re.search(r"--tune INT, --trials INT .*?\(default: (\d+)\)", text)
    assert shown["compare"]
    assert shown["tune"]
    assert (shown["compare"][1], shown["tune"][1]) == ("0", "8")


def test_a_report_reads_the_grid_from_its_folder(
    blobs: Path, in_process: None, capsys: pytest.CaptureFixture[str]
) -> None:
    lra_compare(blobs, "--rules", "backprop", "lra-e", "--seeds", 2, "--out", "out", *WORDS)
    rows = Path("out/runs.csv").read_bytes()
    for words in (("--out", "out"), (blobs, "--out", "out")):
        Path("out/runs.csv").unlink()
        lra_compare("--report", *words)
        assert Path("out/runs.csv").read_bytes() == rows
    before = {path: path.read_bytes() for path in Path("out").glob("*.*")}
    for words in (("--seeds", 1), ("--rules", "backprop"), ("--trials", 2), ("--jobs", 1)):
        with pytest.raises(OptionError, match=f"leave out {words[0]}"):
            lra_compare("--report", "--out", "out", *words)
    assert {path: path.read_bytes() for path in Path("out").glob("*.*")} == before


@pytest.mark.parametrize("content", [{}, {"notes.txt": "mine"}, {"grid.json": "{"}])
def test_a_folder_without_a_comparison_has_no_report(
    tmp_path: Path, content: dict[str, str]
) -> None:
    folder = tmp_path / "mine"
    if content:
        folder.mkdir()
        for name, text in content.items():
            (folder / name).write_text(text)
    with pytest.raises(RunError, match=r"mine holds no comparison|grid\.json: "):
        lra_compare("--report", "--out", folder)
    assert {path.name for path in folder.glob("*")} == set(content)


def test_a_search_alone_is_no_comparison(blobs: Path, in_process: None) -> None:
    tune(blobs, "backprop", trials=2, folder="out", **TINY)
    with pytest.raises(RunError, match="out holds no comparison"):
        lra_compare("--report", "--out", "out")


def test_two_comparisons_share_a_folder_and_lose_nothing(
    blobs: Path, in_process: None, capsys: pytest.CaptureFixture[str]
) -> None:
    first = compare(blobs, ("backprop", "lra-e"), seeds=2, folder="out", **TINY)
    runs = {path: path.stat().st_mtime_ns for path in Path("out/runs").rglob("*") if path.is_file()}
    second = compare(blobs, ("backprop", "dtp"), seeds=1, folder="out", progress=True, **TINY)
    output = capsys.readouterr().out
    assert "out also holds another comparison" in output
    assert [(row["rule"], row["seed"]) for row in second.rows] == [("backprop", 0), ("dtp", 0)]
    assert all(path.stat().st_mtime_ns == time for path, time in runs.items())
    assert api.read_grids(Path("out")) == [first.grid, second.grid]
    command = re.search("written again by: lra (.*)", output)
    assert command
    again = main.parse(command[1].split()).grid  # type: ignore[attr-defined]
    assert again == first.grid
    compare(blobs, ("backprop", "lra-e"), seeds=2, folder="out", **TINY)
    assert api.read_grids(Path("out")) == [second.grid, first.grid]


def test_a_comparison_without_any_result_exits_with_1_and_the_first_reason(
    blobs: Path, in_process: None, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("compare", blobs, "--rules", "lra-e", "dtp", "--models", "gpt", "--seeds", 2)
    with pytest.raises(SystemExit) as end:
        main.main([*map(str, words), "--epochs", "1", "--jobs", "1", "--out", "out"])
    assert end.value.code == 1
    message = " ".join(capsys.readouterr().err.split())
    assert "lra: no run completed; the first, blobs, gpt: lra-e: refused: gpt reads te" in message
    assert Path("out/report.html").exists()
    found = Comparison.open("out")
    assert found.failure.startswith("no run completed")
    assert "0 of 4 runs done" in repr(found)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"models": "gpt"}, "lra-e: refused: gpt reads text"),
        ({"models": "mlp:activation=relu", "search": "lr=1e30..1e35"}, "every trial diverged"),
    ],
)
def test_a_search_without_any_result_exits_with_1_and_the_first_reason(
    blobs: Path, in_process: None, changes: dict[str, str], reason: str
) -> None:
    words = {"rules": "lra-e"} | changes
    flags = [word for name, text in words.items() for word in (f"--{name}", text)]
    with pytest.raises(RunError, match=f"no trial completed; the first, blobs, .*{reason}"):
        main.parse(["tune", str(blobs), *flags, "--trials", "2", "--epochs", "5"]).execute(
            Console()
        )


# processes

SCRIPT = """
import warnings
from lra.lab.comparison.api import compare
print("the script runs")
found = compare({data!r}, "backprop", "mlp:width=5,depth=3", folder={out!r}, seeds=2, epochs=2,
                batch_size=16, device="cpu", jobs=2)
print(found)
"""


def test_a_new_process_is_told_of_no_main_module() -> None:
    def told() -> list[str]:
        return [name for name in spawn.get_preparation_data("worker") if "main" in name]

    assert told()
    with pool._without_main():
        assert not told()
    assert told()


@pytest.mark.slow
@pytest.mark.parametrize("how", ["script", "-c", "stdin", "-m"])
def test_a_program_without_a_main_guard(tmp_path: Path, how: str) -> None:
    text = SCRIPT.format(data=str(write_blobs(tmp_path / "blobs.npz")), out="out")
    (tmp_path / "program.py").write_text(text)
    words = {"script": ["program.py"], "-c": ["-c", text], "stdin": ["-"], "-m": ["-m", "program"]}
    done = subprocess.run(
        [sys.executable, *words[how]], input=text, cwd=tmp_path, env=ENVIRONMENT,
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("the script runs") == 1
    assert "2 of 2 runs done" in done.stdout
    assert done.stderr == ""


@pytest.mark.slow
def test_a_comparison_in_a_thread_leaves_main_as_it_is(blobs: Path) -> None:
    before, found = sys.modules["__main__"], []
    thread = threading.Thread(
        target=lambda: found.append(compare(blobs, "backprop", seeds=3, **TINY))
    )
    thread.start()
    thread.join()
    assert len(found[0].rows) == 3
    assert sys.modules["__main__"] is before


def _warn(grid: Grid, out: Path, task: Job, connection: Any) -> None:
    train = loop.train

    def warning(*args: Any, **more: Any) -> Any:
        warnings.warn("seen by the worker", lra.errors.LraWarning, stacklevel=2)
        return train(*args, **more)

    loop.train = warning
    _PROCESS(grid, out, task, connection)


_PROCESS = pool._process


@pytest.mark.slow
def test_warnings_of_workers_reach_the_caller(
    blobs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(pool, "_process", _warn)
    with pytest.warns(lra.errors.LraWarning, match="backprop: seen by the worker"):
        compare(blobs, "backprop", seeds=1, **TINY)
    compare(blobs, "backprop", seeds=2, progress=True, **TINY)
    assert "backprop: seen by the worker" in capsys.readouterr().out

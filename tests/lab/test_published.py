"""Published set-ups: their files, training them, and the page of results."""

import json
import math
from pathlib import Path

import pytest
from rich.console import Console
from workbench import work_alone, write_blobs

import lra.lab
from lra.errors import OptionError, RunError
from lra.lab.cli import main
from lra.lab.cli.reproduce import Reproduce
from lra.lab.comparison import api
from lra.lab.comparison.progress import Display
from lra.lab.published import page, reproduction
from lra.lab.published.reproduction import Measured, Reproduction
from lra.lab.published.setup import load, names, read

ROOT = Path(__file__).resolve().parents[2]

TEXT = """
title = "Two rules on blobs"
source = "a test"
figure = "highest"
test_samples = 41
machine = "cpu"
minutes = 1
assumptions = ["The data are made up."]

[settings]
dataset = "DATA"
model = "mlp:hidden=7"
epochs = 4
batch_size = 16
optimizer = "sgd"
milestones = [2, 3]
test_each_epoch = true
augment = ["flip"]

[[rows]]
name = "BP"
rule = "backprop:lr=0.1"
published = { 2 = 60, 4 = 90.0 }

[[rows]]
name = "FA"
rule = "feedback-alignment:lr=0.05"
published = { 4 = 80.0 }
"""


@pytest.fixture(autouse=True)
def _in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api, "_work", lambda grid, out, jobs, display: work_alone(grid, out))


@pytest.fixture
def text(tmp_path: Path) -> str:
    return TEXT.replace("DATA", write_blobs(tmp_path / "blobs.npz").as_posix())


@pytest.mark.parametrize("name", names())
def test_every_setup_is_valid_and_states_its_source(name: str) -> None:
    setup = load(name)
    assert all(0 < value < 100 for row in setup.rows for value in row.published.values())
    assert all(setup.epochs in row.published for row in setup.rows)
    for text in (setup.title, setup.source, *setup.assumptions, *setup.remarks):
        assert text
        assert "|" not in text  # it stands in a table


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('figure = "highest"', 'figur = "highest"', "set-up x: .*figur"),
        ('name = "BP"', 'nane = "BP"', "set-up x: .*nane"),
        ("title =", "title", "set-up x: .*line 2"),
        ("epochs = 4\n", "", "set-up x: 'epochs'"),
        ("batch_size", "batchsize", "set-up x: unknown option of a run 'batchsize'"),
        ("backprop:lr", "backprob:lr", "set-up x: unknown rule 'backprob'"),
        ("test_each_epoch = true", "", "set-up x: the figure highest needs test_each_epoch = true"),
    ],
)
def test_a_faulty_setup_is_refused(text: str, old: str, new: str, message: str) -> None:
    with pytest.raises(OptionError, match=message):
        read("x", text.replace(old, new, 1))


def test_unknown_names_are_refused(text: str) -> None:
    with pytest.raises(OptionError, match=r"set-up 'akrout-mnst'.*mean 'akrout-mnist'"):
        lra.lab.reproduce("akrout-mnst")
    with pytest.raises(OptionError, match="rule of x 'bp'; known: BP, FA"):
        read("x", text).select(["bp"])
    for epochs in (0, 5):
        with pytest.raises(OptionError, match=rf"epochs must be from 1 to 4, .*; got {epochs}"):
            reproduction.run(read("x", text), None, 1, epochs, None, None, 1, Display())


def test_the_tolerance_is_two_standard_errors_of_a_difference(text: str) -> None:
    p, n = 0.9, 41
    of_one = math.sqrt(p * (1 - p) / n)
    expected = 100 * 2 * math.hypot(of_one, of_one)
    assert read("x", text).tolerance(90.0) == pytest.approx(expected, rel=1e-12)


def test_settings_and_milestones_reach_every_run(text: str) -> None:
    setup = read("x", text)
    for epochs, milestones in ((4, (2, 3)), (2, (1,)), (1, ())):
        grid = setup.grid(setup.rows, 3, epochs)
        assert grid.seeds == 3
        for experiment, lr in zip(grid.experiments, (0.1, 0.05), strict=True):
            config = experiment.config(0, {})
            assert (config.lr, config.epochs, config.milestones) == (lr, epochs, milestones)
            assert (config.optimizer, config.test_each_epoch) == ("sgd", True)
            assert config.augment == ("flip",)


def test_training_a_setup(text: str, tmp_path: Path) -> None:
    """The measured figure is the highest of each curve; the same call trains nothing again."""
    setup, out = read("x", text), tmp_path / "out"
    found = reproduction.run(setup, None, 2, None, None, out, 1, Display())
    curves = {}
    for folder in sorted((out / "runs").iterdir()):
        config = json.loads((folder / "config.json").read_text())
        lines = (folder / "metrics.csv").read_text().splitlines()
        column = lines[0].split(",").index("test_accuracy")
        curve = [float(line.split(",")[column]) for line in lines[1:]]
        assert len(curve) == 4
        result = json.loads((folder / "result.json").read_text())
        curves[config["rule"]["name"], config["seed"]] = max(curve), result["test_accuracy"]
    for one, rule in zip(found.measured, ("backprop", "feedback-alignment"), strict=True):
        assert list(one.values) == [curves[rule, seed][0] for seed in (0, 1)]
        assert list(one.chosen) == [curves[rule, seed][1] for seed in (0, 1)]
    before = {path: path.stat().st_mtime_ns for path in out.rglob("result.json")}
    again = reproduction.run(setup, ["FA"], 2, None, None, out, 1, Display())
    assert [list(one.values) for one in again.measured] == [list(found.measured[1].values)]
    assert {path: path.stat().st_mtime_ns for path in out.rglob("result.json")} == before


def test_figures_after_the_last_and_the_chosen_epoch(text: str, tmp_path: Path) -> None:
    for figure, name in (("last", "test_accuracy_last"), ("chosen", "test_accuracy")):
        setup = read("x", text.replace('"highest"', f'"{figure}"'))
        found = reproduction.run(setup, ["BP"], 1, None, None, tmp_path / "out", 1, Display())
        (path,) = (tmp_path / "out").rglob("result.json")
        assert list(found.measured[0].values) == [json.loads(path.read_text())[name]]


def test_other_data_take_the_place_of_the_published(text: str, tmp_path: Path) -> None:
    setup = read("x", text.replace((tmp_path / "blobs.npz").as_posix(), "cifar-10"))
    other = write_blobs(tmp_path / "blobs-jpeg.npz").as_posix()
    found = reproduction.run(setup, ["BP"], 1, 2, other, tmp_path / "out", 1, Display())
    (path,) = (tmp_path / "out").rglob("config.json")
    assert json.loads(path.read_text())["dataset"] == other
    assert found.measured[0].dataset == "blobs-jpeg.npz"
    assert found.cells[0][-1].endswith("shortened, on blobs-jpeg.npz")


def cells(text: str, *measured: Measured) -> list[list[str]]:
    return Reproduction(read("x", text), measured).cells


def test_verdicts(text: str) -> None:
    """Tolerances at 41 samples: 13.25 at 90 %, 21.64 at 60 %."""
    close = Measured("BP", 4, [80.0, 84.0], [70.0, 71.0], 1.0)
    low = Measured("BP", 4, [76.5], [76.5], 1.0)
    short = Measured("BP", 2, [61.0], [61.0], 1.0)
    other = Measured("FA", 2, [61.0], [61.0], 1.0)
    lost = Measured("FA", 4, [], [], None, "diverged: the loss became nan")
    copy = Measured("BP", 4, [90.0], [90.0], 1.0, dataset="copy.npz")
    short_copy = Measured("FA", 2, [61.0], [61.0], 1.0, dataset="copy.npz")
    assert cells(text, close, low, short, other, lost, copy, short_copy) == [
        ["BP", "4", "90.00", "82.00 ± 2.83 (2)", "-8.00", "13.25", "within tolerance"],
        ["BP", "4", "90.00", "76.50 (1)", "-13.50", "13.25", "off by -13.50"],
        ["BP", "2", "60.00", "61.00 (1)", "+1.00", "21.64", "within tolerance, shortened"],
        ["FA", "2", "80.00 after 4", "61.00 (1)", "", "", "shortened"],
        ["FA", "4", "80.00", "", "", "", "diverged: the loss became nan"],
        ["BP", "4", "90.00", "90.00 (1)", "+0.00", "13.25", "within tolerance, on copy.npz"],
        ["FA", "2", "80.00 after 4", "61.00 (1)", "", "", "shortened, on copy.npz"],
    ]


def test_results_are_kept_beside_those_of_other_runs(text: str, tmp_path: Path) -> None:
    setup = read("x", text)
    one = Measured("BP", 4, [80.0], [80.0], 1.0, machine="a")
    short = Measured("BP", 2, [61.0], [61.0], 1.0, machine="a")
    newer = Measured("BP", 4, [84.0], [84.0], 1.0, machine="b")
    lost = Measured("FA", 4, [], [], None, "not finished")
    other = Measured("BP", 4, [70.0], [70.0], 1.0, machine="a", dataset="other.npz")
    for measured in ([one], [short, lost], [newer], [other]):
        reproduction.save(Reproduction(setup, measured), tmp_path / "new")
    assert list(reproduction.saved(setup, tmp_path / "new").measured) == [newer, other, short]
    (tmp_path / "new" / "x.json").write_text("{")
    with pytest.raises(RunError, match=r"x.json: cannot be read"):
        reproduction.saved(setup, tmp_path / "new")


def test_the_page_holds_each_setup_and_what_was_measured(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    setup = read("x", text)
    for module in (page, reproduction):
        monkeypatch.setattr(module, "load", lambda name: setup)
    monkeypatch.setattr(page, "names", lambda: ["x"])
    assert "Not run yet: `lra reproduce x`." in page.render(tmp_path)
    full = Measured("BP", 4, [80.0, 84.0], [70.0, 71.0], 1.0, machine="a processor")
    copy = Measured("FA", 2, [61.0], [61.0], 1.0, machine="a processor", dataset="copy.npz")
    reproduction.save(Reproduction(setup, [full, copy]), tmp_path / "page")
    page.write(tmp_path / "page.md")
    written = (tmp_path / "page.md").read_text("utf-8")
    assert "| x | Two rules on blobs | BP 90, FA 80 | CPU, 1 min a run | a test |" in written
    assert "| BP | 4 | 90.00 | 82.00 ± 2.83 (2) | -8.00 | 13.25 | within tolerance |" in written
    assert "- The data are made up." in written
    honest = "By validation samples instead"
    assert f"\n- `lra reproduce x --seeds 2 --rules BP`. {honest}: BP 70.50." in written
    command = "lra reproduce x --seeds 1 --epochs 2 --dataset copy.npz --rules FA"
    assert f"\n- `{command}`. {honest}: FA 61.00." in written
    assert "Machine: a processor." in written


def test_the_page_of_the_documentation_is_what_its_results_give() -> None:
    path = ROOT / "docs" / "evidence" / "published.md"
    assert path.read_text("utf-8") == page.render(path.with_suffix(""))


def test_the_command(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    setup = read("akrout-mnist", text)
    monkeypatch.setattr("lra.lab.cli.reproduce.load", lambda name: setup)
    monkeypatch.setattr(page, "load", lambda name: setup)
    monkeypatch.setattr(page, "names", lambda: ["akrout-mnist"])
    command = Reproduce("akrout-mnist", ("BP",), out=tmp_path / "out", page=tmp_path / "page.md")
    command.execute(Console(width=200))
    assert "akrout-mnist: Two rules on blobs" in capsys.readouterr().out
    assert "`lra reproduce akrout-mnist --seeds 1 --rules BP`" in (tmp_path / "page.md").read_text()


def test_the_list_of_setups(capsys: pytest.CaptureFixture[str]) -> None:
    main.main(["reproduce"])
    out = capsys.readouterr().out
    assert all(name in out for name in names())
    with pytest.raises(SystemExit):
        main.main(["reproduce", "--epochs", "3"])
    assert "--epochs needs the name of a set-up" in capsys.readouterr().err

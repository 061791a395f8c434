"""The command `lra`: help, parsing, errors and printed output."""

import csv
import dataclasses
import io
import json
import os
import re
import select
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
from rich.table import Table
from workbench import ENVIRONMENT, fork_lra, metrics, read_train, tiny, write_blobs

import lra
from lra.inits import FanIn
from lra.lab.cli import commands, main
from lra.lab.cli.compare import Compare, Tune
from lra.lab.cli.reproduce import Reproduce
from lra.lab.cli.terminal import Terminal
from lra.lab.cli.train import Train
from lra.lab.comparison.grid import Grid, Search
from lra.lab.data import sources
from lra.lab.runs import files, trained_network
from lra.lab.settings.config import TrainConfig
from lra.lab.settings.recipes import RECIPES
from lra.lab.training import loop


class Output:
    """The exit code, standard output and standard error of a call of the command."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err

    @property
    def words(self) -> str:
        """All output, without frames and line ends."""
        return " ".join(re.sub(r"[│╭╮╰╯─]|---+", " ", self.out + self.err).split())


@pytest.fixture
def call(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> "Call":
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LRA_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("LRA_DATA", raising=False)
    monkeypatch.setattr(sources, "SOURCES", {"mnist": (), "fashion-mnist": ()})
    monkeypatch.setattr(main.warnings, "showwarning", main.warnings.showwarning)
    return Call(capsys)


class Call:
    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self.capsys = capsys

    def __call__(self, *words: object) -> Output:
        code = 0
        try:
            main.main([*map(str, words)])
        except SystemExit as stop:
            code = stop.code if isinstance(stop.code, int) else 1
        out, err = self.capsys.readouterr()
        return Output(code, out, err)


@pytest.fixture(scope="module")
def blobs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_blobs(tmp_path_factory.mktemp("data") / "blobs.npz")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, blobs: Path) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "run"
    loop.train(tiny(blobs), folder)
    return folder


# help


def test_help(call: Call) -> None:
    output = call("--help")
    assert (output.code, output.err) == (0, "")
    for name in main.COMMANDS:
        assert re.search(rf"^  {name} +[A-Z].*\.$", output.out, re.MULTILINE)
    assert call("-h").out == call().out == output.out
    data_output = call("data")
    assert (data_output.code, data_output.err) == (0, "")
    found = re.findall(r"^  (data \w+) +[A-Z].*\.$", data_output.out, re.MULTILINE)
    assert found == [name for name in main.COMMANDS if name.startswith("data")]
    assert call("data", "--help").out == call("data", "-h").out == data_output.out


@pytest.mark.parametrize("name", main.COMMANDS)
def test_the_summary_of_a_command_is_its_first_line(name: str) -> None:
    cls = OPTIONS[name][-1]
    assert main.COMMANDS[name][1] == (cls.__doc__ or "").splitlines()[0]


@pytest.mark.parametrize("words", [["--help"], ["--version"], ["data"], ["trian"]])
def test_no_library_is_loaded_to_show_the_commands(words: list[str]) -> None:
    script = f"""
import sys
from lra.__main__ import main
sys.argv = ["lra", *{words}]
try:
    main()
except SystemExit:
    pass
slow = {{"torch", "numpy", "matplotlib", "tyro", "lightning_fabric", "optuna"}}
print("loaded:", sorted(slow & sys.modules.keys()))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "loaded: []", done.stderr


def test_version(call: Call) -> None:
    assert call("--version").out == f"{lra.__version__}\n"


OPTIONS = {
    "train": (TrainConfig, Train),
    "evaluate": (commands.Evaluate,),
    "diagnose": (commands.Diagnose,),
    "predict": (commands.Predict,),
    "write": (commands.Write,),
    "compare": (Grid, Search, Compare),
    "tune": (Grid, Search, Tune),
    "reproduce": (Reproduce,),
    "data list": (commands.DataList,),
    "data fetch": (commands.DataFetch,),
    "data show": (commands.DataShow,),
}


NESTED = ("settings", "grid", "options", "sources", "source_folder")
"""Fields that hold a dataclass of options, or are no options."""


@pytest.mark.parametrize("name", main.COMMANDS)
def test_help_of_each_command_lists_its_options(call: Call, name: str) -> None:
    output = call(*name.split(), "--help")
    assert output.code == 0
    assert output.err == ""
    assert f"usage: lra {name} " in output.words
    listed = set(re.findall(r"(?<=[│ ])--?[a-z][a-z-]*(?=[ ,\n])", output.out))
    expected = {"-h", "--help"}
    for cls in OPTIONS[name]:
        for f in fields(cls):
            if "Positional" in str(f.type):
                assert f.name.upper().removesuffix("S") in output.out
            elif f.name not in NESTED or (cls, f.name) == (Grid, "settings"):
                option = f.name.replace("_", "-")
                expected.add(f"--{option}")
                if f.type in (bool, "bool") or getattr(f.type, "__origin__", None) is bool:
                    expected.add(f"--no-{option}")
    if name == "train":
        expected.add("--resume")
    if name in ("compare", "tune"):
        expected.add("--tune")  # another name of --trials
    assert listed == expected


def test_help_shows_defaults(call: Call) -> None:
    output = call("train", "--help")
    assert "(default: mlp)" in output.words
    assert "(default: 0.001)" in output.words
    assert "None" not in output.words
    output = call("train", "--recipe", "paper", "--help")
    assert re.search(r"\(default: mlp:hidden=256-256-256, ?init=normal:0.2236", output.words)


# errors


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("trian digits", "unknown command 'trian'; known: .* Did you mean 'train'"),
        ("data lits", "unknown command 'data lits'; known: .* Did you mean 'data list'"),
        (
            "train digits --epocs 3",
            "unknown option --epocs. Did you mean --epochs[?] See lra train --help",
        ),
        (
            "evaluate run --datset digits",
            "unknown option --datset. Did you mean --dataset[?] See lra evaluate --help",
        ),
        ("train digits --rule lra", "unknown rule 'lra'; known: .*Did you mean 'lra-e'"),
        ("train digits --rule backprob", "unknown rule 'backprob'.*Did you mean 'backprop'"),
        ("train digits --recipe seed-mnits", "unknown recipe .*Did you mean 'seed-mnist'"),
        ("train digits --recipe=papre", "unknown recipe 'papre'; known: .*Did you mean 'paper'"),
        (
            "train digits --model mlp:activation=tahn",
            "unknown activation 'tahn'.*Did you mean 'tanh'",
        ),
        ("train digits --optimizer adamv", "unknown optimizer 'adamv'.*Did you mean 'adam"),
        (
            "train digits --model mlp:init=normall:1",
            "'normall'.*Did you mean 'normal'",
        ),
        (
            "train digits --rule lra-e:init=x",
            "initialisation 'x'; known: fan-in, kaiming, lecun, like-weights, low-rank, mirror, n",
        ),
        ("train digits --model lennet", "unknown network 'lennet'; known: .*Did you mean 'lenet'"),
        ("train digits --model gpt", "gpt reads text, and digits holds values; choose --model mlp"),
        ("train python --model mlp", "mlp reads values, and python holds text; choose --model gpt"),
        ("train digits --model mlp:patch=2", "unknown option of network 'mlp' 'patch'; known: "),
        ("train digits --model vit:patch=9", "vit: patch 9 is larger than the images, 8x8"),
        ("train digits --model resnet:depth=9", r"depth must be 6 n \+ 2: 8, 14, 20, 32,.*got 9"),
        ("train digits --model mlp:hidden=4,width=4", "hidden already sets all sizes; .*or width"),
        ("train digits --model mlp:hidden", "expected NAME or NAME:OPTION=VALUE.*got 'hidden'"),
        ("train digits --model mlp:hidden=", "expected NAME or NAME:OPTION=VALUE.*got 'hidden='"),
        ("train digits --model mlp:width=9999999", "width of .* from 1 to 1,000,000; got 9999999"),
        ("train digits --model mlp:activation=quantized", "'quantized' needs a number, as in quan"),
        ("train digits --model mlp:straight_through=tanh", "is an option of .*sign,.*tanh;"),
        ("train digits --schedule cosin", "unknown schedule 'cosin'.*Did you mean 'cosine'"),
        ("train digits --warmup 1", "warmup must be 0 or more, and below 1; got 1.0"),
        ("train digits --augment flop", "unknown augment 'flop'.*Did you mean 'flip'"),
        ("train python --model gpt --augment flip", "augment: python: .*leave out augment"),
        ("train digits --precision 16", "unknown precision '16'; known: 32, 64, bf16-mixed"),
        ("train digits --device gpu", "unknown device 'gpu'; known: auto, cpu, cuda, mps"),
        (
            "train digits --rule lra-e:local_loss=squarred",
            "'squarred'.*Did you mean 'squared'",
        ),
        ("train digits --rule lra-e:surrogate=tan", "unknown Surrogate 'tan'.*Did you mean 'tanh'"),
        (
            "train digits --rule sign-symmetry:magnitude=big",
            "magnitude of rule 'sign-symmetry': 'big' is not a valid value .*batch",
        ),
        ("train digts", "unknown dataset 'digts'.*Did you mean 'digits'"),
        ("train digits --rule backprop:beta=0.1", "rule 'backprop' has no options; got 'beta'"),
        ("train digits --rule kolen-pollack:beta=0.1", "option of rule 'kolen-pollack' 'beta'"),
        ("train digits --rule feedback-alignment:gamma=1", "'gamma'; known: init"),
        ("train digits --rule lra-e:magnitude=fixed", "option of rule 'lra-e' 'magnitude'"),
        ("train digits --rule backprop --feedback-lr 0.1", "--feedback-lr .*backprop learns no"),
        ("train digits --optimizer sgd --betas 0.9 0.9", "betas is an option of adam and adamw"),
        ("train digits --rule lra-e:beta=0", "beta must be a finite number above 0, got 0.0"),
        ("train digits --lr 0", "lr must be a number, above 0; got 0.0"),
        ("train digits --lr fast", "--lr: expected FLOAT, got 'fast'"),
        ("train digits --model mlp:hidden=10-0", "hidden of network 'mlp' must be .*; got 0"),
        ("train digits --batch-size 5000", "--batch-size 5000 is more than the 1294"),
        ("train digits --validation 1437", "validation = 1437"),
        ("train", r"missing DATASET \(digits, mnist"),
        ("train --epocs 3", "unknown option --epocs. Did you mean --epochs"),
        ("train digits --out", "--out misses its value, PATH"),
        ("train digits --epochs x", "--epochs: expected INT, got 'x'"),
        ("train digits --epochs=x", "--epochs: expected INT, got 'x'"),
        ("train digits --betas 0.9", "--betas: expected FLOAT FLOAT, got '0.9'"),
        ("train digits more", "unexpected 'more'"),
        ("train digits --log tensorbord", "unknown log 'tensorbord'.*Did you mean 'tensorboard'"),
        ("train digits --threads 0", "--threads must be a whole number, 1 or more, at most 4,096"),
        ("compare digits --sedes 2", "unknown option --sedes. Did you mean --seeds"),
        ("compare digits --seeds two", "--seeds: expected INT, got 'two'. See lra compare --help"),
        ("tune digits --trails 2", "unknown option --trails. Did you mean --trials"),
        ("write run --temperature hot", "--temperature: expected FLOAT, got 'hot'"),
        ("data fetch", r"missing DATASET .* See lra data fetch --help"),
        ("data show digits --cuont 3", "unknown option --cuont. Did you mean --count"),
        ("predict run", "lra predict needs a FILE"),
        ("data show digits --count 0", "--count = 0"),
        ("data fetch mnits", "unknown dataset 'mnits'.*Did you mean 'mnist'"),
    ],
)
def test_wrong_arguments_are_refused(call: Call, tmp_path: Path, words: str, expected: str) -> None:
    output = call(*words.split())
    assert output.code == 2
    assert re.search(expected, output.words), output.words
    assert output.out == ""
    assert re.fullmatch(r"lra: .* See lra.* --help\n", output.err), output.err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("train nowhere.npz", "nowhere.npz: there is no such file"),
        ("train --resume nowhere", "nowhere is not a run's folder"),
        ("evaluate nowhere", "nowhere is not a run's folder"),
        ("predict nowhere file.npy", "nowhere is not a run's folder"),
        ("train mnist", "mnist"),
        ("data fetch mnist", "mnist"),
    ],
)
def test_missing_files_exit_with_1(call: Call, words: str, expected: str) -> None:
    output = call(*words.split())
    assert output.code == 1
    assert output.err.startswith("lra: ")
    assert expected in output.err


@pytest.mark.parametrize(
    "words", ["--lr 3", "--recipe paper", "digits", "--rule x", "--log mlflow"]
)
def test_resume_takes_no_settings(call: Call, run: Path, words: str) -> None:
    before = (run / files.CONFIG).read_bytes()
    output = call("train", "--resume", run, *words.split())
    assert output.code == 2
    assert f"{words.split()[0]} cannot be given with --resume" in output.err
    assert (run / files.CONFIG).read_bytes() == before


def test_an_existing_run(call: Call, blobs: Path, tmp_path: Path) -> None:
    words = (
        "train",
        blobs,
        "--out",
        "run",
        "--model",
        "mlp:hidden=4",
        "--device",
        "cpu",
        "--epochs",
    )
    assert call(*words, 1).code == 0
    output = call(*words, 2)
    assert output.code == 1
    assert "run exists already; choose another --out, resume it" in output.err
    assert len(metrics(tmp_path / "run")) == 1
    assert call(*words, 2, "--overwrite").code == 0
    assert len(metrics(tmp_path / "run")) == 2


# recipes and rules


def test_options_override_a_recipe() -> None:
    words = ["mnist", "--recipe", "seed-mnist", "--epochs", "20", "--rule", "lra-e:beta=0.05"]
    config, options = read_train(words)
    recipe = RECIPES["seed-mnist"]
    changed = {"rule": lra.LRAE(beta=0.05), "epochs": 20}
    assert config == TrainConfig(**recipe.settings | changed)
    assert options.recipe == "seed-mnist"
    assert config.epochs == 20
    assert recipe.settings["epochs"] == 100


@pytest.mark.parametrize("words", ["--recipe=paper mnist", "mnist --recipe paper"])
def test_both_spellings_of_the_recipe_option(words: str) -> None:
    config, _ = read_train([*words.split(), "--model", "mlp:hidden=9"])
    assert config == TrainConfig(**RECIPES["paper"].settings | {"model": "mlp:hidden=9"})


@pytest.mark.parametrize("name", lra.RULES)
def test_a_rule_replaces_the_recipes(name: str) -> None:
    """The recipe's settings apply, but no option of its rule."""
    config, _ = read_train(["mnist", "--recipe", "seed-mnist", "--rule", name])
    expected = RECIPES["seed-mnist"].settings | {"rule": lra.named(name)}
    assert config == TrainConfig(**expected)


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("lra-e", lra.LRAE()),
        ("lra-e:beta=0.5,gamma=0.25,gain=2", lra.LRAE(0.5, 0.25, 2.0)),
        ("lra-e:local_loss=cauchy", lra.LRAE(local_loss=lra.crossing.Cauchy())),
        (
            "lra-e:local_loss=absolute,surrogate=tanh",
            lra.LRAE(0.1, 1, 1, lra.crossing.Absolute(), lra.crossing.TanhSurrogate()),
        ),
        ("lra-e:surrogate=identity", lra.LRAE(surrogate=lra.crossing.IdentitySurrogate())),
        ("backprop", lra.Backprop()),
        ("kolen-pollack:gamma=0.5", lra.KolenPollack(0.5)),
        ("sign-symmetry:magnitude=batch", lra.SignSymmetry(lra.feedback.Magnitude.BATCH)),
        ("feedback-alignment:init=fan-in:2", lra.FeedbackAlignment(FanIn(2.0))),
    ],
)
def test_rules_and_their_options(text: str, rule: lra.Rule) -> None:
    config, _ = read_train(["digits", "--rule", text])
    assert config.rule == rule
    assert config == TrainConfig("digits", rule)


# configurations as defaults


def test_a_run_starts_from_the_configuration_of_another(call: Call, run: Path) -> None:
    config, _ = read_train(["--config", str(run / files.CONFIG)])
    assert config == files.read_config(run)
    config, _ = read_train([f"--config={run / files.CONFIG}", "--epochs", "7"])
    assert config == dataclasses.replace(files.read_config(run), epochs=7)
    config, _ = read_train(["digits", "--config", str(run / files.CONFIG), "--rule", "backprop"])
    assert (config.dataset, config.rule) == ("digits", lra.Backprop())
    assert config.model == "mlp:hidden=7-5"


def test_a_user_writes_a_configuration(tmp_path: Path) -> None:
    text = (
        "dataset: digits\nrule: lra-e:beta=0.2\nmodel: mlp:width=9\nbetas: [0.5, 0.25]\nlr: 0.01\n"
    )
    (tmp_path / "mine.yaml").write_text(text)
    config, _ = read_train(["--config", str(tmp_path / "mine.yaml")])
    expected = TrainConfig("digits", lra.LRAE(0.2), model="mlp:width=9", betas=(0.5, 0.25), lr=0.01)
    assert config == expected


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot be read .*No such file"),
        ("{", "cannot be read"),
        ("[1, 2]", "must be a mapping of settings"),
        ("lr: 0.1", "missing DATASET"),
        ("dataset: digits\nepocs: 3", "'epocs'.*Did you mean 'epochs'"),
        ("dataset: digits\nlr: fast", "lr must be a number, above 0; got 'fast'"),
        ("dataset: digits\nmodel: mlp:widht=3", "'widht'.*Did you mean 'width'"),
        ("dataset: digits\nsources: 3", "sources must be pairs"),
        ("dataset: digits\nmodel: 3", "model must be a text"),
        ("dataset: digits\ndevices: !!python/object/apply:os.getcwd []", "cannot be read"),
    ],
)
def test_wrong_configurations_are_refused(
    call: Call, tmp_path: Path, content: str | None, message: str
) -> None:
    if content is not None:
        (tmp_path / "mine.yaml").write_text(content)
    output = call("train", "--config", "mine.yaml")
    assert (output.code, output.out) == (2, "")
    assert re.search(message, output.words), output.words
    assert "Traceback" not in output.err


def test_one_source_of_defaults(call: Call) -> None:
    output = call("train", "--config", "a.yaml", "--recipe", "paper")
    assert "--recipe and --config both set the defaults; give one of them" in output.words


def test_every_setting_has_an_option() -> None:
    words = (
        "a.npz --model mlp:hidden=3-2 --optimizer rmsprop "
        "--lr 0.5 --feedback-lr 0.25 --weight-decay 0.5 --momentum 0.5 --smoothing 0.75 --epochs 3 "
        "--batch-size 7 --validation 9 --patience 2 --seed 11 --device cpu --devices 2 "
        "--precision 64 --out there --overwrite --data here"
    )
    config, options = read_train(words.split())
    expected = TrainConfig(
        dataset="a.npz",
        model="mlp:hidden=3-2",
        optimizer="rmsprop",
        lr=0.5,
        feedback_lr=0.25,
        weight_decay=0.5,
        momentum=0.5,
        smoothing=0.75,
        epochs=3,
        batch_size=7,
        validation=9,
        patience=2,
        seed=11,
        device="cpu",
        devices=2,
        precision="64",
    )
    assert config == expected
    assert (options.out, options.overwrite, options.data) == (Path("there"), True, Path("here"))
    words = "digits --schedule one-cycle --warmup 0.25 --augment flip crop"
    config, _ = read_train(words.split())
    steps = {"schedule": "one-cycle", "warmup": 0.25, "augment": ("flip", "crop")}
    assert config == TrainConfig("digits", **steps)
    config, _ = read_train(["digits", "--betas", "0.5", "0.25"])
    assert config.betas == (0.5, 0.25)


# train, evaluate, predict


def test_train_evaluate_predict(call: Call, blobs: Path, tmp_path: Path) -> None:
    words = [
        "--model",
        "mlp:hidden=7-5",
        "--epochs",
        "3",
        "--batch-size",
        "16",
        "--device",
        "cpu",
        "--out",
        "run",
    ]
    output = call("train", blobs, *words)
    assert (output.code, output.err) == (0, "")
    config = files.read_config(tmp_path / "run")
    assert config == tiny(blobs)
    result = json.loads((tmp_path / "run" / files.RESULT).read_text())
    lines = output.out.splitlines()
    assert lines[0].startswith("lra-e on blobs.npz: 6-7-5-3, tanh; 107 weights, 50 learned")
    assert lines[1].split() == ["epoch", "loss", "train", "%", "validation", "%", "samples/s"]
    for line, row in zip(lines[2:5], metrics(tmp_path / "run"), strict=True):
        cells = line.replace(",", "").split()
        assert cells[0] == f"{row['epoch']}/3"
        for text, name in zip(
            cells[1:4], ("loss", "train_accuracy", "validation_accuracy"), strict=True
        ):
            digits = len(text.partition(".")[2])
            assert text == f"{float(row[name]):.{digits}f}"
        assert float(cells[4]) > 0
    assert lines[5].startswith(
        f"test accuracy {result['test_accuracy']:.2f}% (best epoch {result['best_epoch']} of 3), "
        f"{result['test_accuracy_last']:.2f}% with the last weights; "
    )
    assert lines[6:] == ["curves, weights and figures are in run"]
    assert all(c == "\n" or c.isprintable() for c in output.out)

    output = call("evaluate", "run")
    accuracy = f"{result['test_accuracy']:.2f}%"
    assert re.fullmatch(
        rf"blobs.npz: accuracy {accuracy}, loss \d\.\d{{4}}, over 41 test samples",
        output.out.splitlines()[0],
    )
    assert [line.split()[0] for line in output.out.splitlines()[1:]] == ["0", "1", "2"]

    x = np.load(blobs)["x_test"]
    np.save(tmp_path / "x.npy", x)
    output = call("predict", "run", "x.npy")
    rows = list(csv.DictReader(output.out.splitlines()))
    predictions = trained_network.predict(tmp_path / "run", tmp_path / "x.npy")
    assert [row["index"] for row in rows] == [str(i) for i in range(41)]
    assert [(row["class"], row["probability"]) for row in rows] == [
        (found.name, f"{found.probability:.4f}") for found in predictions
    ]
    assert call("predict", "run", "x.npy", "--out", "y.csv").out == ""
    assert (tmp_path / "y.csv").read_text() == output.out


def test_no_test_set_and_no_validation(call: Call, tmp_path: Path) -> None:
    write_blobs(tmp_path / "alone.npz", n_test=None)
    words = [
        "train",
        "alone.npz",
        "--validation",
        "0",
        "--epochs",
        "1",
        "--device",
        "cpu",
        "--model",
        "mlp:hidden=4",
        "--out",
        "run",
    ]
    output = call(*words)
    assert output.code == 0
    assert "best epoch 1 of 1; no test set: alone.npz has none" in output.out
    assert re.search(r"  1/1 .* - ", output.out)


def test_each_run_gets_a_folder_of_its_own(
    call: Call, blobs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(time, "strftime", lambda form: "now")
    for seed in (0, 1, 2):
        output = call(
            "train", blobs, "--epochs", 1, "--model=mlp:hidden=4", "--device=cpu", "--seed", seed
        )
        assert output.code == 0
    expected = ["blobs-lra-e-now", "blobs-lra-e-now-2", "blobs-lra-e-now-3"]
    assert sorted(p.name for p in (tmp_path / "runs").iterdir()) == expected
    assert [files.read_config(tmp_path / "runs" / name).seed for name in expected] == [0, 1, 2]


def test_resume(call: Call, run: Path) -> None:
    output = call("train", "--resume", run)
    assert output.code == 0
    assert "test accuracy" in output.out
    assert call("train", f"--resume={run}").code == 0


@pytest.mark.parametrize("name", ["\x1b[31mred", "bell\x07", "\x9b2Jclear", "tab\rreturn"])
def test_control_characters_in_names_are_shown(call: Call, tmp_path: Path, name: str) -> None:
    shown = name.encode("unicode_escape").decode()
    path = write_blobs(tmp_path / f"{name}.npz")
    words = ("--model", "mlp:hidden=4", "--epochs", 1, "--device", "cpu", "--out", f"run{name}")
    outputs = [
        call("train", path.name, *words),
        call("evaluate", f"run{name}"),
        call("data", "fetch", path.name),
        call("train", path.name, *words),
        call("train", name),
        call("data", name),
    ]
    for output in outputs:
        assert shown in output.out + output.err
        assert all(c == "\n" or c.isprintable() for c in output.out + output.err)


# data


def test_data_list(call: Call) -> None:
    output = call("data", "list")
    assert (output.code, output.err) == (0, "")
    lines = output.out.splitlines()
    assert lines[0].split()[:5] == ["digits", "1,437", "+", "360", "of"]
    assert lines[1].strip().endswith("digits.npz")
    assert lines[2].split()[:5] == ["mnist", "60,000", "+", "10,000", "of"]
    assert lines[3].strip() == "not on this machine; lra data fetch mnist"
    assert lines[5].strip() == "not on this machine; lra data fetch fashion-mnist"
    assert lines[6].split()[:5] == ["cifar-10", "50,000", "+", "10,000", "of"]
    assert lines[7].strip() == "not on this machine; lra data fetch cifar-10"
    assert lines[8].split()[0] == "python"
    assert len(lines) == 10


def test_data_fetch(call: Call) -> None:
    assert call("data", "fetch", "digits").out.endswith("digits.npz\n")


def test_data_show(call: Call, blobs: Path, tmp_path: Path) -> None:
    lines = call("data", "show", "digits").out.splitlines()
    assert lines[0] == "samples  1,437 for training, 360 for testing"
    assert lines[-1] == "digits.png"
    assert call("data", "show", "digits", "--out", "sub/some.png", "--count", 5).code == 0
    assert call("data", "show", blobs, "--seed", 3).out.endswith("\nblobs.png\n")
    pictures = [tmp_path / name for name in ("digits.png", "sub/some.png", "blobs.png")]
    assert all(p.read_bytes().startswith(b"\x89PNG") for p in pictures)
    assert len({p.read_bytes() for p in pictures}) == 3


# terminals


def on_terminal(words: Sequence[object]) -> tuple[int | None, str]:
    """Run the command on a terminal, and return its exit code and output."""
    screen, terminal = os.openpty()
    child = fork_lra(words, os.ttyname(terminal))
    output = b""
    while child.is_alive() or select.select([screen], [], [], 0)[0]:
        if select.select([screen], [], [], 0.05)[0]:
            output += os.read(screen, 65536)
    child.join()
    os.close(terminal)
    os.close(screen)
    return child.exitcode, output.decode()


def test_a_terminal_shows_a_live_bar(tmp_path: Path) -> None:
    path = write_blobs(tmp_path / "many.npz", n=3000)
    words = [
        "train",
        path,
        *["--model", "mlp:hidden=30-30", "--epochs", "3", "--batch-size", "8", "--device", "cpu"],
    ]
    code, output = on_terminal([*words, "--out", tmp_path / "run"])
    assert code == 0, output
    assert "\x1b[?25l" in output  # the cursor is hidden ...
    assert output.rstrip().rpartition("\x1b[?25h")[0]  # ... and shown again
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", output)
    assert "━" in plain
    assert re.search(r"epoch 2 .*loss \d\.\d{4} +train \d+\.\d\d% +[\d,]+ samples/s", plain)
    assert re.search(r"\d:\d\d:\d\d", plain)  # time left
    lines = [line.strip() for line in re.split(r"[\r\n]+", plain)]
    assert [line[:3] for line in lines if re.match(r"\d/3 ", line)] == ["1/3", "2/3", "3/3"]
    assert any(line.startswith("test accuracy") for line in lines)


def test_the_terminal_is_restored_after_an_error(tmp_path: Path, blobs: Path) -> None:
    words = [
        "train",
        blobs,
        *["--optimizer", "sgd", "--lr", "1e30", "--weight-decay", "0.01"],
        *["--device", "cpu", "--model", "mlp:hidden=9-9"],
    ]
    code, output = on_terminal([*words, "--out", tmp_path / "run"])
    assert code == 1
    assert "\x1b[?25l" in output
    assert output.rfind("\x1b[?25h") > output.rfind("\x1b[?25l")
    assert "lra: " in output.rpartition("\x1b[?25h")[2]


def test_commands_draw_without_a_display(tmp_path: Path, blobs: Path) -> None:
    """Train, diagnose and show data where matplotlib's default backend needs a screen."""
    train = f"train {blobs} --epochs 1 --model mlp:hidden=4 --diagnose 1 --out run"
    script = f"""
from lra.lab.cli import main
for words in ({train!r}, "diagnose run", "data show digits --out digits.png"):
    try:
        main.main(words.split())
    except SystemExit as stop:
        assert not stop.code, words
"""
    environment = {k: v for k, v in ENVIRONMENT.items() if k not in ("DISPLAY", "WAYLAND_DISPLAY")}
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=tmp_path,
        env=environment | {"MPLBACKEND": "TkAgg"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    for name in ("run/curves.png", "run/diagnose.png", "run/diagnose-curves.png", "digits.png"):
        assert (tmp_path / name).stat().st_size > 1000


def test_tables_in_a_file_are_not_shortened(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    table = Table("rule", "value")
    table.add_row("my_rules.py:Centred:" + "a" * 80, "[red]:boom:")
    out = io.StringIO()
    Terminal(file=out).print(table)
    assert "my_rules.py:Centred:" + "a" * 80 in out.getvalue()
    assert "[red]:boom:" in out.getvalue()

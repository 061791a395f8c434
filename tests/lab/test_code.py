"""A user's own rules and networks: loading, recording, moved and changed files, and forged runs."""

import hashlib
import importlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from workbench import ENVIRONMENT, assert_same_run, interrupt_at, read_train, write_blobs

import lra
from lra.errors import ConversionError, OptionError, RunError
from lra.lab import compare
from lra.lab.cli import main
from lra.lab.run import Run, train
from lra.lab.runs import files, trained_network
from lra.lab.settings import code
from lra.lab.settings.config import TrainConfig
from lra.lab.training import loop

RULES = """
from dataclasses import dataclass
from typing import Any

import lra
from lra.crossing import Crossing
from lra.feedback import Learned


@dataclass(frozen=True)
class Halved(Crossing):
    def error(self, phi, h, z, d, n, xp):
        return d / 2


def centred(beta: float = 0.1, two_sided=False):
    return lra.LRAE(beta=beta, two_sided=two_sided)


class Own(lra.Rule):
    def __init__(self, scale: float = 1.0):
        super().__init__(Learned(scale), Halved())


CONSTANT = lra.LRAE(beta=0.3)
NOTHING = 5


def wrong():
    return "lra-e"


def broken(beta=1):
    return 1 / (beta - beta)
"""

NETS = """
import math

import torch
from torch import nn


class Net(nn.Module):
    def __init__(self, shape, classes, width: int = 4, act: str = "tanh", drop=0.0):
        super().__init__()
        self.first = nn.Linear(math.prod(shape), width)
        self.act = {"tanh": nn.Tanh, "relu": nn.ReLU}[act]()
        self.last = nn.Linear(width, classes)

    def forward(self, x):
        return self.last(self.act(self.first(x.flatten(1))))


def plain(shape, classes, sizes: tuple[int, ...] = (5,)):
    widths = (math.prod(shape), *sizes)
    layers = [nn.Flatten()]
    for a, b in zip(widths, widths[1:]):
        layers += [nn.Linear(a, b), nn.Tanh()]
    return nn.Sequential(*layers, nn.Linear(widths[-1], classes))


def needs(shape, classes, width: int):
    return plain(shape, classes, (width,))


class Distances(nn.Module):
    def __init__(self, n):
        super().__init__()
        self.centres = nn.Parameter(torch.randn(n, n))

    def forward(self, x):
        return torch.cdist(x, self.centres)


class Leaning(nn.Module):
    def forward(self, h):
        return torch.where(h > 0, h, 0.1 * h) + 0.1 * h.mean(-1, keepdim=True)


class Product(nn.Module):
    def __init__(self, n):
        super().__init__()
        self.factor = nn.Parameter(torch.randn(n, n))

    def forward(self, x):
        return x @ self.factor


def mixed(layer, shape, classes):
    first, last = nn.Linear(math.prod(shape), 4), nn.Linear(4, classes)
    return nn.Sequential(nn.Flatten(), first, layer, nn.Tanh(), last)


def distances(shape, classes):
    return mixed(Distances(4), shape, classes)


def activation(shape, classes):
    return mixed(Leaning(), shape, classes)


def products(shape, classes):
    return mixed(Product(4), shape, classes)


class AllDistances(nn.Module):
    def __init__(self, shape, classes):
        super().__init__()
        self.centres = nn.Parameter(torch.randn(classes, math.prod(shape)))

    def forward(self, x):
        return -torch.cdist(x.flatten(1), self.centres)


def string(shape, classes):
    return "no module"


class Failing(Net):
    def forward(self, x):
        raise ValueError("no good")


class Missing(Net):
    def forward(self, x):
        return self.thrid(x)


class Misfit(Net):
    def forward(self, x):
        return self.first(self.last(x.flatten(1)))


class Lines(Net):
    def forward(self, x):
        raise ValueError("first\\nsecond")


class WrongShape(Net):
    def forward(self, x):
        return super().forward(x)[:, :1]


class Tuple(Net):
    def forward(self, x):
        return super().forward(x), None


OBJECT = Net((2, 3), 3)
"""


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with code and data, which is the current one, and an empty cache."""
    folder = tmp_path / "home"
    folder.mkdir()
    (folder / "my_rules.py").write_text(RULES)
    (folder / "my_nets.py").write_text(NETS)
    write_blobs(folder / "blobs.npz")
    monkeypatch.chdir(folder)
    monkeypatch.setenv("LRA_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(code, "_moved", {})
    monkeypatch.setattr(code, "_loaded", {})
    return folder


def config(home: Path, **changes: Any) -> TrainConfig:
    settings: dict[str, Any] = {"model": "mlp:hidden=5", "epochs": 1, "batch_size": 16}
    return TrainConfig(str(home / "blobs.npz"), device="cpu", **settings | changes)


def forget(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Use an empty cache, as on another machine."""
    monkeypatch.setenv("LRA_CACHE", str(tmp_path / "another"))
    monkeypatch.setattr(code, "_moved", {})
    monkeypatch.setattr(code, "_loaded", {})


def rewrite(run: Path, **changes: Any) -> None:
    """Change fields of a run's configuration; None deletes a field."""
    plain = json.loads((run / files.CONFIG).read_text()) | changes
    kept = {name: value for name, value in plain.items() if value is not None}
    (run / files.CONFIG).write_text(json.dumps(kept))


# loading


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("my_rules.py:centred", lra.LRAE()),
        ("my_rules.py:centred:beta=0.5,two_sided=true", lra.LRAE(0.5, two_sided=True)),
        ("my_rules.py:CONSTANT", lra.LRAE(0.3)),
        ("lra.rules:MirroredLRA:beta=2", lra.MirroredLRA(2.0)),
    ],
)
def test_rules_are_functions_classes_and_constants(home: Path, text: str, rule: lra.Rule) -> None:
    made = config(home, rule=text)
    assert made.built_rule == rule
    assert made.rule == made.rule_name == text
    assert TrainConfig.from_config(json.loads(json.dumps(made.to_config()))) == made


def test_a_rule_with_a_crossing_of_its_own(home: Path) -> None:
    rule = config(home, rule="my_rules.py:Own:scale=0.5").built_rule
    assert isinstance(rule, lra.Rule)
    assert rule.feedback == lra.feedback.Learned(0.5)
    d = np.array([4.0, -2.0])
    assert rule.crossing.error(np.tanh, d, d, d, 1, np).tolist() == [2.0, -1.0]
    loop.train(config(home, rule="my_rules.py:Own"), home / "run")
    assert trained_network.evaluate(home / "run").samples == 41


@pytest.mark.parametrize(
    ("text", "sizes"),
    [
        ("my_nets.py:Net", [(4, 6), (3, 4)]),
        ("my_nets.py:Net:width=9,act=relu,drop=0.5", [(9, 6), (3, 9)]),
        ("my_nets.py:plain:sizes=7-4", [(7, 6), (4, 7), (3, 4)]),
        ("my_nets.py:needs:width=3", [(3, 6), (3, 3)]),
    ],
)
def test_networks_are_classes_and_functions(
    home: Path, text: str, sizes: list[tuple[int, int]]
) -> None:
    made = config(home, model=text)
    network = made.network.build((2, 3), 3)
    assert [tuple(p.shape) for p in network.parameters() if p.dim() == 2] == sizes
    assert made.model == text


def test_a_module_on_pythons_path(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = home / "mine"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "nets.py").write_text(NETS)
    monkeypatch.syspath_prepend(str(home))
    importlib.invalidate_caches()
    made = config(home, model="mine.nets:Net:width=7")
    assert made.network.build((2, 3), 3).first.out_features == 7
    digest = hashlib.sha256((package / "nets.py").read_bytes()).hexdigest()
    assert made.sources == (("mine.nets", digest),)


def test_a_file_imports_files_beside_it(home: Path, tmp_path: Path) -> None:
    (home / "beside_it.py").write_text("WIDTH = 11\n")
    (home / "other.py").write_text("import beside_it\n" + NETS.replace("= 4", "= beside_it.WIDTH"))
    assert config(home, model="other.py:Net").network.build((2, 3), 3).first.out_features == 11
    assert str(home) not in sys.path


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rule": "my_rules.py:centerd"}, "my_rules.py has no centerd; it defines .*centred"),
        ({"rule": "nowhere.py:centred"}, "nowhere.py: there is no such file"),
        ({"rule": "no_such_module:f"}, "no module|No module"),
        ({"rule": "my_rules.py:NOTHING"}, "is 5, neither a rule nor a function"),
        ({"rule": "my_rules.py:wrong"}, "must be or return an lra.Rule .*; got 'lra-e'"),
        ({"rule": "my_rules.py:broken"}, r"ZeroDivisionError: .*\(my_rules.py, line 34\)"),
        ({"rule": "my_rules.py:centred:bta=1"}, "'bta'; known: beta, two_sided.*mean 'beta'"),
        ({"rule": "my_rules.py:centred:beta=x"}, "beta of rule .*'x' is not a valid value"),
        ({"rule": "my_rules.py:CONSTANT:beta=1"}, "has no options; got 'beta'"),
        ({"rule": "my_rules.py"}, "name the rule in the file, as in my_rules.py:Name"),
        ({"model": "my_nets.py:needs"}, "needs the option width: NAME:width=VALUE"),
        ({"model": "my_nets.py:Net:widht=3"}, "'widht'; known: act, drop, width.*mean 'width'"),
        ({"model": "my_nets.py:Net:width=a"}, "width of network .*'a' is not a valid value"),
        ({"model": "my_nets.py:OBJECT"}, "must be a function or class .*; got Net"),
        ({"model": "my_rules.py:NOTHING"}, "must be a function or class .*; got int"),
    ],
)
def test_wrong_references_are_refused(home: Path, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=message) as e:
        config(home, **settings)
    assert "\n" not in str(e.value)


def test_a_file_that_does_not_run(home: Path) -> None:
    (home / "syntax.py").write_text("def f(:\n")
    with pytest.raises(OptionError, match=r"syntax.py: SyntaxError: .*\(syntax.py, line 1\)$"):
        config(home, rule="syntax.py:f")
    (home / "name.py").write_text("import math\n\nx = maht.pi\n")
    with pytest.raises(OptionError, match=r"name.py: NameError: .*\(name.py, line 3\)"):
        config(home, rule="name.py:f")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("string", "must return an nn.Module; got 'no module'"),
        ("Failing", r"Failing: ValueError: no good \(my_nets.py, line \d+\)"),
        ("Missing", r"Missing: AttributeError: .*'thrid'"),
        ("Misfit", r"Misfit: RuntimeError: .*shapes .*\(my_nets.py, line \d+\)$"),
        ("Lines", r"Lines: ValueError: first second \(my_nets.py, line \d+\)$"),
        ("WrongShape", r"logits of shape \(\d+, 3\); got shape \(\d+, 1\)"),
        ("Tuple", r"logits of shape \(\d+, 3\); got tuple"),
    ],
)
def test_networks_that_do_not_work(home: Path, name: str, message: str) -> None:
    with pytest.raises(OptionError, match=message) as e:
        loop.train(config(home, model=f"my_nets.py:{name}"), home / "run")
    assert "\n" not in str(e.value)
    assert not (home / "run" / files.CONFIG).exists()


@pytest.mark.parametrize("name", ["distances", "activation"])
def test_networks_that_cannot_follow_the_rule_are_refused(home: Path, name: str) -> None:
    with pytest.raises(ConversionError, match="a run follows one rule as a whole"):
        loop.train(config(home, model=f"my_nets.py:{name}"), home / "run")
    assert not (home / "run" / files.CONFIG).exists()
    compared = compare(
        str(home / "blobs.npz"), ["backprop", "lra-e"], models=[f"my_nets.py:{name}"],
        folder=home / "cmp", epochs=1, seeds=1, progress=False,
    )  # fmt: skip
    assert [(row["rule"], row["state"]) for row in compared.rows] == [("backprop", "done")]
    refusal = str(compared.tables[0].entries[1].refusal)
    assert refusal.endswith("a run follows one rule as a whole")
    loop.train(config(home, rule="backprop", model=f"my_nets.py:{name}"), home / "plain")


@pytest.mark.parametrize("name", ["products", "Net"])
def test_networks_of_ones_own_follow_the_rule(home: Path, name: str) -> None:
    loop.train(config(home, model=f"my_nets.py:{name}"), home / name)


def test_a_network_without_layers_to_convert_is_refused(home: Path) -> None:
    with pytest.raises(ConversionError, match="no layer to convert"):
        loop.train(config(home, model="my_nets.py:AllDistances"), home / "run")


# runs


@pytest.fixture
def run(home: Path) -> Path:
    """A run of an own rule and an own network."""
    rule, model = "my_rules.py:centred:beta=0.2", "my_nets.py:Net:width=5"
    loop.train(config(home, rule=rule, model=model), home / "run")
    return home / "run"


def test_sources_are_recorded(home: Path, run: Path) -> None:
    plain = json.loads((run / files.CONFIG).read_text())
    expected = [
        [name, hashlib.sha256((home / name).read_bytes()).hexdigest()]
        for name in ("my_nets.py", "my_rules.py")
    ]
    assert plain["sources"] == expected
    assert plain["source_folder"] == str(home)
    assert (plain["rule"], plain["model"]) == (
        *("my_rules.py:centred:beta=0.2", "my_nets.py:Net:width=5"),
    )


def test_a_run_is_used_from_another_folder(
    home: Path,
    run: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    expected = trained_network.evaluate(run)
    monkeypatch.chdir(tmp_path)
    assert trained_network.evaluate(run) == expected
    assert files.read_config(run).built_rule == lra.LRAE(0.2)
    np.save("x.npy", np.load(home / "blobs.npz")["x_test"])
    main.main(["predict", str(run), "x.npy"])
    assert len(capsys.readouterr().out.splitlines()) == 42


def test_a_run_is_resumed_from_another_folder(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {"rule": "my_rules.py:Own", "model": "my_nets.py:Net", "epochs": 3}
    loop.train(config(home, **settings), home / "whole")
    monkeypatch.setattr(loop, "CHECK_EVERY", 1)
    with pytest.raises(loop.Interrupted):
        loop.train(config(home, **settings), home / "run", reporter=interrupt_at(10))
    monkeypatch.chdir(tmp_path)
    loop.resume(home / "run")
    assert_same_run(home / "whole", home / "run")


def test_a_moved_file_is_named_again(home: Path, run: Path, tmp_path: Path) -> None:
    (home / "my_nets.py").rename(tmp_path / "my_nets.py")
    with pytest.raises(RunError, match=r"my_nets.py: there is no such file .*new place with --cod"):
        trained_network.evaluate(run)
    with pytest.raises(OptionError, match=r"no_such.py: there is no such file"):
        code.allow(["no_such.py"])
    code.allow([tmp_path / "my_nets.py"])
    assert trained_network.evaluate(run).samples == 41


def test_a_changed_file_is_accepted_by_name(home: Path, run: Path) -> None:
    with (home / "my_rules.py").open("a") as file:
        file.write("# changed\n")
    for use in (trained_network.evaluate, Run.open, loop.resume):
        with pytest.raises(RunError, match=r"my_rules.py has changed since the run began"):
            use(run)
    code.allow(["my_rules.py"])
    assert trained_network.evaluate(run).samples == 41
    with pytest.raises(RunError, match="resuming would mix two versions"):
        loop.resume(run)


def test_a_run_starts_from_a_run_with_own_code(home: Path, run: Path) -> None:
    words = ["--config", str(run / files.CONFIG)]
    made, _ = read_train(words)
    assert made == files.read_config(run)
    made, _ = read_train([*words, "--rule", "backprop"])
    assert [place for place, _ in made.sources] == ["my_nets.py"]
    (home / "more.py").write_text(RULES)
    made, _ = read_train([*words, "--rule", "more.py:centred"])
    assert [place for place, _ in made.sources] == ["my_nets.py", "more.py"]
    assert TrainConfig.from_config(made.to_config()) == made
    (home / "my_rules.py").write_text(RULES + "# changed\n")
    with pytest.raises(RunError, match=r"my_rules.py has changed"):
        read_train(words)
    made, _ = read_train([*words, "--code", "my_rules.py"])
    digest = hashlib.sha256((home / "my_rules.py").read_bytes()).hexdigest()
    assert dict(made.sources)["my_rules.py"] == digest


# runs that somebody else wrote

FORGED = [
    {"rule": "shutil:rmtree:path=VICTIM"},
    {"model": "shutil:rmtree:path=VICTIM"},
    {"rule": "os:rmdir:path=VICTIM"},
    {"rule": "subprocess:getoutput:cmd=rmdir VICTIM"},
    {"model": "subprocess:getoutput:cmd=rmdir VICTIM"},
    {"rule": "pathlib:Path.rmdir:self=VICTIM"},
    {"rule": "evil.py:rule"},
    {"rule": "FOLDER/evil.py:rule", "model": "my_nets.py:Net"},
    {"model": "evil.py:rule", "source_folder": "FOLDER"},
    {"model": "evil:rule", "source_folder": "FOLDER"},
    {"rule": "my_rules.py:os.rmdir:path=VICTIM"},
]
REFUSED = r"not named on this machine|sources must be pairs"
SOURCES: dict[str, Any] = {
    "true": "TRUE",
    "forged": [["shutil", "0" * 64], ["os", ""], ["evil.py", "1" * 64], ["subprocess", "x"]],
    "missing": None,
    "empty": [],
    "a number": 5,
    "a text": "shutil",
    "a mapping": {"shutil": "0" * 64},
    "numbers": [[1, 2]],
    "no pairs": [["shutil"], []],
}


@pytest.mark.parametrize("sources", SOURCES)
@pytest.mark.parametrize("changes", FORGED, ids=str)
def test_code_of_strangers_does_not_run(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: Any, sources: str
) -> None:
    """Also where the recorded digest is right, since the file may have been sent along."""
    begin_forged(home, tmp_path, monkeypatch, changes, sources)
    for use in (trained_network.evaluate, loop.resume, Run.open, files.read_config):
        with pytest.raises(RunError, match=REFUSED) as e:
            use(tmp_path / "forged")
        assert "\n" not in str(e.value)
    words = ["--config", str(tmp_path / "forged" / files.CONFIG)]
    with pytest.raises(lra.LraError, match=REFUSED):
        read_train(words)
    assert (tmp_path / "victim").is_dir()
    assert not (tmp_path / "ran").exists()


def begin_forged(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: Any, sources: str
) -> None:
    """Write a run whose configuration names code, on a machine whose user named none."""
    (tmp_path / "victim").mkdir()
    evil = f"open({str(tmp_path / 'ran')!r}, 'w')\n\n\ndef rule(*args):\n    return None\n"
    (home / "evil.py").write_text(evil)
    monkeypatch.syspath_prepend(str(home))
    (tmp_path / "forged").mkdir()
    files.write_json(tmp_path / "forged" / files.CONFIG, config(home).to_config())
    forget(monkeypatch, tmp_path)
    filled = {
        name: text.replace("VICTIM", str(tmp_path / "victim")).replace("FOLDER", str(home))
        for name, text in changes.items()
    }
    recorded = SOURCES[sources]
    if recorded == "TRUE":
        recorded = [[w, digest_of(home, w)] for w in map(place_of, filled.values())]
    rewrite(tmp_path / "forged", **filled, sources=recorded)


def place_of(text: str) -> str:
    return text.rpartition(".py")[0] + ".py" if ".py" in text else text.partition(":")[0]


def digest_of(home: Path, where: str) -> str:
    path = home / where
    if not path.is_file():
        spec = importlib.util.find_spec(where)
        path = Path(str(spec.origin)) if spec and spec.origin else path
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "0" * 64


def test_code_that_was_named_may_not_be_another_of_that_name(
    home: Path, run: Path, tmp_path: Path
) -> None:
    """A note is for one content of a file, and one name in it."""
    other = tmp_path / "other"
    other.mkdir()
    (other / "my_rules.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n" + RULES)
    digest = hashlib.sha256((other / "my_rules.py").read_bytes()).hexdigest()
    nets = json.loads((run / files.CONFIG).read_text())["sources"][0]
    (home / "my_rules.py").unlink()
    rewrite(run, source_folder=str(other), sources=[nets, ["my_rules.py", digest]])
    with pytest.raises(RunError, match="not named on this machine"):
        trained_network.evaluate(run)
    rewrite(run, rule="my_rules.py:broken")
    with pytest.raises(RunError, match="not named on this machine"):
        trained_network.evaluate(run)
    assert not (tmp_path / "ran").exists()


def test_a_strangers_run_is_used_once_its_code_is_named(
    home: Path, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    forget(monkeypatch, tmp_path)
    with pytest.raises(RunError, match=r"uses my_nets.py:Net, .*--code my_nets.py"):
        Run.open(run)
    opened = Run.open(run, code=[home / "my_nets.py", home / "my_rules.py"])
    assert opened.evaluate().samples == 41


@pytest.mark.parametrize("name", ["os.rmdir", "lra.named", "nn.os.path.join"])
def test_a_named_file_gives_no_access_to_what_it_imports(home: Path, run: Path, name: str) -> None:
    (home / "my_rules.py").write_text("import os\nfrom torch import nn\n" + RULES)
    (home / "victim").mkdir()
    rewrite(run, rule=f"my_rules.py:{name}:path={home / 'victim'}")
    code.allow(["my_rules.py", "my_nets.py"])
    with pytest.raises(RunError, match=r"is a module that my_rules.py imports"):
        Run.open(run)
    assert (home / "victim").is_dir()


# from Python


def test_functions_and_classes_of_a_script(home: Path) -> None:
    """A script hands over its own functions, and another process opens the run."""
    script = NETS + (
        "\n\nif __name__ == '__main__':\n    import lra.lab\n"
        "    run = lra.lab.train('blobs.npz', model=Net, rule='my_rules.py:Own', epochs=1,\n"
        "        folder='run', device='cpu')\n    print(run.evaluate().samples)\n"
    )
    (home / "script.py").write_text(script)
    done = subprocess.run(
        [sys.executable, "script.py"],
        cwd=home,
        env=ENVIRONMENT | {"LRA_CACHE": str(home / "cache")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "41\n"
    assert json.loads((home / "run" / files.CONFIG).read_text())["model"] == "__main__:Net"


def test_what_has_no_name_is_refused(home: Path) -> None:
    def local(shape: Any, classes: int) -> torch.nn.Module:
        return torch.nn.Linear(6, classes)

    for value in (local, lambda shape, classes: torch.nn.Linear(6, classes)):
        with pytest.raises(OptionError, match="cannot be found again by its name"):
            train("blobs.npz", model=value, folder=home / "run")


SCRIPT = """
import lra, lra.lab
from torch import nn


def Net(shape, classes):
    return nn.Sequential(nn.Flatten(), nn.Linear(6, classes))


def Own(beta: float = 0.2):
    return lra.LRAE(beta=beta)


run = lra.lab.train("blobs.npz", rule=Own, model=Net, epochs=1, folder="run", device="cpu")
assert "test accuracy" in repr(run), run
assert lra.lab.Run.open("run").evaluate().samples == 41
assert lra.lab.Run.open("run").resume(epochs=2).metrics[-1]["epoch"] == 2
"""


def test_a_script_uses_its_own_rule_and_network_again(tmp_path: Path) -> None:
    write_blobs(tmp_path / "blobs.npz")
    (tmp_path / "script.py").write_text(SCRIPT)
    subprocess.run([sys.executable, "script.py"], cwd=tmp_path, env=ENVIRONMENT, check=True)


def test_yaml_sets_rates_and_leaves_the_dataset_to_the_command(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("rule: lra-e:beta=0.3\nlr: 1e-3\nbetas: [0.5, 0.75]\n")
    config, _ = read_train(["digits", "--config", str(tmp_path / "c.yaml"), "--epochs", "2"])
    expected = TrainConfig("digits", lra.LRAE(beta=0.3), lr=1e-3, betas=(0.5, 0.75), epochs=2)
    assert config == expected


def test_naming_one_function_of_a_file_allows_no_other(tmp_path: Path) -> None:
    (tmp_path / "two.py").write_text("def one():\n    pass\n\n\ndef other():\n    pass\n")
    (source,) = code.record([f"{tmp_path}/two.py:one"])
    code.check([f"{tmp_path}/two.py:one"], [source], "")
    with pytest.raises(RunError, match="other, code that was not named on this machine"):
        code.check([f"{tmp_path}/two.py:other"], [source], "")

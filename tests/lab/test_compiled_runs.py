"""Compiled runs: compared with eager runs, and with uninterrupted ones after a stop."""

import pytest
import torch
from torch._inductor import config as inductor
from workbench import (
    Watcher,
    differences,
    metrics,
    saved_state,
    tiny,
    train_with_stops,
    write_blobs,
)

import lra
from lra.errors import OptionError
from lra.lab.settings.config import TrainConfig
from lra.lab.training import learning, loop

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # from torch's compiler


@pytest.fixture
def blobs(tmp_path):
    return write_blobs(tmp_path / "blobs.npz")


@pytest.fixture(autouse=True)
def steps(monkeypatch):
    """Trace steps without compiling kernels, and return the list of compiled steps."""
    torch._dynamo.reset()
    steps = []

    def traced_step(*args, **options):
        steps.append(compile_step(*args, backend="aot_eager", **options))
        return steps[-1]

    compile_step = lra.compile_step
    monkeypatch.setattr(lra, "compile_step", traced_step)
    return steps


MODES = {False: "never", True: "always"}
SETTINGS = {
    "schedule": {"rule": lra.MirroredLRA(samples=50), "schedule": "cosine", "feedback_lr": 1e-4},
    "normalised": {"model": "residual-mlp:width=6,depth=3", "optimizer": "sgd"},
    "wired": {"rule": lra.LRAE(wiring=lra.wiring.Direct())},
}


@pytest.mark.parametrize("name", SETTINGS)
def test_a_compiled_run_equals_the_eager_run_up_to_rounding(tmp_path, blobs, steps, name):
    for compiled in (False, True):
        config = tiny(blobs, compile=MODES[compiled], precision="64", **SETTINGS[name])
        loop.train(config, tmp_path / str(compiled))
    eager, ours = (saved_state(tmp_path / str(compiled)) for compiled in (False, True))
    torch.testing.assert_close(ours["model"], eager["model"], rtol=1e-8, atol=1e-10)
    torch.testing.assert_close(ours["optimizer"], eager["optimizer"], rtol=1e-8, atol=1e-10)
    for one, other in zip(*(metrics(tmp_path / str(c)) for c in (False, True)), strict=True):
        assert float(one["loss"]) == pytest.approx(float(other["loss"]), rel=1e-9)
        assert one["train_accuracy"] == other["train_accuracy"]
    assert [step.compilations for step in steps] == [1]


@pytest.mark.parametrize("stops", [(7, 8, 19), (3, 15, 16)])
def test_a_resumed_compiled_run_is_bit_identical(tmp_path, blobs, stops):
    config = tiny(blobs, compile="always", model="mlp:hidden=7-5,activation=rrelu")
    loop.train(config, tmp_path / "whole")
    train_with_stops(config, tmp_path / "stopped", stops, 8, f"{stops}")
    states = (saved_state(tmp_path / name) for name in ("whole", "stopped"))
    assert differences(*states) == []


def test_diagnoses_change_nothing_and_compile_nothing(tmp_path, blobs, steps):
    for every in (None, 3):
        loop.train(tiny(blobs, compile="always", diagnose=every), tmp_path / str(every))
    for part in ("model", "optimizer"):
        a, b = (saved_state(tmp_path / str(every))[part] for every in (None, 3))
        torch.testing.assert_close(a, b, rtol=0, atol=0)
    assert [step.compilations for step in steps] == [1, 1]


def test_the_compile_time_is_reported_once(tmp_path, blobs):
    watcher = Watcher()
    loop.train(tiny(blobs, compile="always"), tmp_path / "run", reporter=watcher)
    (note,) = (note for note in watcher.notes() if "compiling" in note)
    assert float(note.removeprefix("compiling took ").removesuffix(" s")) > 0


def test_text(tmp_path, steps):
    path = tmp_path / "text.txt"
    path.write_text("the quick brown fox jumps over the lazy dog. " * 40)
    losses = []
    for compiled in (False, True):
        model = "gpt:width=8,depth=1,context=8"
        config = tiny(path, model=model, compile=MODES[compiled], epochs=1, precision="64")
        loop.train(config, tmp_path / str(compiled))
        losses.append(float(metrics(tmp_path / str(compiled))[-1]["loss"]))
    assert losses[0] == pytest.approx(losses[1], rel=1e-9)
    assert [step.compilations for step in steps] == [1]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rule": lra.methods.PredictiveCoding()}, "predictive-coding takes several passes"),
        ({"devices": 2}, "several devices"),
        ({"precision": "bf16-mixed"}, "bf16-mixed"),
        ({"compile": "yes"}, "unknown compile 'yes'; known: always, auto, never"),
    ],
)
def test_refused_settings(settings, message):
    with pytest.raises(OptionError, match=message):
        TrainConfig("digits", **({"compile": "always"} | settings))


def test_auto_compiles_long_runs(tmp_path, blobs, steps, monkeypatch):
    config = tiny(blobs, compile="auto")
    watcher = Watcher()
    loop.train(config, tmp_path / "short", reporter=watcher)
    assert not steps
    (_, epochs, epoch_steps), *_ = (event for kind, event in watcher.events if kind == "start")
    all_steps = epochs * epoch_steps
    for min_steps, count in ((all_steps + 1, 0), (all_steps, 1)):
        monkeypatch.setattr(learning, "_MIN_STEPS", min_steps)
        loop.train(config, tmp_path / str(min_steps))
        assert len(steps) == count
    for obstacle in ({"rule": lra.methods.PredictiveCoding()}, {"precision": "bf16-mixed"}):
        loop.train(tiny(blobs, compile="auto", epochs=1, **obstacle), tmp_path / str(obstacle))
    loop.train(tiny("digits", compile="auto", model="lenet", epochs=1), tmp_path / "lenet")
    with inductor.patch({"cpp.cxx": (None, "no-such-compiler")}):
        loop.train(config, tmp_path / "without")
    monkeypatch.setattr("lra.torch.compiled.available", lambda: False)  # as in an older torch
    loop.train(config, tmp_path / "older")
    assert len(steps) == 1


@pytest.mark.parametrize("model", ["lenet", "resnet", "vit"])
def test_convolutions_are_refused_on_a_cpu(tmp_path, model):
    config = tiny("digits", compile="always", model=model)
    message = f"{model} is not compiled for a CPU; leave --compile out"
    with pytest.raises(OptionError, match=message):
        loop.train(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()

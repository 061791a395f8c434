"""Diagnoses of runs: compared with runs without diagnoses or without stops; and the verdict."""

import csv
import json
import math

import pytest
import torch
from rich.console import Console
from tensorboardX.proto.event_pb2 import Event
from workbench import (
    Watcher,
    differences,
    metrics,
    read_train,
    saved_state,
    tiny,
    train_with_stops,
    write_blobs,
)

import lra
from lra.lab.cli import main
from lra.lab.runs import diagnoses, files
from lra.lab.runs.verdict import verdict
from lra.lab.settings.config import TrainConfig
from lra.lab.training import loop

NOISY = {"model": "mlp:hidden=7-5,activation=bernoulli,straight_through=sigmoid"}


def read_events(folder):
    """Read the TensorBoard log: tag, step and value of every number."""
    (path,) = folder.glob(files.EVENTS)
    content, events = path.read_bytes(), []
    while content:
        size = int.from_bytes(content[:8], "little")
        event = Event.FromString(content[12 : 12 + size])
        events += [(v.tag, event.step, v.simple_value) for v in event.summary.value]
        content = content[16 + size :]
    return events


@pytest.mark.parametrize(
    "rule",
    [lra.LRAE(), lra.SignSymmetry("batch"), lra.MirroredLRA(), lra.methods.PredictiveCoding(5)],
)
def test_diagnoses_do_not_change_a_run(tmp_path, rule):
    data = write_blobs(tmp_path / "blobs.npz")
    for name, every in (("plain", None), ("diagnosed", 3)):
        loop.train(tiny(data, rule=rule, diagnose=every, **NOISY), tmp_path / name)
    plain, diagnosed = tmp_path / "plain", tmp_path / "diagnosed"
    states = [saved_state(folder) for folder in (plain, diagnosed)]
    for state in states:
        state.pop("config")
    assert not differences(*states)
    assert (plain / files.WEIGHTS).read_bytes() == (diagnosed / files.WEIGHTS).read_bytes()
    assert not differences(metrics(plain), metrics(diagnosed))
    assert not (plain / files.DIAGNOSES).exists()


def test_each_diagnosis_is_saved_and_logged(tmp_path):
    config = tiny(write_blobs(tmp_path / "blobs.npz"), diagnose=5)
    received = []
    watcher = Watcher()
    watcher.diagnosis = lambda *arguments: received.append(arguments)
    loop.train(config, tmp_path / "run", reporter=watcher)
    assert [(epoch, step) for epoch, step, _ in received] == [
        (1, 0),
        (1, 5),
        (2, 10),
        (2, 15),
        (3, 20),
    ]
    with (tmp_path / "run" / files.DIAGNOSES).open(newline="") as file:
        rows = list(csv.DictReader(file))
    expected = [{"epoch": e, "step": s} | row for e, s, each in received for row in each.rows()]
    as_text = [{k: "" if v is None else str(v) for k, v in row.items()} for row in expected]
    assert rows == as_text
    assert diagnoses.read(tmp_path / "run") == expected
    events = read_events(tmp_path / "run")
    logged = [event for event in events if event[0].startswith("diagnose/")]
    numbers = [
        (f"diagnose/{name}", step, value)
        for _, step, diagnosis in received
        for name, value in diagnosis.scalars().items()
    ]
    assert [event[:2] for event in logged] == [number[:2] for number in numbers]
    values = [torch.tensor([event[2] for event in series]) for series in (logged, numbers)]
    torch.testing.assert_close(*values)


@pytest.mark.parametrize("stops", [(1,), (4, 5, 17), (10, 20)])
def test_stops_do_not_change_the_table(tmp_path, stops):
    config = tiny(write_blobs(tmp_path / "blobs.npz"), diagnose=5, rule=lra.SignSymmetry("batch"))
    loop.train(config, tmp_path / "whole")
    train_with_stops(config, tmp_path / "stopped", stops, 8, "diagnoses")
    whole, stopped = (tmp_path / name for name in ("whole", "stopped"))
    assert (whole / files.DIAGNOSES).read_bytes() == (stopped / files.DIAGNOSES).read_bytes()
    assert read_events(whole)[:3] != []
    for folder in (whole, stopped):
        tags = [event[:2] for event in read_events(folder)]
        assert len(tags) == len(set(tags))


def test_rows_after_the_last_checkpoint_are_replaced(tmp_path):
    config = tiny(write_blobs(tmp_path / "blobs.npz"), diagnose=5)
    loop.train(config, tmp_path / "run")
    table = tmp_path / "run" / files.DIAGNOSES
    whole = table.read_text()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "CHECK_EVERY", 1)
        stop = Watcher((7,), lambda: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):  # before a checkpoint, but after a diagnosis
            loop.train(config, tmp_path / "run", overwrite=True, reporter=stop)
    with table.open("a") as file:
        file.write("1,10,0,wei")  # half a line
    loop.resume(tmp_path / "run")
    assert table.read_text() == whole


def test_overwriting_a_run_removes_its_diagnoses(tmp_path):
    config = tiny(write_blobs(tmp_path / "blobs.npz"), diagnose=20)
    loop.train(config, tmp_path / "run")
    main.parse(["diagnose", str(tmp_path / "run")]).execute(Console(quiet=True))
    loop.train(tiny(config.dataset), tmp_path / "run", overwrite=True)
    left = {path.name for path in (tmp_path / "run").iterdir()}
    assert not left & {files.DIAGNOSES, files.HEAT_MAP, files.DIAGNOSE_CURVES}


# the verdict


def row(layer="0", epoch=1, step=1, **values):
    usual = {"kind": "weights", "arrival": "usable", "update": 0.1, "update_relative": 0.01}
    usual |= {"gradient": 0.1, "angle": 20.0, "layer": layer, "epoch": epoch, "step": step}
    return dict.fromkeys(diagnoses.COLUMNS) | usual | values


@pytest.mark.parametrize(
    ("bad", "problem"),
    [
        ({"angle": 91.0}, "point away"),
        ({"update": 1e-12, "update_relative": 1e-9}, "vanish"),
        ({"update": 0.0, "update_relative": 0.0, "gradient": None, "angle": None}, "vanish"),
        ({"update": 1e-6, "step_scale": 0.49, "gradient": 1e-3}, "below the optimizer's eps"),
        ({"update": 1e-9, "update_rms": 1e-38, "gradient": None}, "below float32's smallest"),
        ({"update": 1e4, "update_relative": 1e3}, "explode"),
        ({"update": math.nan, "update_relative": math.nan, "arrival": "not finite"}, "explode"),
    ],
)
def test_an_epoch_of_bad_updates_gets_a_verdict(bad, problem):
    rows = [row(epoch=e, step=s) for e, s in ((1, 1), (1, 2), (2, 3), (2, 4), (3, 5))]
    rule = lra.FeedbackAlignment()
    assert verdict(rows, rule) is None
    rows[2] |= bad
    assert verdict(rows, rule) is None  # one of two diagnoses of an epoch
    rows[3] |= bad
    sentence = verdict(rows, rule)
    start = "diagnosis: In epoch 2 of 3 the updates of 1 of 1 weight layers (0)"
    assert sentence.startswith(start)
    assert problem in sentence
    assert "--rule mirrored-lra" in sentence
    rows[0] |= bad
    rows[1] |= bad
    assert verdict(rows, rule).startswith("diagnosis: In epochs 1 to 2 of 3 ")


def test_updates_as_bad_as_backprops_get_no_verdict():
    rule = lra.LRAE()
    assert verdict([row(step=0, angle=95.0)], rule) is None  # depends on the initial feedback
    small = {"update": 1e-12, "update_relative": 1e-11, "gradient": 1e-12}
    assert verdict([row(**small)], rule) is None  # backprop's gradient is as small
    slowed = {"update": 1e-6, "step_scale": 0.1, "update_rms": 1e-39}
    assert verdict([row(**slowed, gradient=1e-6)], rule) is None  # and so it is by backprop
    assert verdict([row(update=1e-6, step_scale=0.5)], rule) is None
    assert verdict([row(update=1e-6, step_scale=None, update_rms=0.0)], rule) is None
    large = {"update": 1e6, "update_relative": 1e5, "gradient": 1e6}
    assert verdict([row(**large)], rule) is None
    idle = {"update": 0.0, "update_relative": 0.0, "gradient": 0.0, "arrival": "nothing"}
    assert verdict([row(**idle, angle=None)], rule) is None
    assert verdict([row(kind="activation", angle=120.0)], rule) is None
    assert verdict([], rule) is None


def test_the_remedy_depends_on_the_rule():
    tiny_update, away = {"update": 0.0, "update_relative": 0.0}, {"angle": 100.0}
    assert "normalized=true" in verdict([row(**tiny_update)], lra.LRAE())
    assert "mirror the weights" in verdict([row(**tiny_update)], lra.LRAE(normalized=True))
    assert "larger beta than 1" in verdict([row(**tiny_update)], lra.MirroredLRA())
    assert "mirror the weights" in verdict([row(**away)], lra.LRAE())
    assert "smaller beta than 2" in verdict([row(**away)], lra.MirroredLRA(2.0))
    mirrored = lra.KolenPollack(init=lra.inits.Mirror())
    assert "lra.mirror(model) again" in verdict([row(**away)], mirrored)
    assert "settings of dtp" in verdict([row(**away)], lra.methods.DTP())


def test_problems_with_one_remedy_share_it():
    found = [
        row("0", update=1e-12, update_relative=1e-9, step_scale=1e-4),
        row("2", update=1e-6, step_scale=0.1),
    ]
    said = verdict(found, lra.LRAE())
    assert "1 of 2 weight layers (0) vanish" in said
    assert "2 of 2 weight layers (0, 2) are below the optimizer's eps" in said
    assert said.count("normalized=true") == 1
    said = verdict([*found, row("4", update=1e4, update_relative=1e3)], lra.LRAE())
    assert said.count("; in epoch 1 of 1 ") == 1


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
@pytest.mark.parametrize(
    ("rule", "fails"), [(lra.LRAE(), True), (lra.MirroredLRA(), False), (lra.Backprop(), False)]
)
def test_sixteen_tanh_layers(tmp_path, rule, fails, optimizer):
    config = TrainConfig(
        *("digits", rule), model="mlp:width=32,depth=16", epochs=2, diagnose=10,
        optimizer=optimizer,
    )  # fmt: skip
    watcher = Watcher()
    loop.train(config, tmp_path / "run", reporter=watcher)
    verdicts = [note for note in watcher.notes() if note.startswith("diagnosis:")]
    assert len(verdicts) == fails
    if fails:
        assert "In epochs 1 to 2 of 2 the updates of" in verdicts[0]
        assert "vanish" in verdicts[0]
        assert ("below the optimizer's eps" in verdicts[0]) == (optimizer == "adamw")


# lra diagnose


def test_the_command_prints_a_table_and_writes_plots(tmp_path, capsys):
    config = tiny(write_blobs(tmp_path / "blobs.npz"), diagnose=10)
    loop.train(config, tmp_path / "run")
    main.main(["diagnose", str(tmp_path / "run")])
    printed = capsys.readouterr().out
    assert printed.startswith("step 20, epoch 3\nlayer")
    last = [row for row in diagnoses.read(tmp_path / "run") if row["step"] == 20]
    for expected, line in zip(last, printed.splitlines()[2:], strict=False):
        assert line.split()[:2] == [expected["layer"], expected["type"]]
        assert expected["angle"] is None or line.endswith(f"{expected['angle']:.1f}°")
    for name in (files.HEAT_MAP, files.DIAGNOSE_CURVES):
        assert str(tmp_path / "run" / name) in printed
        assert (tmp_path / "run" / name).read_bytes().startswith(b"\x89PNG")
    main.main(["diagnose", str(tmp_path / "run"), "--step", "10"])
    assert capsys.readouterr().out.startswith("step 10, epoch 2\n")


def test_runs_with_a_method_are_plotted(tmp_path, capsys):
    config = tiny(
        write_blobs(tmp_path / "blobs.npz"), diagnose=10, rule=lra.methods.PredictiveCoding(2)
    )
    loop.train(config, tmp_path / "run")
    main.main(["diagnose", str(tmp_path / "run")])
    assert str(tmp_path / "run" / files.DIAGNOSE_CURVES) in capsys.readouterr().out


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "train with --diagnose N"),
        ("a,b\n1,2\n", "is not a table of diagnoses"),
        ("HEADER\n1,x,0\n", "line 2 cannot be parsed"),
        ("HEADER\n", "no diagnosis yet"),
    ],
)
def test_invalid_tables_are_refused(tmp_path, capsys, content, message):
    (tmp_path / files.CONFIG).write_text(json.dumps(tiny("digits").to_config()))
    if content:
        header = ",".join(diagnoses.COLUMNS)
        (tmp_path / files.DIAGNOSES).write_text(content.replace("HEADER", header))
    with pytest.raises(SystemExit, match="1"):
        main.main(["diagnose", str(tmp_path)])
    assert message in capsys.readouterr().err.replace("\n", " ")


def test_options(tmp_path, capsys):
    config, _ = read_train(["digits", "--diagnose", "7"])
    assert config.diagnose == 7
    with pytest.raises(lra.errors.OptionError, match="diagnose must be a whole number, 1 or more"):
        tiny("digits", diagnose=0)
    loop.train(tiny(write_blobs(tmp_path / "blobs.npz"), diagnose=10), tmp_path / "run")
    with pytest.raises(SystemExit, match="2"):
        main.main(["diagnose", str(tmp_path / "run"), "--step", "11"])
    assert "there are diagnoses at 0, 10, 20" in capsys.readouterr().err.replace("\n", " ")

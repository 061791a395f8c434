"""Trackers receive a run's metrics once, and a resumed run continues its tracker's run."""

import json
import sys
import types
from pathlib import Path
from typing import Any

import pytest
from workbench import interrupt_at, metrics, tiny, write_blobs

from lra.errors import OptionError, RunError
from lra.lab.cli import main
from lra.lab.runs import trackers
from lra.lab.runs.files import COLUMNS
from lra.lab.training import loop

NAMES = {"wandb": "WandbLogger", "mlflow": "MLFlowLogger"}


class Service:
    """A tracker that records what its loggers send, by run."""

    def __init__(self) -> None:
        self.sent: dict[str, list[tuple[int, dict[str, float]]]] = {}
        self.settings: dict[str, dict[str, Any]] = {}
        self.ends: list[tuple[str, str]] = []
        self.fails = False

    def logger(self, *arguments: str, **options: Any) -> types.SimpleNamespace:
        assert "lra" in (*arguments, options.get("project"))
        assert options.get("name", options.get("run_name")) == "run"
        run = options.get("id", options.get("run_id")) or f"number {len(self.sent)}"
        rows = self.sent.setdefault(run, [])

        def log_metrics(values: dict[str, float], step: int) -> None:
            if self.fails:
                raise ConnectionError("no answer")
            rows.append((step, values))

        return types.SimpleNamespace(
            version=run,
            experiment=types.SimpleNamespace(finish=lambda exit_code: None),
            log_metrics=log_metrics,
            log_hyperparams=lambda settings: self.settings.setdefault(run, settings),
            finalize=lambda status: self.ends.append((run, status)),
        )


@pytest.fixture(params=NAMES)
def tracker(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def service(tracker: str, monkeypatch: pytest.MonkeyPatch) -> Service:
    """A stand-in for the tracker and for Lightning's logger of it."""
    service = Service()
    client: Any = types.ModuleType(tracker)
    client.get_tracking_uri = lambda: "somewhere"
    client.__spec__ = types.SimpleNamespace(name=tracker)
    loggers: Any = types.ModuleType("lightning.pytorch.loggers")
    setattr(loggers, NAMES[tracker], service.logger)
    monkeypatch.setitem(sys.modules, tracker, client)
    monkeypatch.setitem(sys.modules, "lightning.pytorch.loggers", loggers)
    return service


@pytest.fixture(scope="module")
def blobs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_blobs(tmp_path_factory.mktemp("data") / "blobs.npz")


def expected(folder: Path) -> list[tuple[int, dict[str, float]]]:
    """Return the rows of metrics.csv, as they must be sent."""
    return [
        (int(row["epoch"]), {name: float(row[name]) for name in COLUMNS[1:] if row[name]})
        for row in metrics(folder)
    ]


def test_metrics_and_results_are_sent(
    tmp_path: Path, blobs: Path, tracker: str, service: Service
) -> None:
    config = tiny(blobs)
    result = loop.train(config, tmp_path / "run", log=tracker)
    ((run, sent),) = service.sent.items()
    assert sent[:-1] == expected(tmp_path / "run")
    assert sent[-1][0] == 3
    assert sent[-1][1] == {name: result[name] for name in sent[-1][1]}
    assert set(sent[-1][1]) == {
        f"test_{name}" for name in ("accuracy", "loss", "accuracy_last", "loss_last")
    }
    assert service.settings == {run: config.to_config()}
    assert service.ends == [(run, "success")]


def test_a_resumed_run_continues_its_run(
    tmp_path: Path, blobs: Path, tracker: str, service: Service
) -> None:
    folder = tmp_path / "run"
    with pytest.raises(loop.Interrupted):
        loop.train(tiny(blobs, epochs=4), folder, log=tracker, reporter=interrupt_at(3))
    loop.resume(folder)
    ((run, sent),) = service.sent.items()
    assert service.ends == [(run, "failed"), (run, "success")]
    # The last epoch is sent again, since a killed run may not have sent it.
    steps = [step for step, _ in sent[:-1]]
    assert steps in ([1, 2, 2, 3, 4], [1, 2, 3, 3, 4])
    assert dict(sent[:-1]) == dict(expected(folder))
    loop.resume(folder, epochs=5)
    assert len(service.sent) == len(service.settings) == 1
    assert dict(s for s in sent if "loss" in s[1]) == dict(expected(folder))


def test_diagnoses_are_sent(tmp_path: Path, blobs: Path, tracker: str, service: Service) -> None:
    loop.train(tiny(blobs, diagnose=8), tmp_path / "run", log=tracker)
    (sent,) = service.sent.values()
    diagnosed = {step for step, row in sent if any(name.startswith("diagnose/") for name in row)}
    assert diagnosed == {0, 8, 16}


def test_an_error_of_a_tracker_is_one_line(
    tmp_path: Path, blobs: Path, tracker: str, service: Service
) -> None:
    service.fails = True
    with pytest.raises(RunError, match=rf"{tracker} failed: no answer; .*--resume") as error:
        loop.train(tiny(blobs), tmp_path / "run", log=tracker)
    assert "\n" not in str(error.value)
    service.fails = False
    loop.resume(tmp_path / "run")
    (sent,) = service.sent.values()
    assert sent[:-1] == expected(tmp_path / "run")


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("missing", ["the tracker", "lightning"])
def test_what_to_install_is_said_before_training(
    tmp_path: Path, blobs: Path, name: str, missing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = name if missing == "the tracker" else missing
    monkeypatch.setattr(
        trackers.importlib.util, "find_spec", lambda module: None if module == package else module
    )
    with pytest.raises(OptionError, match=f"install them with: pip install {package}$"):
        loop.train(tiny(blobs), tmp_path / "run", log=name)
    assert not (tmp_path / "run").exists()


def test_unknown_trackers_are_refused(tmp_path: Path, blobs: Path) -> None:
    with pytest.raises(OptionError, match=r"unknown log 'wandbb'.*Did you mean 'wandb'"):
        loop.train(tiny(blobs), tmp_path / "run", log="wandbb")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "content", ["{", "[]", '{"log": "wandb"}', '{"log": "x", "run": null}', '{"log": [], "run": 1}']
)
def test_damaged_records_are_refused(tmp_path: Path, blobs: Path, content: str) -> None:
    loop.train(tiny(blobs, epochs=1), tmp_path / "run")
    (tmp_path / "run" / trackers.FILE).write_text(content)
    with pytest.raises(RunError, match=r"tracker\.json: "):
        loop.resume(tmp_path / "run")


@pytest.mark.filterwarnings("ignore")  # those of the libraries that it stands on
def test_mlflow(tmp_path: Path, blobs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The library itself, with its database in a file."""
    mlflow = pytest.importorskip("mlflow", exc_type=ImportError)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    words = ["--model", "mlp:hidden=4", "--epochs", "3", "--device", "cpu", "--log", "mlflow"]
    main.main(["train", str(blobs), *words, "--out", "run"])
    run = json.loads((tmp_path / "run" / trackers.FILE).read_text())["run"]
    client = mlflow.MlflowClient()
    history = client.get_metric_history(run, "loss")
    assert [(m.step, m.value) for m in history] == [
        (step, row["loss"]) for step, row in expected(tmp_path / "run")
    ]
    assert client.get_run(run).info.status == "FINISHED"

"""Runs with methods: bit-identical after stops, equal to a plain loop, with the method's output.

The oracles are an uninterrupted run, a plain loop with the method (with all data as one batch, so
without the workbench's batches), and the method's own `output`.
"""

import json
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F
from workbench import assert_same_run, read_train, saved_state, tiny, train_with_stops, write_blobs

import lra
from lra.lab.data import load
from lra.lab.networks.build import build_network
from lra.lab.runs import files, trained_network
from lra.lab.training.loop import train

OPTIONS = {
    "predictive-coding": {"steps": 3, "step": 0.2},
    "equilibrium-propagation": {"free_steps": 5, "nudged_steps": 3},
}
"""Options that make the methods fast."""


def method_of(name: str) -> lra.methods.Method:
    method = lra.named(name, **OPTIONS.get(name, {}))
    assert isinstance(method, lra.methods.Method)
    return method


@pytest.fixture(scope="module")
def blobs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_blobs(tmp_path_factory.mktemp("data") / "blobs.npz")


@pytest.mark.parametrize("name", lra.methods.METHODS)
def test_resumed_runs_are_bit_identical(tmp_path: Path, blobs: Path, name: str) -> None:
    config = tiny(blobs, rule=method_of(name))
    train(config, tmp_path / "whole")
    train_with_stops(config, tmp_path / "parts", (3, 9, 17), 8, name)
    assert_same_run(tmp_path / "whole", tmp_path / "parts")


@pytest.mark.parametrize("name", lra.methods.METHODS)
@pytest.mark.parametrize("precision", ["32", "64"])
def test_a_run_of_one_batch_is_a_loop_of_the_method(
    tmp_path: Path, blobs: Path, name: str, precision: str
) -> None:
    method, data = method_of(name), load(str(blobs))
    settings = {"validation": 0, "optimizer": "sgd", "lr": 0.3, "precision": precision}
    config = tiny(blobs, rule=method, batch_size=130, **settings)
    result = train(config, tmp_path / "run")
    dtype = torch.float64 if precision == "64" else torch.float32
    torch.manual_seed(0)
    network = build_network(config, data.sample_shape, data.num_classes)
    method.attach(network, torch.zeros(1, *data.sample_shape))
    network.to(dtype)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.3)
    x, t = torch.from_numpy(data.x_train).to(dtype), torch.from_numpy(data.y_train).long()
    losses = []
    for _ in range(3):
        optimizer.zero_grad()
        losses.append(float(method(network, lambda o: F.cross_entropy(o, t), x)))
        optimizer.step()
    trained = saved_state(tmp_path / "run")["model"]
    # Noise and wrong labels differ, since samples are ordered differently.
    tolerance = 2e-2 if name in ("dtp", "forward-forward") else 1e-4
    assert trained.keys() == network.state_dict().keys()
    for key, value in network.state_dict().items():
        torch.testing.assert_close(trained[key], value, rtol=tolerance, atol=tolerance)
    rows = saved_state(tmp_path / "run")["state"]["rows"]
    assert [row["loss"] for row in rows] == pytest.approx(losses, rel=tolerance)
    assert result["feedback_weights"] == sum(p.numel() for p in method.feedback_parameters(network))
    assert result["rule"] == name


@pytest.mark.parametrize("name", lra.methods.METHODS)
def test_predictions_are_the_methods_own(tmp_path: Path, blobs: Path, name: str) -> None:
    method, data = method_of(name), load(str(blobs))
    train(tiny(blobs, rule=method), tmp_path / "run")
    result = json.loads((tmp_path / "run" / files.RESULT).read_text())
    evaluation = trained_network.evaluate(tmp_path / "run")
    trained = trained_network.load(tmp_path / "run")
    assert data.x_test is not None
    output = method.output(trained.network, torch.from_numpy(data.x_test))
    loss = F.cross_entropy(output, torch.from_numpy(data.y_test).long())
    assert evaluation.loss == pytest.approx(float(loss), rel=1e-6)
    assert result["test_loss"] == pytest.approx(evaluation.loss, rel=1e-6)
    assert result["test_accuracy"] == evaluation.accuracy
    if name == "equilibrium-propagation":
        forward = trained.network(torch.from_numpy(data.x_test)).detach()
        assert (forward - output).abs().max() > 1e-3


def test_command_line_options_of_methods() -> None:
    config, _ = read_train(["digits", "--rule", "predictive-coding:steps=7"])
    assert config.rule == lra.methods.PredictiveCoding(steps=7)
    options = "beta=0.5,free_steps=9,nudged_steps=4,symmetric=false"
    config, _ = read_train(["digits", "--rule", f"equilibrium-propagation:{options}"])
    assert config.rule == lra.methods.EquilibriumPropagation(0.5, 9, 4, symmetric=False)
    config, _ = read_train(["digits", "--rule", "dtp:eta=0.5,sigma=0"])
    assert config.rule == lra.methods.DTP(0.5, 0.0)
    for text, method in (
        ("pepita:scale=0.2", lra.methods.PEPITA(0.2)),
        ("forward-forward:threshold=0.2", lra.methods.ForwardForward(0.2)),
        ("drtp:scale=0.2", lra.methods.DRTP(0.2)),
    ):
        config, _ = read_train(["digits", "--rule", text])
        assert config.rule == method
    with pytest.raises(lra.errors.OptionError, match="unknown option of rule 'dtp' 'beta'"):
        tiny("digits", rule="dtp:beta=1")


def test_unsupported_settings_of_methods_are_refused(tmp_path: Path, blobs: Path) -> None:
    with pytest.raises(lra.errors.OptionError, match="devices must be 1 for the method dtp; got 2"):
        tiny(blobs, rule=lra.methods.DTP(), devices=2)
    with pytest.raises(
        lra.errors.MethodError, match="EquilibriumPropagation does not support this"
    ):
        train(
            tiny(blobs, rule=lra.methods.EquilibriumPropagation(), model="residual-mlp"),
            tmp_path / "run",
        )
    assert not (tmp_path / "run").exists()
    with pytest.raises(
        lra.errors.OptionError, match="predictive-coding learns no feedback weights"
    ):
        train(tiny(blobs, rule=lra.methods.PredictiveCoding(), feedback_lr=0.1), tmp_path / "run")
    train(tiny(blobs, rule=lra.methods.DTP(), feedback_lr=0.0), tmp_path / "run")
    torch.manual_seed(0)
    network = build_network(tiny(blobs), (2, 3), 3)
    start = lra.methods.DTP().attach(network, torch.zeros(1, 2, 3)).state_dict()
    trained = saved_state(tmp_path / "run")["model"]
    same = {key for key in start if torch.equal(start[key], trained[key])}
    assert same == {"3.inverse.weight", "3.inverse.bias"}

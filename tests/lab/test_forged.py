"""Forged checkpoints: with a valid checksum, but not what the run would have saved."""

import copy
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from workbench import assert_same_run, checkpoint_bytes, saved_state, tiny, write_blobs

from lra.errors import DataError, RunError
from lra.lab.runs import checkpoint
from lra.lab.training.loop import resume, train

State = dict[str, Any]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a finished run and its data."""
    folder = tmp_path_factory.mktemp("home")
    write_blobs(folder / "blobs.npz")
    train(tiny(folder / "blobs.npz"), folder / "run")
    return folder


def adam(state: State) -> State:
    moments: State = state["optimizer"]["state"]
    return moments


def first(state: State) -> Any:
    return next(iter(state))


FORGERIES: dict[str, tuple[Callable[[State], Any], str]] = {
    "moments too small": (
        lambda s: adam(s)[0].update(exp_avg=torch.zeros(1)),
        r"state, 0, exp_avg: expected a tensor of torch.float32 and shape \(7, 6\)",
    ),
    "moments that overlap": (
        lambda s: adam(s)[0].update(exp_avg=torch.zeros(1).expand(7, 6)),
        "state, 0, exp_avg: expected",
    ),
    "moments of another type": (
        lambda s: adam(s)[0].update(exp_avg_sq=torch.zeros(7, 6, dtype=torch.float64)),
        "state, 0, exp_avg_sq: expected a tensor of torch.float32",
    ),
    "moments that are sparse": (
        lambda s: adam(s)[0].update(exp_avg=torch.zeros(7, 6).to_sparse()),
        "state, 0, exp_avg: expected",
    ),
    "moments that are a number": (lambda s: adam(s)[0].update(exp_avg=0), "exp_avg: expected"),
    "a moment of decay": (
        lambda s: adam(s)[0].update(offset_momentum=torch.zeros(7, 6)),
        "state, 0, offset_momentum: expected",
    ),
    "missing moments": (lambda s: adam(s)[0].pop("exp_avg"), "state, 0: names.*exp_avg"),
    "a step of the wrong shape": (
        lambda s: adam(s)[0].update(step=torch.ones(4)),
        r"state, 0, step: expected a tensor of torch.float32 and shape \(\)",
    ),
    "state of a missing weight": (
        lambda s: adam(s).update({99: {}}),
        "optimizer, state: names .*99",
    ),
    "state that is a list": (
        lambda s: s["optimizer"].update(state=[]),
        "state: expected a mapping",
    ),
    "groups": (
        lambda s: s["optimizer"].update(param_groups=[]),
        "optimizer, param_groups: expected a li",
    ),
    "group of other weights": (
        lambda s: s["optimizer"]["param_groups"][0].update(
            params=s["optimizer"]["param_groups"][0]["params"][::-1]
        ),
        "param_groups, 0, params: expected",
    ),
    "betas": (
        lambda s: s["optimizer"]["param_groups"][0].update(betas=(2.0, 0.5)),
        r"param_groups, 0, betas: expected \(0.9, 0.999\), found a tuple",
    ),
    "betas that are tensors": (
        lambda s: s["optimizer"]["param_groups"][0].update(betas=(torch.ones(3), torch.ones(3))),
        "param_groups, 0, betas: expected",
    ),
    "a setting that is a tensor": (
        lambda s: s["optimizer"]["param_groups"][0].update(eps=torch.ones(3)),
        "param_groups, 0, eps: expected",
    ),
    "data that are a tensor": (lambda s: s.update(data=torch.ones(3)), "data: expected '"),
    "step size": (
        lambda s: s["optimizer"]["param_groups"][0].update(lr=float("nan")),
        "param_groups, 0, lr",
    ),
    "weights": (
        lambda s: s["model"].update({first(s["model"]): torch.zeros(2)}),
        r"model, 1.weight: expected a tensor of torch.float32 and shape \(7, 6\)",
    ),
    "unexpected weights": (lambda s: s["model"].update(more=torch.zeros(1)), "model: .*'more'"),
    "no weights": (lambda s: s.update(model=None), "model: expected a mapping, found NoneType"),
    "random state": (
        lambda s: s.update(rng=torch.zeros(3, dtype=torch.uint8)),
        "rng: expected a state of torch",
    ),
    "random state of CUDA": (lambda s: s.update(cuda_rng=None), "cuda_rng: expected a list"),
    "best weights": (
        lambda s: s["state"]["best_weights"].pop("1.weight"),
        "state, best_weights: names .*'1.weight'",
    ),
    "epoch": (lambda s: s["state"].update(epoch=2), "state, epoch: expected a whole number from 3"),
    "step": (
        lambda s: s["state"].update(step=9),
        "state, step: expected a whole number from 0 to 8",
    ),
    "a step that is not a number": (lambda s: s["state"].update(step="1"), "state, step: expected"),
    "best epoch": (lambda s: s["state"].update(best_epoch=0), "state, best_epoch: expected"),
    "seconds": (lambda s: s["state"].update(seconds=None), "state, seconds: expected a finite"),
    "rows": (
        lambda s: s["state"].update(rows={}),
        "state, rows: expected a list of length 0, found dict",
    ),
    "a row": (lambda s: s["state"]["rows"][1].pop("loss"), "state, rows, 1: names .*'loss'"),
    "a figure": (lambda s: s["state"]["rows"][1].update(loss="x"), "rows, 1, loss: expected"),
    "a missing part": (lambda s: s.pop("optimizer"), "checkpoint: names .*'optimizer'"),
    "an unexpected part": (lambda s: s.update(hook=1), "checkpoint: names .*'hook'"),
    "names that are not strings": (lambda s: s["config"].update({3: 4}), "another configuration"),
    "a tensor for a setting": (
        lambda s: s["config"].update(lr=torch.zeros(9)),
        "another configuration",
    ),
}


@pytest.mark.parametrize("name", FORGERIES)
def test_a_forged_checkpoint_is_refused(home: Path, tmp_path: Path, name: str) -> None:
    """The error has one line per file, and nothing is loaded. A valid older one is used."""
    forge, message = FORGERIES[name]
    config = tiny(home / "blobs.npz")
    train(config, tmp_path / "run")
    state = copy.deepcopy(saved_state(tmp_path / "run"))
    forge(state)
    good = (tmp_path / "run" / checkpoint.PREVIOUS).read_bytes()
    for file in (checkpoint.NAME, checkpoint.PREVIOUS):
        (tmp_path / "run" / file).write_bytes(checkpoint_bytes(state))
    with pytest.raises(RunError, match=message) as error:
        resume(tmp_path / "run")
    lines = str(error.value).splitlines()
    assert len(lines) == 4
    assert re.search(message, lines[1])
    (tmp_path / "run" / checkpoint.PREVIOUS).write_bytes(good)
    resume(tmp_path / "run")
    assert_same_run(home / "run", tmp_path / "run")


def test_changed_data_are_refused(home: Path, tmp_path: Path) -> None:
    with np.load(home / "blobs.npz") as arrays:
        content = dict(arrays)
    path = tmp_path / "blobs.npz"
    np.savez(path, **content)
    train(tiny(path), tmp_path / "run")
    before = (tmp_path / "run" / checkpoint.NAME).read_bytes()
    for name in content:
        other = content[name].copy()
        other.flat[3] += 1 if other.flat[3] != 2 else -1
        np.savez(path, **content | {name: other})
        with pytest.raises(DataError, match=r"blobs.npz differs from the data .* Remedy"):
            resume(tmp_path / "run")
    np.savez_compressed(path, **content)  # the same data in another file
    resume(tmp_path / "run")
    assert (tmp_path / "run" / checkpoint.NAME).read_bytes() == before

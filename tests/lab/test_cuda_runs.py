"""Runs on a CUDA device: resumed runs are bit-identical to uninterrupted ones."""

from pathlib import Path
from typing import Any

import pytest
import torch
from workbench import assert_same_run, tiny, train_with_stops, write_blobs

import lra
from lra.lab.runs import plots
from lra.lab.training.loop import train

pytestmark = [
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # from torch's compiler
]
SETTINGS: dict[str, dict[str, Any]] = {
    "lra-e": {},
    "mirrored-lra, bf16": {"rule": lra.MirroredLRA(samples=100), "precision": "bf16-mixed"},
    "drawn per batch": {
        "rule": lra.SignSymmetry(lra.feedback.Magnitude.BATCH),
        "model": "mlp:hidden=7-5,activation=rrelu",
    },
    "compiled": {"compile": "always"},
}


@pytest.mark.parametrize("name", SETTINGS)
def test_resumed_runs_are_bit_identical(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(plots, "save", lambda *args, **more: None)
    blobs = write_blobs(tmp_path / "blobs.npz")
    config = tiny(blobs, device="cuda", **SETTINGS[name])
    train(config, tmp_path / "whole")
    train_with_stops(config, tmp_path / "run", [3, 11, 17], 8, seed=name)
    assert_same_run(tmp_path / "whole", tmp_path / "run")

"""Checkpoints: intact at any time, and read only if they are intact, fit, and hold no code."""

import errno
import os
import pickle
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from workbench import checkpoint_bytes, differences

from lra.errors import RunError
from lra.lab.runs import checkpoint
from lra.lab.runs.checkpoint import NAME, PREVIOUS, latest, load, save, write_atomically
from lra.lab.settings.config import TrainConfig

CONFIG = TrainConfig("digits", model="mlp:hidden=4-3").to_config()
NEW = f"{NAME}.new"
UNFIT = r"truncated or altered|not a checkpoint of this program"


def state_of(number: int) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(number)
    return {
        "config": CONFIG,
        "number": number,
        "model": {"W": torch.randn(3, 4, generator=generator), "E": torch.ones(2).double()},
        "rows": [{"epoch": 1, "loss": 0.1, "validation_accuracy": None}],
        "pair": (1, "two"),
    }


class Killed(BaseException):
    """Stands for the end of the process: no `except OSError` catches it."""


def break_at(
    monkeypatch: pytest.MonkeyPatch, step: int, failure: Callable[[], BaseException]
) -> list[str]:
    """Make the step-th call that changes the disk fail before it has any effect."""
    calls: list[str] = []

    def breaking(name: str, original: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            calls.append(name)
            if len(calls) == step:
                raise failure()
            return original(*arguments, **options)

        return call

    monkeypatch.setattr(os, "fsync", breaking("fsync", os.fsync))
    monkeypatch.setattr(Path, "replace", breaking("replace", Path.replace))
    return calls


def test_round_trip(tmp_path: Path) -> None:
    state = state_of(1)
    save(tmp_path, state)
    assert not differences(load(tmp_path / NAME, CONFIG), state)
    loaded, problems = latest(tmp_path, CONFIG)
    assert not differences(loaded, state)
    assert problems == []
    assert [p.name for p in tmp_path.iterdir()] == [NAME]


def test_the_last_checkpoint_stays_as_the_previous_one(tmp_path: Path) -> None:
    for number in (1, 2, 3):
        save(tmp_path, state_of(number))
    assert load(tmp_path / NAME, CONFIG)["number"] == 3
    assert load(tmp_path / PREVIOUS, CONFIG)["number"] == 2
    assert sorted(p.name for p in tmp_path.iterdir()) == [NAME, PREVIOUS]


def test_content_is_flushed_before_it_is_renamed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = break_at(monkeypatch, 0, Killed)
    write_atomically(tmp_path / "a", b"content")
    assert calls == ["fsync", "replace", "fsync"]  # file, rename, folder


# writing while the disk fails or the process ends


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO])
@pytest.mark.parametrize("step", [1, 2, 3])
def test_a_failing_disk_leaves_an_intact_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int, code: int
) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")
    break_at(monkeypatch, step, lambda: OSError(code, os.strerror(code)))
    reason = "the disk is full" if code == errno.ENOSPC else "Input/output error"
    with pytest.raises(RunError, match=rf"cannot write .*file: .*{reason}"):
        write_atomically(path, b"new content")
    assert path.read_bytes() == (b"old" if step < 3 else b"new content")
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


class FullFile:
    """A file on a disk with room for only a few more bytes."""

    def __init__(self, file: Any) -> None:
        self.file = file

    def __enter__(self) -> "FullFile":
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()

    def write(self, content: bytes) -> int:
        self.file.write(content[:5])
        raise OSError(errno.ENOSPC, "No space left on device")


def test_a_disk_that_fills_while_writing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(tmp_path, state_of(1))
    original = Path.open
    monkeypatch.setattr(Path, "open", lambda self, mode: FullFile(original(self, mode)))
    with pytest.raises(RunError, match=r"cannot write .*checkpoint.*: the disk is full"):
        save(tmp_path, state_of(2))
    monkeypatch.undo()
    assert latest(tmp_path, CONFIG)[0]["number"] == 1
    assert [p.name for p in tmp_path.iterdir()] == [NAME]


def no_space() -> OSError:
    return OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize(("failure", "error"), [(Killed, Killed), (no_space, RunError)])
@pytest.mark.parametrize("before", [0, 1, 2])
def test_saving_loses_nothing_at_any_step(
    tmp_path: Path, before: int, failure: Callable[[], BaseException], error: type[BaseException]
) -> None:
    """With none, one or two checkpoints, fail at each step, then read, and save again."""
    steps = 6 if before else 5  # flush, rename, flush; rename the last one; rename, flush
    for step in range(1, steps + 2):
        folder = tmp_path / str(step)
        folder.mkdir()
        for number in range(before):
            save(folder, state_of(number))
        with pytest.MonkeyPatch.context() as patch:
            calls = break_at(patch, step, failure)
            if step > steps:
                save(folder, state_of(before))
                assert len(calls) == steps
            else:
                full = r"cannot write .*checkpoint.*the disk is full"
                with pytest.raises(error, match=None if error is Killed else full):
                    save(folder, state_of(before))
        renamed = "replace" in calls[: step - 1]
        if before or renamed:
            loaded, problems = latest(folder, CONFIG)
            assert problems == []
            assert not differences(loaded, state_of(before if renamed else before - 1))
        else:
            with pytest.raises(RunError, match="no checkpoint"):
                latest(folder, CONFIG)
        save(folder, state_of(9))
        loaded, problems = latest(folder, CONFIG)
        assert (loaded["number"], problems) == (9, [])


# reading damaged files


def test_truncation_at_any_byte_is_detected(tmp_path: Path) -> None:
    whole = checkpoint_bytes(state_of(1))
    path = tmp_path / NAME
    cuts = {0, 1, 16, 17, 18, 48, 49, 50, len(whole) - 1}
    cuts |= set(random.Random(0).sample(range(len(whole)), 60))
    for cut in cuts:
        path.write_bytes(whole[:cut])
        with pytest.raises(RunError, match=UNFIT) as e:
            load(path, CONFIG)
        assert str(path) in str(e.value)
    path.write_bytes(whole + b"\0")
    with pytest.raises(RunError, match="truncated or altered"):
        load(path, CONFIG)
    path.write_bytes(whole)
    assert load(path, CONFIG)["number"] == 1


def test_a_flipped_bit_in_any_byte_is_detected(tmp_path: Path) -> None:
    whole = checkpoint_bytes(state_of(1))
    path = tmp_path / NAME
    for at in {0, 16, 17, 48, 49, len(whole) - 1, *random.Random(1).sample(range(len(whole)), 60)}:
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 0x10]) + whole[at + 1 :])
        with pytest.raises(RunError, match=UNFIT):
            load(path, CONFIG)


@pytest.mark.parametrize(
    "content",
    [
        lambda: checkpoint_bytes([1, 2]),
        lambda: checkpoint_bytes({"number": 1}),
        lambda: checkpoint_bytes({"config": "digits"}),
        lambda: b"",
        lambda: b"lra-checkpoint-2\n" + checkpoint_bytes(state_of(1))[17:],
    ],
    ids=["a list", "no config", "config no mapping", "empty", "another version"],
)
def test_files_that_are_not_checkpoints(tmp_path: Path, content: Callable[[], bytes]) -> None:
    (tmp_path / NAME).write_bytes(content())
    with pytest.raises(RunError, match="not a checkpoint of this program"):
        load(tmp_path / NAME, CONFIG)


def test_a_missing_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"checkpoint: cannot be read \(No such file"):
        load(tmp_path / NAME, CONFIG)


def test_another_configuration_lists_the_differences(tmp_path: Path) -> None:
    save(tmp_path, state_of(1))
    other = TrainConfig("digits", model="mlp:hidden=4-3", lr=0.5, optimizer="sgd").to_config()
    with pytest.raises(RunError, match="from another configuration") as e:
        load(tmp_path / NAME, other)
    assert "lr: 0.001 there, 0.5 here" in str(e.value)
    assert "optimizer: 'adamw' there, 'sgd' here" in str(e.value)
    assert "model" not in str(e.value)


# files that would run code


class Code:
    """Unpickles by writing a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.write_text, (self.path, "ran")


def malicious(target: Path) -> list[bytes]:
    state = state_of(1) | {"extra": Code(target)}
    return [
        checkpoint_bytes(state),
        checkpoint.seal(pickle.dumps(state)),
        checkpoint.seal(pickle.dumps(Code(target))),
    ]


@pytest.mark.parametrize("kind", [0, 1, 2])
def test_code_is_refused_and_does_not_run(tmp_path: Path, kind: int) -> None:
    target = tmp_path / "ran"
    content = malicious(target)[kind]
    (tmp_path / NAME).write_bytes(content)
    with pytest.raises(RunError, match="refused, since it holds more than plain data"):
        load(tmp_path / NAME, CONFIG)
    assert not target.exists()
    if kind:  # the file would have run its code
        pickle.loads(content[len(checkpoint.MAGIC) + 32 :])
        assert target.read_text() == "ran"


# which checkpoint is loaded


def test_the_previous_valid_checkpoint_is_used(tmp_path: Path) -> None:
    save(tmp_path, state_of(1))
    save(tmp_path, state_of(2))
    bad = malicious(tmp_path / "ran")[0]
    (tmp_path / NAME).write_bytes(bad)
    loaded, (problem,) = latest(tmp_path, CONFIG)
    assert loaded["number"] == 1
    assert str(tmp_path / NAME) in problem
    assert "might run code" in problem
    assert not (tmp_path / "ran").exists()
    assert (tmp_path / f"{NAME}.refused").read_bytes() == bad
    assert not (tmp_path / NAME).exists()
    # The valid one is the newest again: the next save must not replace it by the invalid one.
    save(tmp_path, state_of(3))
    assert load(tmp_path / NAME, CONFIG)["number"] == 3
    assert load(tmp_path / PREVIOUS, CONFIG)["number"] == 1


def test_an_invalid_new_checkpoint_is_skipped(tmp_path: Path) -> None:
    save(tmp_path, state_of(1))
    (tmp_path / NEW).write_bytes(checkpoint_bytes(state_of(2))[:-9])
    loaded, (problem,) = latest(tmp_path, CONFIG)
    assert loaded["number"] == 1
    assert "truncated" in problem
    assert (tmp_path / f"{NEW}.refused").exists()
    assert latest(tmp_path, CONFIG)[1] == []


def test_two_invalid_checkpoints_are_skipped(tmp_path: Path) -> None:
    for number in (1, 2):
        save(tmp_path, state_of(number))
    (tmp_path / NAME).write_bytes(b"noise")
    (tmp_path / NEW).write_bytes(b"")
    loaded, problems = latest(tmp_path, CONFIG)
    assert loaded["number"] == 1
    assert len(problems) == 2
    left = {f"{NEW}.refused", PREVIOUS, f"{NAME}.refused"}
    assert {p.name for p in tmp_path.iterdir()} == left


def test_no_checkpoint_is_valid(tmp_path: Path) -> None:
    save(tmp_path, state_of(1))
    save(tmp_path, state_of(2))
    (tmp_path / NAME).write_bytes(b"noise")
    (tmp_path / PREVIOUS).write_bytes(checkpoint_bytes(state_of(1))[:-1])
    (tmp_path / NEW).write_bytes(malicious(tmp_path / "ran")[0])
    before = sorted(p.name for p in tmp_path.iterdir())
    with pytest.raises(RunError, match="no checkpoint to resume from") as e:
        latest(tmp_path, CONFIG)
    reasons = {NAME: "not a checkpoint", PREVIOUS: "truncated", NEW: "might run code"}
    for name, reason in reasons.items():
        assert f"{tmp_path / name}: " in str(e.value)
        assert reason in str(e.value)
    assert "lra train ... --out" in str(e.value)
    assert sorted(p.name for p in tmp_path.iterdir()) == before


def test_no_checkpoint_exists(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="no checkpoint to resume from: it has none"):
        latest(tmp_path, CONFIG)

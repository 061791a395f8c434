"""Validation of a checkpoint's content: names, types and shapes that this run would have saved.

A checksum proves that a checkpoint is intact, not where it comes from. So its content is compared
with a fresh network and optimizer before any of it is loaded: kernels trust the shapes that they
are given.
"""

import copy
import math
from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from lra.errors import RunError, one_line
from lra.lab.runs.state import COLUMNS, State
from lra.torch.optimizer_hooks import MOMENTUM


def check_structure(value: Any, expected: Any, where: str) -> None:
    """Check that a value has the expected names, types, shapes and dtypes.

    Numbers and strings may differ.

    Raises:
        RunError: with the location, the expected and the actual value.
    """
    match expected:
        case Mapping():
            check_names(value, expected, where)
            for name in expected:
                check_structure(value[name], expected[name], f"{where}, {name}")
        case list() | tuple():
            same = type(value) is type(expected) and len(value) == len(expected)
            _require(same, where, _describe(expected), value)
            for i, (item, expected_item) in enumerate(zip(value, expected, strict=True)):
                check_structure(item, expected_item, f"{where}, {i}")
        case Tensor():
            _require(_same_layout(value, expected), where, _describe(expected), value)
        case _:
            _require(type(value) is type(expected), where, _describe(expected), value)


def check_names(value: Any, names: Collection[Any], where: str) -> None:
    """Check that a value is a mapping with exactly these names.

    Raises:
        RunError: with the missing and the unexpected names.
    """
    _require(isinstance(value, dict), where, "a mapping", value)
    if different := value.keys() ^ set(names):
        listed = ", ".join(sorted(f"{name!r}"[:80] for name in different)[:5])
        raise RunError(f"{where}: names that are missing or unexpected: {listed}")


def check_optimizer(saved: Any, optimizer: torch.optim.Optimizer) -> None:
    """Check a saved optimizer state against that of a copy of this optimizer after one step.

    The step has learning rate 0 and zero gradients.

    Raises:
        RunError: names, types, shapes or settings differ.
    """
    trial = copy.deepcopy(optimizer)
    for group in trial.param_groups:
        group["lr"] = 0.0
        for parameter in group["params"]:
            parameter.grad = torch.zeros_like(parameter)
    trial.step()
    expected = trial.state_dict()
    check_names(saved, expected, "optimizer")
    check_structure(saved["param_groups"], expected["param_groups"], "optimizer, group")
    pairs = zip(saved["param_groups"], expected["param_groups"], strict=True)
    for i, (group, expected_group) in enumerate(pairs):
        for name, value in expected_group.items():
            good = _finite(group[name]) if name == "lr" else group[name] == value  # lr is scheduled
            _require(good, f"optimizer, group {i}, {name}", repr(value), group[name])
    state = saved["state"]
    _require(isinstance(state, dict), "optimizer, state", "a mapping", state)
    for index, entries in state.items():  # a weight without an update so far has no entry
        _require(index in expected["state"], "optimizer, state", "a weight's number", index)
        where = f"optimizer, state of weight {index}"
        if isinstance(entries, dict) and MOMENTUM in entries:  # of shared feedback's decay
            if type(entries[MOMENTUM]) is not float:  # a number before anything has decayed
                like = expected["state"][index].get("momentum_buffer")
                check_structure(entries[MOMENTUM], like, f"{where}, {MOMENTUM}")
            entries = {name: entries[name] for name in entries if name != MOMENTUM}
        check_structure(entries, expected["state"][index], where)


def check_state(saved: Any, steps: int, weights: Mapping[str, Tensor]) -> None:
    """Check the saved fields of a `State`, with numbers that are possible in a run.

    Args:
        saved: the fields.
        steps: the number of steps in an epoch.
        weights: the plain network's weights.

    Raises:
        RunError: a name, type or number is impossible.
    """
    check_names(saved, vars(State()), "state")
    rows, best = saved["rows"], saved["best_epoch"]
    _require(isinstance(rows, list), "state, rows", "a list", rows)
    for name, least, most in (
        ("epoch", len(rows), len(rows)),
        ("step", 0, steps),
        ("correct", 0, math.inf),
        ("best_epoch", min(len(rows), 1), len(rows)),
    ):
        good = type(saved[name]) is int and least <= saved[name] <= most
        _require(good, f"state, {name}", f"a whole number from {least} to {most}", saved[name])
    for name in ("loss_sum", "seconds"):
        _require(_finite(saved[name]), f"state, {name}", "a finite number", saved[name])
    for i, row in enumerate(rows):
        where = f"state, epoch {i + 1}"
        check_names(row, COLUMNS, where)
        for name in COLUMNS:
            absent = row[name] is None and name.startswith("validation")
            good = row[name] == i + 1 if name == "epoch" else absent or _finite(row[name])
            _require(good, f"{where}, {name}", "a finite number", row[name])
    check_structure(saved["best_weights"], weights if best else {}, "state, best weights")


def check_random(cpu: Any, cuda: Any) -> None:
    """Check the saved states of torch's random generators.

    CUDA states are ignored on a machine without CUDA.

    Raises:
        RunError: a state is invalid.
    """
    check_structure(cpu, torch.get_rng_state(), "random state")
    try:
        torch.Generator().set_state(cpu)
    except RuntimeError as error:
        raise RunError(f"random state: {one_line(error)}") from error
    _require(isinstance(cuda, list), "random state of CUDA", "a list", cuda)
    if cuda and torch.cuda.is_available():
        check_structure(cuda, torch.cuda.get_rng_state_all(), "random state of CUDA")


def _finite(value: Any) -> bool:
    return type(value) is float and math.isfinite(value)


def _same_layout(value: Any, expected: Tensor) -> bool:
    return (
        type(value) in (Tensor, nn.Parameter)
        and (value.layout, value.device.type) == (torch.strided, "cpu")
        and (value.dtype, value.shape) == (expected.dtype, expected.shape)
        and (value.stride() == expected.stride() or value.numel() < 2)
    )


def _require(good: bool, where: str, expected: str, value: Any) -> None:
    if not good:
        raise RunError(f"{where}: expected {expected}, found {_describe(value)}")


def _describe(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"a tensor of {value.dtype} and shape {tuple(value.shape)}"
    if isinstance(value, (list, tuple)):
        return f"a {type(value).__name__} of length {len(value)}"
    return f"{value!r:.80}" if isinstance(value, (int, float, str)) else type(value).__name__

"""Whether what a checkpoint holds is what this run would have saved: names, types, shapes.

A checkpoint's checksum tells that it is whole, not who wrote it. Everything is held against what a
fresh network and optimizer have, before any of it is taken over: kernels trust the shapes that they
are given.
"""

import copy
import math
from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from lra.errors import RunError, one_line
from lra.lab.state import COLUMNS, State
from lra.torch.share import MOMENTUM


def check_like(found: Any, expected: Any, where: str) -> None:
    """Require the same names, types, shapes and dtypes; numbers and texts may be others.

    Raises:
        RunError: naming the place, what is expected there, and what is.
    """
    match expected:
        case Mapping():
            check_names(found, expected, where)
            for name in expected:
                check_like(found[name], expected[name], f"{where}, {name}")
        case list() | tuple():
            same = type(found) is type(expected) and len(found) == len(expected)
            _require(same, where, _kind(expected), found)
            for i, (one, other) in enumerate(zip(found, expected, strict=True)):
                check_like(one, other, f"{where}, {i}")
        case Tensor():
            _require(_alike(found, expected), where, _kind(expected), found)
        case _:
            _require(type(found) is type(expected), where, _kind(expected), found)


def check_names(found: Any, names: Collection[Any], where: str) -> None:
    """Require a mapping with these names, and no others.

    Raises:
        RunError: naming the ones that are lacking or too many.
    """
    _require(isinstance(found, dict), where, "a mapping", found)
    if other := found.keys() ^ set(names):
        listed = ", ".join(sorted(f"{name!r}"[:80] for name in other)[:5])
        raise RunError(f"{where}: names that are lacking or too many: {listed}")


def check_optimizer(found: Any, optimizer: torch.optim.Optimizer) -> None:
    """Require an optimizer's state as a fresh one's after a step, which a copy takes, of size 0.

    Raises:
        RunError: where names, types, shapes or settings are others.
    """
    trial = copy.deepcopy(optimizer)
    for group in trial.param_groups:
        group["lr"] = 0.0
        for parameter in group["params"]:
            parameter.grad = torch.zeros_like(parameter)
    trial.step()
    expected = trial.state_dict()
    check_names(found, expected, "optimizer")
    check_like(found["param_groups"], expected["param_groups"], "optimizer, group")
    pairs = zip(found["param_groups"], expected["param_groups"], strict=True)
    for i, (group, known) in enumerate(pairs):
        for name, value in known.items():
            good = _finite(group[name]) if name == "lr" else group[name] == value  # lr is scheduled
            _require(good, f"optimizer, group {i}, {name}", repr(value), group[name])
    state = found["state"]
    _require(isinstance(state, dict), "optimizer, state", "a mapping", state)
    for index, of_weight in state.items():  # a weight that had no update yet has none
        _require(index in expected["state"], "optimizer, state", "a weight's number", index)
        where = f"optimizer, state of weight {index}"
        if isinstance(of_weight, dict) and MOMENTUM in of_weight:  # of shared feedback's decay
            _require(_finite(of_weight[MOMENTUM]), where, "a finite number", of_weight[MOMENTUM])
            of_weight = {name: of_weight[name] for name in of_weight if name != MOMENTUM}
        check_like(of_weight, expected["state"][index], where)


def check_state(found: Any, steps: int, weights: Mapping[str, Tensor]) -> None:
    """Require the fields of a `State`, with numbers that a run can have.

    Args:
        found: the fields.
        steps: how many an epoch has.
        weights: the plain network's.

    Raises:
        RunError: where a name, a type or a number is none that a run can have.
    """
    check_names(found, vars(State()), "state")
    rows, best = found["rows"], found["best_epoch"]
    _require(isinstance(rows, list), "state, rows", "a list", rows)
    for name, least, most in (
        ("epoch", len(rows), len(rows)),
        ("step", 0, steps),
        ("correct", 0, math.inf),
        ("best_epoch", min(len(rows), 1), len(rows)),
    ):
        good = type(found[name]) is int and least <= found[name] <= most
        _require(good, f"state, {name}", f"a whole number from {least} to {most}", found[name])
    for name in ("loss_sum", "seconds"):
        _require(_finite(found[name]), f"state, {name}", "a finite number", found[name])
    for i, row in enumerate(rows):
        where = f"state, epoch {i + 1}"
        check_names(row, COLUMNS, where)
        for name in COLUMNS:
            absent = row[name] is None and name.startswith("validation")
            good = row[name] == i + 1 if name == "epoch" else absent or _finite(row[name])
            _require(good, f"{where}, {name}", "a finite number", row[name])
    check_like(found["best_weights"], weights if best else {}, "state, best weights")


def check_random(cpu: Any, cuda: Any) -> None:
    """Require the states of torch's random generators; a run may move to a machine without CUDA.

    Raises:
        RunError: where one is none.
    """
    check_like(cpu, torch.get_rng_state(), "random state")
    try:
        torch.Generator().set_state(cpu)
    except RuntimeError as error:
        raise RunError(f"random state: {one_line(error)}") from error
    _require(isinstance(cuda, list), "random state of CUDA", "a list", cuda)
    if cuda and torch.cuda.is_available():
        check_like(cuda, torch.cuda.get_rng_state_all(), "random state of CUDA")


def _finite(value: Any) -> bool:
    return type(value) is float and math.isfinite(value)


def _alike(found: Any, expected: Tensor) -> bool:
    return (
        type(found) in (Tensor, nn.Parameter)
        and (found.layout, found.device.type) == (torch.strided, "cpu")
        and (found.dtype, found.shape) == (expected.dtype, expected.shape)
        and (found.stride() == expected.stride() or found.numel() < 2)
    )


def _require(good: bool, where: str, expected: str, found: Any) -> None:
    if not good:
        raise RunError(f"{where}: expected {expected}, found {_kind(found)}")


def _kind(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"a tensor of {value.dtype} and shape {tuple(value.shape)}"
    if isinstance(value, (list, tuple)):
        return f"a {type(value).__name__} of length {len(value)}"
    return f"{value!r:.80}" if isinstance(value, (int, float, str)) else type(value).__name__

"""Validation of a checkpoint's content: names, types and shapes that this run would have saved.

A checksum proves that a checkpoint is intact, not where it comes from. So its content is compared
with a fresh network and optimizer before any of it is loaded: kernels trust the shapes that they
are given.
"""

import copy
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lra.errors import RunError
from lra.lab.runs.state import COLUMNS, State
from lra.torch.optimizer_hooks import MOMENTUM


@dataclass(frozen=True)
class Matching:
    """Stands for all values that pass a test."""

    description: str
    test: Callable[[Any], bool]


ANY = Matching("any value", lambda value: True)
LIST = Matching("a list", lambda value: isinstance(value, list))
_NUMBER = Matching("a finite number", lambda value: type(value) is float and math.isfinite(value))
_FIGURE = Matching("a finite number or None", lambda value: value is None or _NUMBER.test(value))


def _whole(least: int, most: float) -> Matching:
    description = f"a whole number from {least} to {most}"
    return Matching(description, lambda value: type(value) is int and least <= value <= most)


def check_structure(value: Any, expected: Any, where: str) -> None:
    """Check that a value has the expected names, types, shapes and dtypes.

    Numbers and strings may differ, unless `Matching` stands for them.

    Raises:
        RunError: with the location, the expected and the actual value.
    """
    match expected:
        case Matching():
            _require(expected.test(value), where, expected.description, value)
        case Mapping():
            _require(isinstance(value, dict), where, "a mapping", value)
            if different := value.keys() ^ expected.keys():
                listed = ", ".join(sorted(f"{name!r}"[:80] for name in different)[:5])
                raise RunError(f"{where}: names that are missing or unexpected: {listed}")
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


def expect_optimizer(saved: Any, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Return the structure of this optimizer's state after a step, for `check_structure`.

    The step is that of a copy, with learning rate 0 and zero gradients.

    Args:
        saved: the state to check, which may lack weights without an update so far.
        optimizer: the optimizer.
    """
    trial = copy.deepcopy(optimizer)
    for group in trial.param_groups:
        group["lr"] = 0.0
        for parameter in group["params"]:
            parameter.grad = torch.zeros_like(parameter)
    trial.step()
    fresh = trial.state_dict()
    groups = [
        {name: _NUMBER if name == "lr" else _equal(value) for name, value in group.items()}
        for group in fresh["param_groups"]
    ]  # lr is scheduled
    entries = saved.get("state") if isinstance(saved, dict) else None
    given: dict[Any, Any] = entries if isinstance(entries, dict) else {}
    state = {index: dict(known) for index, known in fresh["state"].items() if index in given}
    for index, known in state.items():
        known.pop(MOMENTUM, None)
        if (
            isinstance(given[index], dict) and MOMENTUM in given[index]
        ):  # of shared feedback's decay
            started = type(given[index][MOMENTUM]) is not float  # a number before anything decayed
            known[MOMENTUM] = known.get("momentum_buffer") if started else 0.0
    return {"param_groups": groups, "state": state}


def _equal(expected: Any) -> Matching:
    # Tensors in the value could make == raise an error.
    return Matching(repr(expected), lambda value: repr(value) == repr(expected))


def expect_state(saved: Any, steps: int, weights: Mapping[str, Tensor]) -> dict[str, Any]:
    """Return the structure of the fields of a `State`, for `check_structure`.

    Args:
        saved: the fields to check.
        steps: the number of steps in an epoch.
        weights: the plain network's weights.
    """
    rows = saved.get("rows") if isinstance(saved, dict) else None
    n = len(rows) if isinstance(rows, list) else 0
    figures = {
        name: _FIGURE if name.startswith(("validation", "test")) else _NUMBER for name in COLUMNS
    }
    expected: dict[str, Any] = {
        "rows": [figures | {"epoch": _whole(i + 1, i + 1)} for i in range(n)],
        "epoch": _whole(n, n),
        "step": _whole(0, steps),
        "loss_sum": _NUMBER,
        "correct": _whole(0, math.inf),
        "seconds": _NUMBER,
        "best_epoch": _whole(min(n, 1), n),
        "best_weights": weights if n else {},
    }
    assert expected.keys() == vars(State()).keys()
    return expected


def expect_random() -> Matching:
    """Return what a state of torch's random generator is, for `check_structure`."""

    def loads(value: Any) -> bool:
        try:
            check_structure(value, torch.get_rng_state(), "random state")
            torch.Generator().set_state(value)
        except RuntimeError:  # of RunError too
            return False
        return True

    return Matching("a state of torch's random generator", loads)


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

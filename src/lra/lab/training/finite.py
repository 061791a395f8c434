"""Diagnosis of non-finite numbers: find the layer where they first appear."""

from typing import Any

import torch
from torch import Tensor, nn


def find_nonfinite_weight(network: nn.Module) -> str | None:
    """Return the name of the first parameter that is not finite; None if all are finite."""
    for name, weight in network.named_parameters():
        if not _finite(weight):
            return name
    return None


@torch.no_grad()
def locate_nonfinite(network: nn.Module, x: Tensor) -> str:
    """Describe the first layer whose numbers prevent a finite loss on x, as a phrase."""
    problems: list[str] = []
    names = {module: name for name, module in network.named_modules()}
    last = network

    def title(module: nn.Module) -> str:
        name = f"layer {names[module]}" if names[module] else "the network"
        return f"in {name} ({type(module).__name__.removeprefix('Local')})"

    def before(module: nn.Module, inputs: Any) -> None:
        for kind, weight in module.named_parameters(recurse=False):
            if not _finite(weight):
                problems.append(f"{title(module)}: its {kind} is no longer finite")

    def after(module: nn.Module, inputs: Any, output: Tensor) -> None:
        nonlocal last
        last = module if next(module.children(), None) is None else last
        if not _finite(output):
            problems.append(f"{title(module)}: its output is no longer finite")

    hooks = [module.register_forward_pre_hook(before) for module in names]
    hooks += [module.register_forward_hook(after) for module in names]
    try:
        out = network(x)
    finally:
        for hook in hooks:
            hook.remove()
    large = f"{title(last)}: its outputs, up to {out.abs().max():.1e}, are too large for the loss"
    return problems[0] if problems else large


def _finite(values: Tensor) -> bool:
    return bool(torch.isfinite(values).all())

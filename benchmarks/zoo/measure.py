"""Build an entry of the zoo, and take the gradients of a loss that any model has."""

import dataclasses
import math
import random
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

Example = tuple[Any, ...] | dict[str, Any]
"""What a model is called with: positional arguments, or keyword arguments."""

FLOOR = 1e-6
"""The least scale of a parameter's distance, as a share of the model's largest gradient.

Distances are relative to each parameter's own largest gradient, so that one badly served layer
shows however small its gradients are beside the head's. But some gradients are zero in exact
arithmetic and 1e-18 in floating point (a bias of attention's keys, which softmax ignores), and
relative to such noise every distance is of order 1. Differences of float64 at beta = 1e-4 leave
about 1e-12 of the scale of what is subtracted, so a floor of 1e-6 keeps that noise below 1e-6,
two orders under what beta itself leaves, and sees every gradient down to a millionth.
"""


@dataclasses.dataclass(frozen=True)
class Entry:
    """A model by name; `make` gives a new one with an example, drawn from torch's global seed."""

    name: str
    make: Callable[[], tuple[nn.Module, Example]]
    kind: str = ""


def build(entry: Entry, seed: int = 0) -> tuple[nn.Module, Example]:
    """Build an entry in float64 and eval mode: the same bits for the same seed.

    Dropout is off by eval mode. What initialization leaves constant is moved by noise, and batch
    norm's statistics are set from the example, as if the model had seen some data: a branch that
    starts at zero would hide every layer in it, and a deep network on statistics of 0 and 1 has
    activations that vanish or grow with its depth.
    """
    torch.set_default_dtype(torch.float64)  # and stays so: some make constants in their forward
    random.seed(seed)
    torch.manual_seed(seed)
    model, example = entry.make()
    model = model.double()
    example = doubled(example)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.numel() and parameter.requires_grad:
                first = parameter.flatten()[0]
                if (parameter == first).all():
                    parameter += 0.1 * torch.randn_like(parameter)
    settle(model, example)
    return model.eval(), example


def settle(model: nn.Module, example: Example) -> None:
    """Set batch norm's running statistics from the example, each before the layer's own forward.

    The variance is raised by a tenth of the layer's average and a hundredth of the squared mean:
    two images at one position hardly vary in some channels, and their gain would be enormous.
    """
    model.eval()

    def measure(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        x = inputs[0].detach()
        over = [i for i in range(x.dim()) if i != 1]
        mean, variance = x.mean(over), x.var(over, unbiased=False)
        module.running_mean.copy_(mean)
        module.running_var.copy_(variance + 0.1 * variance.mean() + 0.01 * mean.square())

    handles = [
        module.register_forward_pre_hook(measure)
        for module in model.modules()
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.track_running_stats
    ]
    if not handles:
        return
    with torch.no_grad():
        call(model, example)
    for handle in handles:
        handle.remove()


def doubled(value: Any) -> Any:
    """Turn every floating tensor in nested containers into float64."""
    if isinstance(value, Tensor):
        return value.double() if value.is_floating_point() else value
    if isinstance(value, nn.utils.rnn.PackedSequence):
        return value.double()
    if isinstance(value, Mapping):
        return {key: doubled(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return type(value)(doubled(item) for item in value)
    return value


def call(model: nn.Module, example: Example) -> Any:
    """Call a model with an example, by position or by keyword."""
    return model(**example) if isinstance(example, Mapping) else model(*example)


def leaves(output: Any) -> Iterator[Tensor]:
    """Give the tensors of nested mappings, sequences and dataclasses, in their own order."""
    if isinstance(output, Tensor):
        yield output
    elif isinstance(output, Mapping):
        for item in output.values():
            yield from leaves(item)
    elif isinstance(output, tuple | list):
        for item in output:
            yield from leaves(item)
    elif dataclasses.is_dataclass(output):
        for field in dataclasses.fields(output):
            yield from leaves(getattr(output, field.name))


def loss(model: nn.Module, example: Example, scale: float = 1.0) -> Tensor:
    """Give a fixed random linear functional of the model's floating outputs, each once.

    Linear, so that its own gradient is a constant: the distance to backprop then tells of the
    model's layers alone. Each output's gradient has a length near `scale`. The numbers are drawn
    anew, from one seed, at every call.
    """
    draw = torch.Generator().manual_seed(1)
    seen: set[int] = set()
    parts = []
    for y in leaves(call(model, example)):
        if not (y.is_floating_point() and y.requires_grad) or id(y) in seen:
            continue
        seen.add(id(y))
        if y.isnan().any():
            raise ValueError("the model's output is not a number")
        c = torch.randn(y.shape, generator=draw, dtype=torch.float64)
        # Masked scores hold infinities, or the least number there is, and no gradient.
        parts.append((c * torch.where(y.abs() < 1e30, y, 0.0)).sum() / math.sqrt(y.numel()))
    if not parts:
        raise ValueError("the model gives no floating tensor that needs a gradient")
    return scale * torch.stack(parts).sum()


def begin(model: nn.Module) -> None:
    """Make the next forward like the first: no gradients, no caches, the same random numbers."""
    model.zero_grad(set_to_none=True)
    model.train().eval()  # to train mode and back: some keep eval mode's biases from call to call
    torch.manual_seed(2)  # for models that draw noise in their forward


def gradients(
    model: nn.Module, example: Example, scale: float = 1.0
) -> tuple[float, dict[str, Tensor | None]]:
    """Give the loss, and each parameter's gradient (None: none came), after one backward."""
    begin(model)
    value = loss(model, example, scale)
    value.backward()
    found = {
        name: None if p.grad is None else p.grad.to_dense() if p.grad.is_sparse else p.grad.clone()
        for name, p in model.named_parameters()
        if p.requires_grad and p.numel()
    }
    return value.item(), found


def silent(found: dict[str, Tensor | None]) -> list[str]:
    """Name the parameters that got no gradient, or one that is zero throughout."""
    return [name for name, g in found.items() if g is None or not g.any()]


def largest(found: dict[str, Tensor | None]) -> float:
    """Give the largest absolute entry of all gradients."""
    return max((g.abs().max().item() for g in found.values() if g is not None), default=0.0)


def distances(got: dict[str, Tensor | None], wanted: dict[str, Tensor | None]) -> dict[str, float]:
    """Give max|a - b| / max|b| for each parameter of `wanted`, with FLOOR under the divisor.

    A parameter that gets no gradient counts as getting zeros; extra ones in `got` (feedback
    weights) are not looked at.
    """
    floor = FLOOR * largest(wanted)
    result = {}
    for name, b in wanted.items():
        a = got.get(name)
        if a is None and b is None:
            continue
        if a is None or b is None:
            difference = (a if b is None else b).abs().max().item()
            size = 0.0 if b is None else difference
        else:
            difference, size = (a - b).abs().max().item(), b.abs().max().item()
        result[name] = difference / max(size, floor, 1e-300)
    return result

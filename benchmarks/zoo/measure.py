"""Build an entry of the zoo, and compute gradients of a loss defined for any model."""

import dataclasses
import functools
import importlib
import math
import random
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy
import torch
from torch import Tensor, nn

Example = tuple[Any, ...] | dict[str, Any]
"""The positional or keyword arguments of a model."""

FLOOR = 1e-6
"""The minimum divisor of a parameter's distance, as a share of the model's largest gradient.

Distances are relative to each parameter's own largest gradient, so that a single wrong layer shows
even if its gradients are small. But some gradients are zero in exact arithmetic and 1e-18 in
floating point, such as those of the bias of attention's keys, which softmax ignores. Relative to
such noise every distance is of order 1. In float64, differences at beta = 1e-4 have an error of
about 1e-12 of the subtracted values. A floor of 1e-6 keeps that noise below 1e-6, two orders of
magnitude below the effect of beta, and still checks gradients down to a millionth of the largest.
"""


@dataclasses.dataclass(frozen=True)
class Remedy:
    """What a user does after `lra.convert` or the first step has refused a model.

    Attributes:
        text: what is done, in a few words.
        make: builds the model after a change of its code or options; None if it stays as it is.
        register: the qualified name of an activation to register.
        surrogate: for steps, the smooth function whose slope the model uses in its backward pass.
        arguments: further arguments of `lra.convert`.
        keep: the qualified name of an autograd Function to pass as `skip`.
        refused: whether the model is refused without it. Otherwise it converts, but targets at its
            step functions have no limit to compare with.
    """

    text: str
    make: Callable[[], tuple[nn.Module, Example]] | None = None
    register: str = ""
    surrogate: Callable[[Tensor], Tensor] | None = None
    arguments: dict[str, Any] = dataclasses.field(default_factory=dict)
    keep: str = ""
    refused: bool = True

    def follow(self) -> dict[str, Any]:
        """Register what is to be registered, and return the further arguments of `lra.convert`."""
        if self.register:
            import lra

            smooth = self.surrogate

            class Smooth(lra.crossing.Surrogate):
                def __call__(self, h: Any, xp: Any) -> Any:
                    return smooth(h)

            lra.register_activation(find(self.register), surrogate=Smooth() if smooth else None)
        return {"skip": (find(self.keep),), **self.arguments} if self.keep else self.arguments


@dataclasses.dataclass(frozen=True)
class Entry:
    """A model by name; `make` returns a new one with an example, drawn from torch's generator.

    Attributes:
        kind: where `make` finds the model in its library.
        remedy: for a model that `lra.convert` refuses as it is, what makes it convert.
    """

    name: str
    make: Callable[[], tuple[nn.Module, Example]]
    kind: str = ""
    remedy: Remedy | None = None

    def remedied(self) -> "Entry":
        """Return the entry as it is after its remedy."""
        changed = self.remedy.make if self.remedy else None
        return dataclasses.replace(self, make=changed or self.make)


def find(path: str) -> Any:
    """Return a class or function by its qualified name."""
    module, _, name = path.rpartition(".")
    return getattr(importlib.import_module(module), name)


def load(path: str, *arguments: Any, **options: Any) -> Any:
    """Call a class or function by its qualified name."""
    return find(path)(*arguments, **options)


def entry(
    name: str,
    make: Callable[..., tuple[nn.Module, Example]],
    *arguments: Any,
    remedy: Remedy | None = None,
    **options: Any,
) -> Entry:
    """Return an entry whose model is built from these arguments."""
    return Entry(name, functools.partial(make, *arguments, **options), remedy=remedy)


def build(entry: Entry, seed: int = 0) -> tuple[nn.Module, Example]:
    """Build an entry in float64 and eval mode, reproducibly for a seed.

    Eval mode disables dropout. Noise is added to constant parameters, since a branch that starts at
    zero would hide every layer in it. Batch norm's statistics are set from the example, since with
    the initial ones activations vanish or grow with depth.
    """
    torch.set_default_dtype(torch.float64)  # also for constants created in forward
    random.seed(seed)
    numpy.random.seed(seed)
    torch.manual_seed(seed)
    model, example = entry.make()
    model = model.double()
    for parameter in model.parameters():
        if parameter.is_complex():
            parameter.data = parameter.data.to(torch.complex128)
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
    """Set batch norm's running statistics from the example, in the order of the forward pass.

    The variance is raised by a tenth of the layer's average and a hundredth of the squared mean.
    Without this, channels that hardly vary in the small example would get an enormous gain.
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
    """Convert every floating tensor in nested containers to float64."""
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
    """Call a model with the arguments of an example."""
    return model(**example) if isinstance(example, Mapping) else model(*example)


def leaves(output: Any) -> Iterator[Tensor]:
    """Yield the tensors in nested mappings, sequences and dataclasses, in order."""
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
    """Return a fixed random linear function of the model's floating outputs.

    Its gradient is constant, so that the distance to backprop depends on the model's layers alone.
    The gradient of each output has a length near `scale`. The coefficients are the same in every
    call.
    """
    draw = torch.Generator().manual_seed(1)
    seen: set[int] = set()
    parts = []
    for y in leaves(call(model, example)):
        if not (y.is_floating_point() and y.requires_grad) or id(y) in seen:
            continue
        seen.add(id(y))
        if y.isnan().any():
            raise ValueError("the model's output contains NaN")
        c = torch.randn(y.shape, generator=draw, dtype=torch.float64)
        # Masked scores are -inf or the smallest number, and have no gradient.
        parts.append((c * torch.where(y.abs() < 1e30, y, 0.0)).sum() / math.sqrt(y.numel()))
    if not parts:
        raise ValueError("the model returns no floating tensor that requires a gradient")
    return scale * torch.stack(parts).sum()


def reset(model: nn.Module) -> None:
    """Reset gradients, caches and the random generator, so that every forward pass is the same."""
    model.zero_grad(set_to_none=True)
    model.train().eval()  # clears the biases that some models cache in eval mode
    torch.manual_seed(2)  # for models that draw noise in forward


def gradients(
    model: nn.Module, example: Example, scale: float = 1.0
) -> tuple[float, dict[str, Tensor | None]]:
    """Return the loss, and each parameter's gradient or None, after one backward pass."""
    reset(model)
    value = loss(model, example, scale)
    value.backward()
    found = {
        name: None if p.grad is None else p.grad.to_dense() if p.grad.is_sparse else p.grad.clone()
        for name, p in model.named_parameters()
        if p.requires_grad and p.numel()
    }
    return value.item(), found


def silent(gradients: dict[str, Tensor | None]) -> list[str]:
    """Return the names of the parameters whose gradient is None or zero."""
    return [name for name, g in gradients.items() if g is None or not g.any()]


def largest(gradients: dict[str, Tensor | None]) -> float:
    """Return the largest absolute entry of all gradients."""
    return max((g.abs().max().item() for g in gradients.values() if g is not None), default=0.0)


def distances(got: dict[str, Tensor | None], wanted: dict[str, Tensor | None]) -> dict[str, float]:
    """Return max|a - b| / max|b| for each parameter of `wanted`, with `FLOOR` under the divisor.

    A missing gradient counts as zeros. Additional parameters in `got` (feedback weights) are
    ignored.
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

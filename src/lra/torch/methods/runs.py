"""Several runs of a model within one step, which leave it as a single forward pass would."""

import math
import warnings
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from lra.errors import Diverged, LraWarning, MethodError, Refusal
from lra.loss_terms import LossTerms, check_terms, count_terms
from lra.methods import Method
from lra.torch.convert import is_converted
from lra.torch.distributed import is_sharded
from lra.torch.random_states import RandomStates

_ROUNDING = 1e-5
"""Relative differences of states and energies that rounding may cause."""


def without_ddp(model: nn.Module) -> nn.Module:
    """Return the model inside DistributedDataParallel, or the model itself."""
    found: Any = model.module if isinstance(model, DistributedDataParallel) else model
    return found  # type: ignore[no-any-return]


def check_model(method: Method, model: nn.Module) -> None:
    """Check that hooks on a model's layers are called, and that its derivatives are plain.

    Raises:
        MethodError: for converted, parallel, sharded, scripted and compiled models.
    """
    name = type(method).__name__
    if not isinstance(model, nn.Module):
        raise MethodError(f"{name}: expected a torch.nn.Module, got {type(model).__name__}")
    model = without_ddp(model)
    if is_converted(model):
        raise MethodError(
            f"{name}: the model is converted to a rule, which would change the method's own "
            "derivatives; call lra.restore(model) first"
        )
    for module in model.modules():
        if isinstance(module, (nn.DataParallel, DistributedDataParallel)):
            raise MethodError(
                f"{name}: {type(module).__name__} would run copies of the layers; wrap the whole "
                "model in DistributedDataParallel"
            )
        if is_sharded(module):
            raise MethodError(f"{name}: the model is sharded; wrap it in DistributedDataParallel")
        if isinstance(module, torch.jit.ScriptModule):
            raise MethodError(
                f"{name}: the layers of a scripted model cannot be replaced; pass the module that "
                "it was scripted from"
            )
        if module._compiled_call_impl is not None or hasattr(module, "_orig_mod"):
            raise MethodError(
                f"{name}: a compiled model would run without the states; pass the model as it was "
                "before torch.compile"
            )


def raise_if_refused(method: Method, refused: list[Refusal], supported: str) -> None:
    """Raise one error for all refused modules.

    Raises:
        MethodError: if there are any.
    """
    if refused:
        raise MethodError(
            f"{type(method).__name__} does not support this model; {supported}:\n"
            + "\n".join(f"  - {each}" for each in refused),
            tuple(refused),
        )


def count_loss_terms(terms: LossTerms | str | float, output: Any) -> float:
    """Compute N, the number of terms that the loss is a mean over.

    Raises:
        MethodError: if N is to be counted and the output is no tensor.
    """
    checked = check_terms(terms)
    if isinstance(checked, LossTerms) and not isinstance(output, Tensor):
        raise MethodError(
            f"the model's output is a {type(output).__name__}, in which loss_terms="
            f"{checked.value!r} cannot be counted; pass the number that the loss divides by"
        )
    return count_terms(checked, tuple(output.shape) if isinstance(output, Tensor) else ())


def detached_copy(z: Tensor) -> Tensor:
    """Copy a tensor without its graph, in 32 bits at least."""
    dtype = z.dtype if z.dtype in (torch.float32, torch.float64) else torch.float32
    return z.detach().to(dtype, copy=True)


def size(tensors: Iterable[Tensor]) -> Tensor:
    """Compute the norm of all numbers of several tensors, without a graph."""
    norms = torch._foreach_norm([t.detach() for t in tensors])
    whole: Tensor = torch.stack([norm.float() for norm in norms]).norm()
    return whole


def check_states(
    method: Method,
    states: Iterable[Tensor],
    moves: Sequence[Tensor],
    remedy: str,
    energies: Sequence[Tensor] = (),
) -> None:
    """Check that states are finite, and warn if they did not settle.

    Args:
        method: the method, for messages.
        states: the states at the last step.
        moves: the sizes of the steps, of the first and the last at least.
        remedy: what to change, for messages.
        energies: what the steps should have lowered, before the first step and after the last.

    Raises:
        Diverged: for states that are not finite.
    """
    sizes = [size(states), moves[0], moves[-1], *(energy.detach().float() for energy in energies)]
    scale, first, last, *F = torch.stack(sizes).tolist()
    name = type(method).__name__
    if not all(map(math.isfinite, (scale, last, *F))):
        raise Diverged(f"{name}: the states are not finite, so there is no update. {remedy}")
    growing = len(moves) > 1 and last > max(first * (1 - _ROUNDING), scale * _ROUNDING)
    if growing or (F and F[1] > F[0] + max(F[0], scale) * _ROUNDING):
        warnings.warn(
            f"{name}: the states do not settle: after the last step they are as far from rest as "
            f"after the first, so the update is not the method's. {remedy}",
            LraWarning,
            stacklevel=5,
        )


class Runs:
    """Runs of a model on one batch. Each run draws the same random numbers.

    Use it as a context. At its end the hooks are removed, and the model's buffers are those after
    the first run.

    Args:
        method: the method, for messages.
        model: the model, in DistributedDataParallel or not.
        x: the batch.
    """

    def __init__(self, method: Method, model: nn.Module, x: Tensor) -> None:
        self.name = type(method).__name__
        check_model(method, model)
        if not torch.is_grad_enabled():
            raise MethodError(
                f"{self.name}: gradients are disabled here, and a step needs them; call it outside "
                "torch.no_grad()"
            )
        if isinstance(x, Tensor) and x.requires_grad:
            raise MethodError(
                f"{self.name}: x requires a gradient, which a method does not compute; pass "
                "x.detach()"
            )
        self.model, self.inner, self.x = model, without_ddp(model), x
        self.running = False
        self._random = RandomStates(self.inner)
        self._start = self._random.take()
        self._buffers: list[tuple[Tensor, Tensor]] | None = None
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()
        with torch.no_grad():
            for buffer, saved in self._buffers or ():
                buffer.copy_(saved)

    def replace_inputs(
        self, modules: Iterable[nn.Module], substitute: Callable[[nn.Module, Tensor], Tensor]
    ) -> None:
        """Register hooks that replace the first argument of modules by `substitute(module, z)`."""

        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            self._require_run(module)
            if args:
                return (substitute(module, args[0]), *args[1:]), kwargs
            key = next(iter(kwargs))
            return args, kwargs | {key: substitute(module, kwargs[key])}

        for module in dict.fromkeys(modules):
            handle = module.register_forward_pre_hook(hook, with_kwargs=True)
            self._stack.callback(handle.remove)

    def replace_outputs(
        self, modules: Iterable[nn.Module], substitute: Callable[[nn.Module, Tensor], Tensor]
    ) -> None:
        """Register hooks that replace the output of modules by `substitute(module, z)`."""

        def hook(module: nn.Module, args: tuple[Any, ...], z: Tensor) -> Tensor:
            self._require_run(module)
            return substitute(module, z)

        for module in dict.fromkeys(modules):
            self._stack.callback(module.register_forward_hook(hook).remove)

    def _require_run(self, module: nn.Module) -> None:
        if not self.running:
            raise MethodError(
                f"{self.name}: a {type(module).__name__} runs again in the backward pass, without "
                "the states; turn activation checkpointing off"
            )

    def __call__(self, *, last: bool = False) -> Any:
        """Run the model: in the last run with its wrapper, which synchronises the backward pass."""
        self._random.put(self._start)
        self.running = True
        try:
            output = (self.model if last else self.inner)(self.x)
        finally:
            self.running = False
        if self._buffers is None:
            self._buffers = [(b, b.detach().clone()) for b in self.inner.buffers()]
        return output

"""torch.nn.Sequential: a run of neighbouring layers becomes one autograd Function."""

from typing import Any, ClassVar, TypeGuard

import torch
from torch import Tensor, nn

from lra.torch.layers.base import Local, LocalWeights
from lra.torch.layers.tracing import Proxy
from lra.torch.ops import autograd
from lra.torch.ops.ops import Op, transforming
from lra.torch.user_warnings import check_first_errors, watch_first_error

GLOBAL_HOOKS = [
    vars(nn.modules.module)[f"_global_{kind}"]
    for kind in ("backward_pre_hooks", "backward_hooks", "forward_pre_hooks", "forward_hooks")
]
"""Where torch stores the hooks of all modules."""


def _can_fuse(layer: nn.Module, inside_run: bool) -> TypeGuard[Local]:
    """Return whether a layer can run without being called as a module.

    It cannot where it has hooks or a forward of its own; nor, at the start of a run, where it
    overwrites its input, which code outside may hold.
    """
    if not (isinstance(layer, Local) and layer.fuses):
        return False
    if not layer.follows_rule and (inside_run or not _sees_input(layer)):
        return False
    own = vars(layer)
    hooked = (
        own["_forward_hooks"]
        or own["_forward_pre_hooks"]
        or own["_backward_hooks"]
        or own["_backward_pre_hooks"]
    )
    return not hooked and "forward" not in own and (inside_run or not own.get("inplace"))


def _sees_input(layer: nn.Module) -> TypeGuard[LocalWeights]:
    return isinstance(layer, LocalWeights) and layer.sees_input


def _run_layers(run: list[Local], x: Tensor) -> Tensor:
    """Run neighbouring layers as one chain of ops."""
    if len(run) == 1:
        return run[0](x)  # type: ignore[no-any-return]
    if _sees_input(run[0]):
        run[0].check_input(x, 1)
    ops: list[Op] = []
    tensors: list[Tensor | None] = []
    for layer in run:
        op, own = layer.op()
        ops.append(op)
        tensors += own
    h = autograd.apply_ops(tuple(ops), x, *tensors)
    watch_first_error(run[-1]._lra.conversion, h)
    return h


class LocalSequential(nn.Sequential):
    """torch.nn.Sequential with converted layers: the same result in fewer graph nodes."""

    plain: ClassVar[type[Any]] = nn.Sequential

    def forward(self, input: Tensor) -> Tensor:
        """Run the layers one after the other."""
        if (
            isinstance(input, Proxy)
            or torch.compiler.is_compiling()
            or (transforming() and autograd.run_batched is None)
            or not torch.is_grad_enabled()
            or any(GLOBAL_HOOKS)
        ):
            return super().forward(input)  # type: ignore[no-any-return, no-untyped-call]
        x = input
        run: list[Local] = []
        for layer in self:
            if _can_fuse(layer, bool(run)):
                run.append(layer)
                continue
            if run:
                x, run = _run_layers(run, x), []
            x = layer(x)
        if not run:
            return x
        x = _run_layers(run, x)
        if len(run) > 1 and isinstance(run[-1], LocalWeights):
            check_first_errors(run[-1]._lra, x)
            run[-1].with_backward_check(x)
        return x

    def restore(self) -> None:
        """Become the plain class again."""
        self.__class__ = self.plain

"""A stack: one parameter or buffer of K networks in one tensor."""

from typing import Any

import torch
from torch import Tensor, nn

from lra.errors import EnsembleError


class Stack:
    """One parameter or buffer of all networks, (K, ...). Each network's tensor is a view of it.

    Args:
        name: its qualified name in a network.
        owners: for each network, the `_parameters` or `_buffers` dict that holds the tensor.
        key: the tensor's key in that dict.
        parameter: whether it is a parameter.
    """

    def __init__(self, name: str, owners: list[dict[str, Any]], key: str, parameter: bool) -> None:
        self.name, self.owners, self.key, self.parameter = name, owners, key, parameter
        self.tensor = torch.empty(0)
        self.members: list[Tensor] = []

    def gather(self) -> None:
        """Make the networks' tensors views of the stack, unless they are already.

        Raises:
            EnsembleError: for tensors that differ in shape, type, device or `requires_grad`.
        """
        self.members = [owner[self.key] for owner in self.owners]
        if not self._is_gathered():
            self._copy_into_stack()
        requires_grad = self.members[0].requires_grad
        if any(member.requires_grad != requires_grad for member in self.members):
            raise EnsembleError(
                f"Ensemble: {self.name!r} is frozen in some networks and trained in others; "
                "requires_grad must be the same in all"
            )
        self.tensor.requires_grad_(requires_grad)

    def _is_gathered(self) -> bool:
        stack = self.tensor
        if len(stack) != len(self.members) or stack.dtype != self.members[0].dtype:
            return False
        start, step = stack.data_ptr(), stack.stride(0) * stack.element_size()
        return all(
            member.data_ptr() == start + k * step and member.is_contiguous()
            for k, member in enumerate(self.members)
        )

    def _copy_into_stack(self) -> None:
        kinds = {(m.shape, m.dtype, m.device) for m in self.members}
        if len(kinds) > 1:
            found = "; ".join(sorted(f"{tuple(s)}, {t}, {d}" for s, t, d in kinds))
            raise EnsembleError(
                f"Ensemble: {self.name!r} must have one shape, type and device in all networks; "
                f"found {found}"
            )
        with torch.no_grad():
            self.tensor = torch.stack([member.detach() for member in self.members])
            for member, view in zip(self.members, self.tensor.unbind(0), strict=True):
                member.data = view
        if self.tensor.is_floating_point() or self.tensor.is_complex():
            self.tensor.requires_grad_()
            self.tensor.register_post_accumulate_grad_hook(self._distribute_grad)  # type: ignore[no-untyped-call]

    @torch.no_grad()
    def _distribute_grad(self, stack: Tensor) -> None:
        """Add each network's part of the stack's gradient to its own `.grad`."""
        assert stack.grad is not None
        for member, update in zip(self.members, stack.grad.unbind(0), strict=True):
            member.grad = update if member.grad is None else member.grad + update
        stack.grad = None


def stacks_of(models: list[nn.Module]) -> list[Stack]:
    """Build a stack for every parameter and buffer of the first network.

    A tensor that a network holds under several names has one stack, under the first.
    """
    first = models[0]
    found = []
    for parameter in (True, False):
        named = first.named_parameters() if parameter else first.named_buffers()
        for name in [name for name, _ in named]:
            path, _, key = name.rpartition(".")
            holders = [model.get_submodule(path) for model in models]
            owners: list[Any] = [m._parameters if parameter else m._buffers for m in holders]
            found.append(Stack(name, owners, key, parameter))
    return found

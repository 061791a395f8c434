"""A stack: one parameter or buffer of K networks in one piece of memory."""

from typing import Any

import torch
from torch import Tensor, nn

from lra.errors import EnsembleError


class Stack:
    """One parameter or buffer of all networks, (K, ...), of which each network's is a view.

    Args:
        name: its qualified name in a network.
        owners: for each network, where the module that holds it keeps its tensors.
        key: under which name.
        parameter: whether it is a parameter.
    """

    def __init__(self, name: str, owners: list[dict[str, Any]], key: str, parameter: bool) -> None:
        self.name, self.owners, self.key, self.parameter = name, owners, key, parameter
        self.tensor = torch.empty(0)
        self.members: list[Tensor] = []

    def gather(self) -> None:
        """See that the networks' tensors lie in the stack; where they do not, put them there."""
        self.members = [owner[self.key] for owner in self.owners]
        if not self._lies():
            self._lay()
        learned = self.members[0].requires_grad
        if any(member.requires_grad != learned for member in self.members):
            raise EnsembleError(
                f"Together: {self.name!r} is frozen in some networks and learned in others; "
                "requires_grad must be the same in all"
            )
        self.tensor.requires_grad_(learned)

    def _lies(self) -> bool:
        stack = self.tensor
        if len(stack) != len(self.members) or stack.dtype != self.members[0].dtype:
            return False
        start, step = stack.data_ptr(), stack.stride(0) * stack.element_size()
        return all(
            member.data_ptr() == start + k * step and member.is_contiguous()
            for k, member in enumerate(self.members)
        )

    def _lay(self) -> None:
        kinds = {(m.shape, m.dtype, m.device) for m in self.members}
        if len(kinds) > 1:
            found = "; ".join(sorted(f"{tuple(s)}, {t}, {d}" for s, t, d in kinds))
            raise EnsembleError(
                f"Together: {self.name!r} must be of one shape, type and device in all networks; "
                f"found {found}"
            )
        with torch.no_grad():
            self.tensor = torch.stack([member.detach() for member in self.members])
            for member, view in zip(self.members, self.tensor.unbind(0), strict=True):
                member.data = view
        if self.tensor.is_floating_point() or self.tensor.is_complex():
            self.tensor.requires_grad_()
            self.tensor.register_post_accumulate_grad_hook(self._hand_out)  # type: ignore[no-untyped-call]

    @torch.no_grad()
    def _hand_out(self, stack: Tensor) -> None:
        """Give each network its own part of the updates, added to what it has."""
        assert stack.grad is not None
        for member, update in zip(self.members, stack.grad.unbind(0), strict=True):
            member.grad = update if member.grad is None else member.grad + update
        stack.grad = None


def stacks_of(models: list[nn.Module]) -> list[Stack]:
    """Find what is to be stacked: every parameter and buffer of the first network, and its peers'.

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

"""Train many networks of one architecture as one batched computation."""

import operator
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils import _pytree as pytree

from lra.errors import EnsembleError
from lra.torch.ensemble.across import Numbers, networks
from lra.torch.ensemble.compatibility import check_alike, check_modes, differing_numbers, made_of
from lra.torch.ensemble.linear import Linears
from lra.torch.ensemble.stack import Stack, stacks_of


class Ensemble(nn.Module):
    """K networks of one architecture, run as one: the same numbers as K runs, in less time.

    out[k] = models[k](x[k]), and a backward pass fills every network's `.grad` as its own would, to
    rounding. Networks may differ in weights, batches, and the numbers of their rules (beta, gain,
    gamma, ...), and each has an optimizer of its own:

        together = lra.ensemble.Ensemble(models)
        losses = torch.vmap(F.cross_entropy)(together(x), y)  # (K,), each the mean of its batch
        losses.sum().backward()
        for optimizer in optimizers:
            optimizer.step()

    The networks stay what they are, at `together.models` and wherever else they are held: their
    parameters and buffers now lie side by side in one stack each, and `separate` gives them memory
    of their own again. Sum the losses, and do not average them, or each network's updates are K
    times too small (and a target's N wrong).

    Not for hooks on single networks or their parameters, which are refused or not called, for
    `torch.autograd.grad` of single parameters, nor under other transforms of torch.func.

    Args:
        models: two or more, all plain or all converted by rules of one kind. They may differ in
            weights, and in numbers of the rule that a layer uses as it goes: every float of the
            crossing, and gamma. How feedback weights were first drawn is no matter.

    Raises:
        EnsembleError: for networks that differ in more than that, or that cannot run as one; with
            the modules as data, in `refused`.
    """

    def __init__(self, models: Iterable[nn.Module]) -> None:
        super().__init__()
        models = list(models)
        check_alike(models)
        self.models = nn.ModuleList(models)
        self._numbers: Numbers = {}
        self._stacks: list[Stack] | None = None
        self._made: list[Any] = []

    def __len__(self) -> int:
        """Count the networks."""
        return len(self.models)

    def __getstate__(self) -> dict[str, Any]:
        """Leave out what the next pass finds again: stacks hand out updates by hooks."""
        return self.__dict__ | {"_stacks": None, "_made": []}

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Run every network on its own part of the input.

        Args:
            *args: what a network takes, with every tensor's networks in dimension 0, (K, ...); for
                one batch for all, `x.expand(K, *x.shape)`.
            **kwargs: the same, by name.

        Returns:
            What a network gives, with the networks in dimension 0.

        Raises:
            EnsembleError: for tensors of other sizes, or networks that are no longer alike.
        """
        leaves, spec = pytree.tree_flatten((args, kwargs))
        at = [i for i, leaf in enumerate(leaves) if isinstance(leaf, Tensor)]
        self._check_inputs([leaves[i] for i in at])
        stacks = self._gather()
        buffers = [stack.name for stack in stacks if not stack.parameter]
        network = _Network(self.models[0], buffers)

        def run(state: dict[str, Tensor], *tensors: Tensor) -> Any:
            filled = list(leaves)
            for i, tensor in zip(at, tensors, strict=True):
                filled[i] = tensor
            return functional_call(network, state, *pytree.tree_unflatten(filled, spec))

        state = {f"network.{stack.name}": stack.tensor for stack in stacks}
        run_all: Callable[..., Any] = torch.vmap(run)
        with networks(self._numbers), Linears():
            return run_all(state, *(leaves[i] for i in at))

    def separate(self) -> None:
        """Give each network's parameters and buffers memory of their own; the next pass takes it.

        Call it before saving or copying single networks, which would take along the whole stack.
        """
        for tensor in (*self.models.parameters(), *self.models.buffers()):
            tensor.data = tensor.data.clone()
        self._stacks = None

    def _check_inputs(self, given: list[Tensor]) -> None:
        if not given:
            raise EnsembleError("Together: the networks were given no tensor")
        for x in given:
            if not x.dim() or len(x) != len(self):
                raise EnsembleError(
                    f"Together: dimension 0 of what networks are given must be that of the "
                    f"{len(self)} networks; got a tensor of shape {tuple(x.shape)}. For one batch "
                    f"for all: x.expand({len(self)}, *x.shape)"
                )

    def _gather(self) -> list[Stack]:
        """Have the networks' tensors lie side by side, as they may from the last pass."""
        models, made = list(self.models), made_of(list(self.models))
        same = len(made) == len(self._made) and all(map(operator.is_, made, self._made))
        if self._stacks is None or not same:
            check_alike(models)
            self._numbers = differing_numbers(models)
            self._stacks, self._made = stacks_of(models), made
        check_modes(models)
        for stack in self._stacks:
            stack.gather()
        return self._stacks


class _Network(nn.Module):
    """A network that tells when a forward puts another tensor into a buffer's place."""

    def __init__(self, network: nn.Module, buffers: list[str]) -> None:
        super().__init__()
        self.network, self.buffers_before = network, buffers

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        before = [self.network.get_buffer(name) for name in self.buffers_before]
        out = self.network(*args, **kwargs)
        for name, buffer in zip(self.buffers_before, before, strict=True):
            if self.network.get_buffer(name) is not buffer:
                raise EnsembleError(
                    f"Together: the networks' forward replaces their buffer {name!r}, which would "
                    "be lost; change it in place (buffer.copy_(...)), or train these networks one "
                    "after the other"
                )
        return out

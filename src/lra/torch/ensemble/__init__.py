"""Train many networks of one architecture as one batched computation."""

import operator
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils import _pytree as pytree

from lra.errors import EnsembleError
from lra.torch.ensemble.across import Numbers, batched_ops
from lra.torch.ensemble.compatibility import (
    check_compatible,
    check_modes,
    classes_and_states,
    differing_numbers,
)
from lra.torch.ensemble.linear import LinearAsOp
from lra.torch.ensemble.stack import Stack, stacks_of


class Ensemble(nn.Module):
    """Run K networks of one architecture as one batched computation.

    out[k] = models[k](x[k]). A backward pass fills every network's ``.grad`` with the same numbers
    as its own backward pass would, to rounding. Networks may differ in weights, batches and the
    numbers of their rules (beta, gain, gamma, ...), and each has its own optimizer::

        ensemble = lra.ensemble.Ensemble(models)
        losses = torch.vmap(F.cross_entropy)(ensemble(x), y)  # (K,), each the mean of its batch
        losses.sum().backward()
        for optimizer in optimizers:
            optimizer.step()

    The networks stay separate modules, in `ensemble.models` and wherever else you hold them. Their
    parameters and buffers become views of one stack each; `separate` gives them their own memory
    again. Sum the losses: a mean would make each network's updates K times too small, and a
    target's N wrong.

    Not supported are hooks on single networks or their parameters, which are refused or not called;
    `torch.autograd.grad` for single parameters; and other transforms of torch.func.

    Args:
        models: two or more, all plain or all converted by rules of one kind. They may differ in
            weights, and in the numbers that a layer uses in each pass: every float of the crossing,
            and gamma. How feedback weights were first drawn does not matter.

    Raises:
        EnsembleError: for networks that differ in more than that, or that cannot run as one. Its
            `refused` lists the modules.

    >>> models = [
    ...     lra.convert(nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3)), lra.LRAE(beta))
    ...     for beta in (0.1, 0.2)
    ... ]
    >>> ensemble = lra.ensemble.Ensemble(models)
    >>> x, t = torch.randn(2, 16, 4), torch.randint(3, (2, 16))
    >>> torch.vmap(F.cross_entropy)(ensemble(x), t).sum().backward()
    >>> models[1][0].weight.grad.shape
    torch.Size([8, 4])
    """

    def __init__(self, models: Iterable[nn.Module]) -> None:
        super().__init__()
        models = list(models)
        check_compatible(models)
        self.models = nn.ModuleList(models)
        self._numbers: Numbers = {}
        self._stacks: list[Stack] | None = None
        self._checked: list[Any] = []

    def __len__(self) -> int:
        """Return K, the number of networks."""
        return len(self.models)

    def __getstate__(self) -> dict[str, Any]:
        """Return the state without stacks, which have hooks. The next pass builds them again."""
        return self.__dict__ | {"_stacks": None, "_checked": []}

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Run every network on its own part of the input.

        Args:
            *args: a network's arguments, every tensor with the networks in dimension 0, (K, ...).
                To pass one batch to all: `x.expand(K, *x.shape)`.
            **kwargs: the same, by name.

        Returns:
            A network's result, every tensor with the networks in dimension 0.

        Raises:
            EnsembleError: for tensors of other sizes, or networks that are no longer compatible.
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
        with batched_ops(self._numbers), LinearAsOp():
            return run_all(state, *(leaves[i] for i in at))

    def separate(self) -> None:
        """Copy each network's parameters and buffers to their own memory, until the next pass.

        Call it before you save or copy single networks, which would include the whole stack.
        """
        for tensor in (*self.models.parameters(), *self.models.buffers()):
            tensor.data = tensor.data.clone()
        self._stacks = None

    def _check_inputs(self, tensors: list[Tensor]) -> None:
        if not tensors:
            raise EnsembleError("Ensemble: no tensor is among the arguments; pass inputs (K, ...)")
        for x in tensors:
            if not x.dim() or len(x) != len(self):
                raise EnsembleError(
                    f"Ensemble: dimension 0 of every input must be that of the {len(self)} "
                    f"networks; got a tensor of shape {tuple(x.shape)}. To pass one batch to all: "
                    f"x.expand({len(self)}, *x.shape)"
                )

    def _gather(self) -> list[Stack]:
        """Move the networks' tensors into stacks, unless they are there since the last pass."""
        models = list(self.models)
        found = classes_and_states(models)
        same = len(found) == len(self._checked) and all(map(operator.is_, found, self._checked))
        if self._stacks is None or not same:
            check_compatible(models)
            self._numbers = differing_numbers(models)
            self._stacks, self._checked = stacks_of(models), found
        check_modes(models)
        for stack in self._stacks:
            stack.gather()
        return self._stacks


class _Network(nn.Module):
    """A network whose forward must not replace its buffers."""

    def __init__(self, network: nn.Module, buffers: list[str]) -> None:
        super().__init__()
        self.network, self.buffer_names = network, buffers

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        before = [self.network.get_buffer(name) for name in self.buffer_names]
        out = self.network(*args, **kwargs)
        for name, buffer in zip(self.buffer_names, before, strict=True):
            if self.network.get_buffer(name) is not buffer:
                raise EnsembleError(
                    f"Ensemble: the networks' forward replaces their buffer {name!r}, and the new "
                    "value would be lost. Change it in place (buffer.copy_(...)), or train these "
                    "networks one after the other"
                )
        return out

"""What a method of several passes offers, for any method: the base class of their options."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Self

from lra.axis import Axis
from lra.loss_terms import LossTerms

if TYPE_CHECKING:
    from torch import Tensor, nn

Loss = Callable[[Any], "Tensor"]
"""A loss as a function of the model's output."""


@dataclass(frozen=True)
class Method(Axis):
    """Replace `loss.backward()` by a call `method(model, loss, x)`: base of the methods.

    For any method::

        optimizer.zero_grad()
        value = method(model, lambda output: F.cross_entropy(output, t), x)
        optimizer.step()
    """

    estimates: ClassVar[bool] = False
    """Whether updates are estimates, which equal backprop's only in a limit, even for one layer."""

    name: ClassVar[str] = "custom"
    """The method's name in scripts and reports."""

    _module: ClassVar[str]
    """The module of lra.torch.methods that implements the method."""

    def _implementation(self) -> Any:
        return importlib.import_module(f"lra.torch.methods.{self._module}")

    def __call__(
        self,
        model: nn.Module,
        loss: Loss,
        x: Tensor,
        *,
        loss_terms: LossTerms | str | float = LossTerms.BATCH,
    ) -> Tensor:
        """Add one step's update to ``.grad``, at the scale of the loss.

        Args:
            model: a plain module, or one in DistributedDataParallel.
            loss: a function that returns a scalar for the model's output. It is called once in each
                pass, first with the answer that `output` returns.
            x: the model's input, (batch, ...).
            loss_terms: what the loss is a mean over, as in `lra.convert`, counted in the model's
                output.

        Returns:
            The loss of the model's answer, detached.

        Raises:
            MethodError: for a model that the method does not support, and in situations in which
                the update would be wrong.
            Diverged: for states that are not finite; ``.grad`` is unchanged then. States that do
                not settle cause an `lra.LraWarning`.
        """
        value: Tensor = self._implementation().step(self, model, loss, x, loss_terms)
        return value

    def attach(self, model: nn.Module, example: Tensor) -> nn.Module:
        """Prepare a model in place. Call it before you build the optimizer or wrap the model.

        Args:
            model: a plain module.
            example: a batch for one forward pass; a few samples suffice.

        Returns:
            The same model.

        Raises:
            MethodError: for a model that the method does not support. The model is unchanged then.
        """
        raise NotImplementedError

    def detach(self, model: nn.Module) -> nn.Module:
        """Remove in place what `attach` added.

        Returns:
            The same model.
        """
        return model

    def feedback_parameters(self, model: nn.Module) -> list[nn.Parameter]:
        """List the parameters that `attach` added, for their own optimizer group."""
        return []

    def output(self, model: nn.Module, x: Tensor) -> Tensor:
        """Compute the model's answer without gradients. By default this is its forward pass."""
        from torch import no_grad

        with no_grad():
            answer: Tensor = model(x)
        return answer

    def settled(self) -> Self:
        """Return the method with enough steps for its states to settle on a small network.

        `lra.check_rule` uses it. Override it in a method that iterates.
        """
        return self

"""Methods whose step takes several passes: their options, and the table that lists them.

A rule is swapped into a model, and `loss.backward()` computes it. A method takes the place of that
call: it is given the model, the loss and a batch, and leaves in `.grad` what `backward()` would.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from lra.axis import Axis, count, finite, flag
from lra.errors import OptionError
from lra.loss_terms import LossTerms

if TYPE_CHECKING:
    from torch import Tensor, nn

Loss = Callable[[Any], "Tensor"]
"""A loss as a function of the model's output."""


@dataclass(frozen=True)
class Method(Axis):
    """A way to compute a step's updates; `method(model, loss, x)` takes `backward()`'s place.

    For any method:

        optimizer.zero_grad()
        value = method(model, lambda output: F.cross_entropy(output, t), x)
        optimizer.step()
    """

    estimates: ClassVar[bool] = False
    """Whether updates are estimates, which meet backprop's in a limit only, of one layer too."""

    name: ClassVar[str] = "custom"
    """Its name in scripts and reports."""

    _home: ClassVar[str]
    """The module of lra.torch.methods that computes it."""

    def _torch(self) -> Any:
        return importlib.import_module(f"lra.torch.methods.{self._home}")

    def __call__(
        self,
        model: nn.Module,
        loss: Loss,
        x: Tensor,
        *,
        loss_terms: LossTerms | str | float = LossTerms.BATCH,
    ) -> Tensor:
        """Add a step's updates to `.grad`, in the scale of the loss as `backward()` would.

        Args:
            model: a plain module, or one in DistributedDataParallel.
            loss: gives a scalar from the model's output. It is called in each pass, first with
                what `output` gives.
            x: the model's input, (batch, ...).
            loss_terms: what the loss is a mean over, as `lra.convert`'s argument of this name,
                counted in the model's output.

        Returns:
            The loss of the model's answer, detached.

        Raises:
            MethodError: for a model that the method is not defined on, and in a situation in which
                it would compute something else.
        """
        value: Tensor = self._torch().step(self, model, loss, x, loss_terms)
        return value

    def attach(self, model: nn.Module, example: Tensor) -> nn.Module:
        """Make a model ready, in place, before the optimizer is built and before it is wrapped.

        Args:
            model: a plain module.
            example: a batch for one forward pass; few samples will do.

        Returns:
            The same model.

        Raises:
            MethodError: for a model that the method is not defined on; nothing is changed then.
        """
        raise NotImplementedError

    def detach(self, model: nn.Module) -> nn.Module:
        """Take away what `attach` added, in place.

        Returns:
            The same model.
        """
        return model

    def feedback_parameters(self, model: nn.Module) -> list[nn.Parameter]:
        """List the parameters that `attach` added, to give them an optimizer group of their own."""
        return []

    def output(self, model: nn.Module, x: Tensor) -> Tensor:
        """Give the model's answer, without gradients: that of its forward pass."""
        from torch import no_grad

        with no_grad():
            answer: Tensor = model(x)
        return answer


@dataclass(frozen=True)
class PredictiveCoding(Method):
    """Predictive coding: states settle between what is predicted of them and what they explain.

    F = sum_l |x_l - z_l|^2 / 2 + N loss, z_l = f_l(x_(l-1)); from the forward pass on,
    x <- x - step dF/dx, `steps` times; then dF/dW / N.

    x_l stands where a weight layer reads, whatever lies between: f_l may hold units, norms, sums
    and attention, and layers that read one tensor share its state. It is defined on every model
    whose weights are used by nn.Linear, convolutions and classes named by `lra.register_weight_layer`. Inside
    f_l derivatives of units are taken and errors cross the one weight by its transpose.

    Args:
        steps: how often the states move; the cost is that of 1 + steps passes. An error reaches one
            layer further each time, so fewer than there are weight layers in a row leave the lowest
            without any.
        step: how far they move; too far diverges.

    Source: Rao and Ballard, Nature Neuroscience 1999; Whittington and Bogacz, An approximation of
    the error backpropagation algorithm in a predictive coding network, Neural Computation 2017.
    """

    name = "predictive-coding"
    _home = "predictive_coding"

    steps: int = 20
    step: float = 0.1

    def __post_init__(self) -> None:
        count(self, "steps")
        finite(self, "step", above=0.0)

    def attach(self, model: nn.Module, example: Tensor) -> nn.Module:
        """Check that predictive coding is defined on a model; nothing is added."""
        self._torch().readers(self, model)
        return model


@dataclass(frozen=True)
class EquilibriumPropagation(Method):
    """Equilibrium propagation: the difference between two equilibria is the gradient of the loss.

    Phi = sum_k <s_k, g_k(s_(k-1))>, s <- s + step (phi(dPhi/ds) - s) to the free equilibrium; from
    there the same with Phi - beta N loss(s_K) for +beta, and for -beta if symmetric. Then
    (dPhi/dW(s_-) - dPhi/dW(s_+)) / (2 beta N), or from the free equilibrium to s_+ over beta N.

    s_k is what a unit gives, the last one the model's output; g_k has one weight layer, and may
    pool and reshape; a max pool after a unit is taken before it, which is the same. So it is
    defined on chains (nn.Sequential) of linear layers and convolutions with monotone units between.
    The network answers by its free equilibrium, in which signals also go down through the weights
    (`output`); a forward pass through the same weights is another function, and this is not its
    gradient.

    Args:
        beta: how hard the loss pushes; the symmetric estimate is off by beta's square.
        free_steps: how long the free equilibrium is waited for; from the forward pass on.
        nudged_steps: how long each of the others is.
        step: how far the states move to what the others ask of them; at 1 they jump.
        symmetric: whether to push in both directions.

    Source: Scellier and Bengio, Equilibrium propagation, Frontiers in Computational Neuroscience
    2017; Ernoult et al., NeurIPS 2019, for this form of the dynamics; Laborieux et al., Scaling
    equilibrium propagation to deep ConvNets, Frontiers in Neuroscience 2021, for convolutions and
    the symmetric estimate.
    """

    estimates = True
    name = "equilibrium-propagation"
    _home = "equilibrium"

    beta: float = 0.1
    free_steps: int = 30
    nudged_steps: int = 10
    step: float = 0.5
    symmetric: bool = True

    def __post_init__(self) -> None:
        for name in ("beta", "step"):
            finite(self, name, above=0.0)
        if self.step > 1:
            raise OptionError(f"EquilibriumPropagation: step must be at most 1, got {self.step!r}")
        for name in ("free_steps", "nudged_steps"):
            count(self, name)
        flag(self, "symmetric")

    def attach(self, model: nn.Module, example: Tensor) -> nn.Module:
        """Check that equilibrium propagation is defined on a model; nothing is added."""
        self._torch().places(self, model)
        return model

    def output(self, model: nn.Module, x: Tensor) -> Tensor:
        """Give the model's answer, without gradients: that of its free equilibrium."""
        answer: Tensor = self._torch().output(self, model, x)
        return answer


@dataclass(frozen=True)
class DTP(Method):
    """Difference target propagation: targets go down through learned inverses of the layers.

    y_(L-1) = z_(L-1) - eta N dloss/dz_(L-1), y_(l-1) = z_(l-1) - (g_l(z_l) - g_l(y_l)); layer l
    learns from |z_l - y_l|^2 / (2 eta N) alone, the output layer from the loss, and the inverse
    g_l(z) = phi(V z + c) from |g_l(f_l(u)) - u|^2 / (2 N) with u = z_(l-1) + sigma noise.

    z_l is what a weight layer reads. Defined on chains (nn.Sequential) of linear layers and
    convolutions with units, pools and reshaping between. `attach` gives every weight layer but the
    first and the last an inverse, a module `inverse` with parameters that optimizers see and states
    hold. Over Lee et al.'s local loss ours is divided by 2 eta, so that updates have the scale of
    backprop's: with two weight layers they are backprop's.

    Args:
        eta: how far the last hidden layer's target lies along the loss's gradient.
        sigma: the standard deviation of the noise that inverses learn with.

    Source: Lee et al., Difference target propagation, ECML 2015.
    """

    name = "dtp"
    _home = "target_propagation"

    eta: float = 0.1
    sigma: float = 0.1

    def __post_init__(self) -> None:
        finite(self, "eta", above=0.0)
        finite(self, "sigma")
        if self.sigma < 0:
            raise OptionError(f"DTP: sigma must be 0 or more, got {self.sigma!r}")

    def attach(self, model: nn.Module, example: Tensor) -> nn.Module:
        """Give the weight layers their inverses, drawn as torch draws layers."""
        made: nn.Module = self._torch().attach(self, model, example)
        return made

    def feedback_parameters(self, model: nn.Module) -> list[nn.Parameter]:
        """List the parameters of the inverses."""
        found: list[nn.Parameter] = self._torch().parameters(model)
        return found

    def detach(self, model: nn.Module) -> nn.Module:
        """Take the inverses away."""
        plain: nn.Module = self._torch().detach(model)
        return plain


METHODS: dict[str, type[Method]] = {
    cls.name: cls for cls in (PredictiveCoding, EquilibriumPropagation, DTP)
}
"""The methods by name, for scripts and the command line."""

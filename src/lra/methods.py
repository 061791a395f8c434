"""Learning methods whose step takes several passes: their options, and the table of all of them.

A rule is swapped into a model, and `loss.backward()` computes it. A method replaces that call: it
takes the model, the loss and a batch, and adds the update to ``.grad`` as `backward()` would.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Self

from lra.axis import Axis, count, finite, flag
from lra.errors import OptionError
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


@dataclass(frozen=True)
class PredictiveCoding(Method):
    """Predictive coding: free states between the layers descend an energy, then weights do.

        z_l = f_l(x_(l-1))
        F = sum_l |x_l - z_l|^2 / 2 + N loss
        x <- x - step dF/dx
        dW = dF/dW / N

    The states x start at the forward pass and take `steps` steps. dW is the update of W.

    Each weight layer reads one state x_l; layers that read the same tensor share a state. f_l is
    everything in between, such as activations, normalisation, sums and attention. A model is
    supported if its weights are used by nn.Linear, convolutions and classes named by
    `lra.register_weight_layer`. Inside f_l errors cross by its derivatives and by the transpose of
    its weight.

    Args:
        steps: the number of steps of the states. The cost is that of 1 + steps passes. An error
            reaches one layer further in each step, so K weight layers in a row need at least K - 1
            steps; with fewer, the lowest layers learn nothing.
        step: the step size of the states. Too large a step diverges, with a warning or an error.

    Raises:
        OptionError: for a value out of range.

    Source: Rao and Ballard, Nature Neuroscience 1999; Whittington and Bogacz, An approximation of
    the error backpropagation algorithm in a predictive coding network, Neural Computation 2017.

    >>> net = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3))
    >>> x, t = torch.randn(5, 4), torch.tensor([0, 1, 2, 0, 1])
    >>> method = lra.methods.PredictiveCoding(steps=10)
    >>> loss = method(net, lambda output: F.cross_entropy(output, t), x)
    >>> net[0].weight.grad.shape
    torch.Size([8, 4])
    """

    name = "predictive-coding"
    _module = "predictive_coding"

    steps: int = 20
    step: float = 0.1

    def __post_init__(self) -> None:
        count(self, "steps")
        finite(self, "step", above=0.0)

    def attach(self, model: nn.Module, example: Tensor) -> nn.Module:
        """Check that predictive coding supports the model. Nothing is added."""
        self._implementation().find_weight_layers(self, model)
        return model

    def settled(self) -> Self:
        """Return the method with 100 steps of 0.3."""
        return replace(self, steps=100, step=0.3)


@dataclass(frozen=True)
class EquilibriumPropagation(Method):
    """Equilibrium propagation: the difference of two equilibria estimates the gradient of the loss.

        Phi = sum_k <s_k, g_k(s_(k-1))>
        s <- s + step (phi(dPhi/ds) - s)
        dW = (dPhi/dW(s_-) - dPhi/dW(s_+)) / (2 beta N)

    States settle to the free equilibrium, and from there with Phi - beta N loss(s_K) to `s_+`; if
    symmetric, also with -beta to `s_-`. Otherwise `s_-` is the free equilibrium, and the update is
    divided by beta N.

    s_k is the output of an activation, and the last one is the model's output. g_k has one weight
    layer and may pool and reshape. A max pool after an activation is computed before it, which
    leaves the forward pass as it is. Supported models are chains (nn.Sequential) of linear layers
    and convolutions with non-decreasing activations between.

    The network's answer is its free equilibrium, in which signals also go down through the weights
    (`output`). A forward pass through the same weights is another function, and the update is not
    its gradient.

    Args:
        beta: the strength of the nudge by the loss. The symmetric estimate has an error of order
            beta^2.
        free_steps: the number of steps from the forward pass to the free equilibrium.
        nudged_steps: the number of steps to each nudged equilibrium.
        step: how far states move towards their targets in each step; at 1 they take their values.
        symmetric: whether to nudge in both directions.

    Raises:
        OptionError: for a value out of range.

    Source: Scellier and Bengio, Equilibrium propagation, Frontiers in Computational Neuroscience
    2017; Ernoult et al., NeurIPS 2019, for this form of the dynamics; Laborieux et al., Scaling
    equilibrium propagation to deep ConvNets, Frontiers in Neuroscience 2021, for convolutions and
    the symmetric estimate.

    >>> net = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3))
    >>> x, t = torch.randn(5, 4), torch.tensor([0, 1, 2, 0, 1])
    >>> method = lra.methods.EquilibriumPropagation()
    >>> loss = method(net, lambda output: F.cross_entropy(output, t), x)
    >>> method.output(net, x).shape
    torch.Size([5, 3])
    """

    estimates = True
    name = "equilibrium-propagation"
    _module = "equilibrium"

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
        """Check that equilibrium propagation supports the model. Nothing is added."""
        self._implementation().locate_states(self, model)
        return model

    def output(self, model: nn.Module, x: Tensor) -> Tensor:
        """Compute the model's answer without gradients: the output at its free equilibrium."""
        answer: Tensor = self._implementation().output(self, model, x)
        return answer

    def settled(self) -> Self:
        """Return the method with 100 steps of 0.5 to each equilibrium."""
        return replace(self, free_steps=100, nudged_steps=100, step=0.5)


@dataclass(frozen=True)
class DTP(Method):
    """Difference target propagation: targets go down through learned inverses of the layers.

        y_(L-1) = z_(L-1) - eta N dloss/dz_(L-1)
        y_(l-1) = z_(l-1) - (g_l(z_l) - g_l(y_l))
        loss_l = |z_l - y_l|^2 / (2 eta N)

    Layer l learns from loss_l alone, and the output layer from the loss. Each layer has an inverse
    g_l, which learns from inverse_l alone to undo f_l near its input:

        u = z_(l-1) + sigma noise
        g_l(z) = phi(V z + c)
        inverse_l = |g_l(f_l(u)) - u|^2 / (2 N)

    z_l is the input of a weight layer. Supported models are chains (nn.Sequential) of linear layers
    and convolutions with activations, pools and reshaping between. `attach` gives each weight layer
    but the first and the last an inverse: a module `inverse`, whose parameters are in the model's
    parameters and state dict.

    The local loss is Lee et al.'s over 2 eta, so that updates have the scale of backprop's. With
    two weight layers they are backprop's.

    Args:
        eta: the distance of the last hidden layer's target along the gradient of the loss.
        sigma: the standard deviation of the noise with which inverses learn.

    Raises:
        OptionError: for a value out of range.

    Source: Lee et al., Difference target propagation, ECML 2015.

    >>> net = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 6), nn.Tanh(), nn.Linear(6, 3))
    >>> x, t = torch.randn(5, 4), torch.tensor([0, 1, 2, 0, 1])
    >>> method = lra.methods.DTP()
    >>> net = method.attach(net, x)
    >>> [tuple(p.shape) for p in method.feedback_parameters(net)]
    [(8, 6), (8,)]
    >>> loss = method(net, lambda output: F.cross_entropy(output, t), x)
    """

    name = "dtp"
    _module = "target_propagation"

    eta: float = 0.1
    sigma: float = 0.1

    def __post_init__(self) -> None:
        finite(self, "eta", above=0.0)
        finite(self, "sigma")
        if self.sigma < 0:
            raise OptionError(f"DTP: sigma must be 0 or more, got {self.sigma!r}")

    def attach(self, model: nn.Module, example: Tensor) -> nn.Module:
        """Add an inverse to each inner weight layer, drawn as torch initialises layers."""
        attached: nn.Module = self._implementation().attach(self, model, example)
        return attached

    def feedback_parameters(self, model: nn.Module) -> list[nn.Parameter]:
        """List the parameters of the inverses."""
        found: list[nn.Parameter] = self._implementation().feedback_parameters(model)
        return found

    def detach(self, model: nn.Module) -> nn.Module:
        """Remove the inverses."""
        plain: nn.Module = self._implementation().detach(model)
        return plain


METHODS: dict[str, type[Method]] = {
    cls.name: cls for cls in (PredictiveCoding, EquilibriumPropagation, DTP)
}
"""The methods by name, for scripts and the command line."""

"""Activations that backprop cannot train, or hardly: steps, samples, contests, black boxes.

Each is an ordinary module. Rules with targets evaluate it on both sides of h; backprop finds a
derivative of zero, or the derivative of the surrogate that `straight_through` names.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.autograd import Function

from lra.axis import count, instance
from lra.crossing import Surrogate
from lra.errors import OptionError
from lra.torch.black_box import run_only


class StraightThrough(Function):
    """Return z forward, and send its error to the surrogate s."""

    generate_vmap_rule = True

    @staticmethod
    def forward(z: Tensor, s: Tensor) -> Tensor:
        """Return z."""
        return z.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        """Save nothing."""

    @staticmethod
    def backward(ctx: Any, d: Tensor) -> Any:
        """Send the error to s."""
        return None, d


class Activation(nn.Module):
    """Compute z = phi(h), of h's shape: base of these activations.

    A subclass defines `evaluate`.

    Args:
        straight_through: a surrogate s whose derivative autograd uses instead of phi's,
            e = s'(h) d. Rules with targets evaluate phi itself.
    """

    straight_through: Surrogate | None
    flat = True
    """Whether phi is a step function, or may be one."""

    def __init__(self, straight_through: Surrogate | None = None) -> None:
        super().__init__()
        self.straight_through = straight_through
        if straight_through is not None:
            instance(self, "straight_through", Surrogate)

    def evaluate(self, h: Tensor) -> Tensor:
        """Compute phi(h).

        Args:
            h: pre-activations, any shape.

        Returns:
            z, of h's shape.
        """
        raise NotImplementedError

    def forward(self, h: Tensor) -> Tensor:
        """Compute z = phi(h)."""
        if self.straight_through is None or not torch.is_grad_enabled():
            return self.evaluate(h)
        s = self.straight_through(h, torch)
        z: Tensor = StraightThrough.apply(self.evaluate(h.detach()), s)  # type: ignore[no-untyped-call]
        return z

    def extra_repr(self) -> str:
        """Show the surrogate, if there is one."""
        s = self.straight_through
        return "" if s is None else f"straight_through={s}"


def _step(h: Tensor) -> Tensor:
    """Compute 1 above zero and 0 elsewhere, with derivative zero."""
    return torch.sign(torch.relu(h))


class Sign(Activation):
    """Compute z = sign(h): 1, -1, and 0 at 0.

    Args:
        straight_through: a surrogate for autograd, usually `lra.crossing.HardTanhSurrogate()`.

    Source of the usual surrogate: Hubara et al., Binarized neural networks, NeurIPS 2016.

    >>> lra.activations.Sign()(torch.tensor([-2.0, 0.0, 0.5]))
    tensor([-1.,  0.,  1.])
    """

    def evaluate(self, h: Tensor) -> Tensor:
        """Compute sign(h)."""
        return torch.sign(h)


class Heaviside(Activation):
    """Compute z = 1 where h > 0, else 0.

    Args:
        straight_through: a surrogate for autograd, such as `lra.crossing.SigmoidSurrogate()`.

    >>> lra.activations.Heaviside()(torch.tensor([-2.0, 0.0, 0.5]))
    tensor([0., 0., 1.])
    """

    def evaluate(self, h: Tensor) -> Tensor:
        """Compute 1 or 0."""
        return _step(h)


class Quantized(Activation):
    """Round z = tanh(h) to the nearest of k levels, evenly spaced in [-1, 1].

    Args:
        k: the number of levels, 2 or more; 2 gives -1 and 1.
        straight_through: a surrogate for autograd, such as `lra.crossing.TanhSurrogate()`.

    Raises:
        OptionError: for k below 2.

    >>> lra.activations.Quantized(3)(torch.tensor([-2.0, 0.2, 0.9]))
    tensor([-1.,  0.,  1.])
    """

    def __init__(self, k: int, straight_through: Surrogate | None = None) -> None:
        super().__init__(straight_through)
        self.k = k
        count(self, "k")
        if k < 2:
            raise OptionError(f"Quantized: k must be 2 levels or more, got {k}")

    def evaluate(self, h: Tensor) -> Tensor:
        """Compute the level nearest to tanh(h)."""
        steps = self.k - 1
        return torch.round((torch.tanh(h) + 1) * (steps / 2)) * (2 / steps) - 1

    def extra_repr(self) -> str:
        """Show the number of levels, and the surrogate."""
        return ", ".join(filter(None, (f"k={self.k}", super().extra_repr())))


class Bernoulli(Activation):
    """Draw z ~ Bernoulli(sigmoid(h)): 1 with probability sigmoid(h), else 0.

    In eval mode z is its mean, sigmoid(h). Rules take their targets of that mean: targets of
    samples would be right on average, and mostly noise.

    Args:
        straight_through: a surrogate for autograd, such as `lra.crossing.SigmoidSurrogate()`.

    >>> layer = lra.activations.Bernoulli()
    >>> layer(torch.tensor([-9.0, 9.0]))
    tensor([0., 1.])
    >>> layer.eval()(torch.tensor([0.0]))
    tensor([0.5000])
    """

    flat = False

    def evaluate(self, h: Tensor) -> Tensor:
        """Draw a sample in training mode, or compute the mean in eval mode."""
        p = torch.sigmoid(h)
        return _step(p - torch.rand_like(p)) if self.training else p


class LWTA(Activation):
    """Pass the largest h in each group of k units, and 0 for the others: local winner-takes-all.

    The first of equal units wins. Its derivative is 1 for winners and 0 for others, so backprop
    needs no surrogate.

    Args:
        k: the size of a group of neighbouring units. It divides the number of units.
        dim: the dimension of the units. By default the last one of inputs with up to three
            dimensions, and dimension 1, the channels, of others.

    Raises:
        OptionError: for k below 1; in forward, for a number of units that k does not divide.

    Source: Srivastava et al., Compete to compute, NeurIPS 2013.

    >>> lra.activations.LWTA(2)(torch.tensor([[-2.0, 0.5, 3.0, 1.0]]))
    tensor([[0.0000, 0.5000, 3.0000, 0.0000]])
    """

    flat = False

    def __init__(self, k: int, dim: int | None = None) -> None:
        super().__init__()
        self.k, self.dim = k, dim
        count(self, "k")
        if dim is not None and (not isinstance(dim, int) or isinstance(dim, bool)):
            raise OptionError(f"LWTA: dim must be a whole number or None, got {dim!r}")

    def evaluate(self, h: Tensor) -> Tensor:
        """Compute h where it is the largest of its group, else 0."""
        dim = (1 if h.dim() > 3 else -1) if self.dim is None else self.dim
        units = h.shape[dim]
        if units % self.k:
            raise OptionError(
                f"LWTA: {units} units along dimension {dim} of {tuple(h.shape)} make no whole "
                f"groups of k={self.k}; choose a k that divides them, or another dim"
            )
        dim %= h.dim()
        groups = h.reshape(*h.shape[:dim], units // self.k, self.k, *h.shape[dim + 1 :])
        winner = groups.argmax(dim + 1, keepdim=True)
        rank = torch.arange(self.k, device=h.device).view(-1, *[1] * (h.dim() - 1 - dim))
        return torch.where(rank == winner, groups, 0).flatten(dim, dim + 1)

    def extra_repr(self) -> str:
        """Show the size of a group, and the dimension where one was given."""
        return f"k={self.k}" + ("" if self.dim is None else f", dim={self.dim}")


class BlackBox(Activation):
    """Compute z = phi(h) by any function that can be run: a lookup table, NumPy, C, a device.

    The function runs without autograd. Rules with targets evaluate it on both sides of h. Where
    autograd would have to cross it and no surrogate is given, the backward pass raises an error. A
    noisy function draws new noise in each evaluation.

    Args:
        function: computes z, of h's shape, from a copy of h, which it may overwrite.
        numpy: whether it takes NumPy arrays. NumPy's own ufuncs get them in any case.
        straight_through: a surrogate for autograd.

    Raises:
        OptionError: for what cannot be called; in forward, for a result of another shape.
        RuleError: in autograd's backward pass, without a surrogate.

    >>> volts, amperes = [-1.0, 0.0, 1.0], [0.0, 0.1, 1.0]
    >>> device = lra.activations.BlackBox(lambda h: np.interp(h, volts, amperes), numpy=True)
    >>> device(torch.tensor([-2.0, 0.5, 3.0]))
    tensor([0.0000, 0.5500, 1.0000])
    """

    def __init__(
        self,
        function: Callable[[Any], Any],
        *,
        numpy: bool = False,
        straight_through: Surrogate | None = None,
    ) -> None:
        super().__init__(straight_through)
        if isinstance(function, nn.Module) or not callable(function):
            raise OptionError(
                "BlackBox: expected a function of an array, got "
                f"{function if isinstance(function, type) else type(function).__name__}; for a "
                "module of your own use lra.register_activation(Class)"
            )
        self.function = function
        self.numpy = numpy or isinstance(function, np.ufunc)

    def evaluate(self, h: Tensor) -> Tensor:
        """Run the function."""
        return run_only(
            self._run, h,
            f"{self._name} can only be evaluated: autograd knows no derivative of it. Convert the "
            "model to a rule with targets, such as lra.MirroredLRA(), or give backprop a "
            "surrogate: BlackBox(function, straight_through=lra.crossing.TanhSurrogate())",
        )  # fmt: skip

    def _run(self, h: Tensor) -> Tensor:
        given: Any = h.detach().clone()
        if self.numpy:
            given = (given.float() if given.dtype is torch.bfloat16 else given).cpu().numpy()
        z = self.function(given)
        if not isinstance(z, Tensor):
            array = np.array(z)  # a copy, since torch takes no views with negative strides
            if array.dtype.kind not in "biuf":
                raise OptionError(f"BlackBox: {self._name} returned no numbers, but {z!r}")
            z = torch.from_numpy(array)
        if z.shape != h.shape:
            raise OptionError(
                f"BlackBox: {self._name} returned {tuple(z.shape)} for {tuple(h.shape)}; an "
                "activation keeps the shape"
            )
        return z.detach().to(h)

    @property
    def _name(self) -> str:
        return getattr(self.function, "__name__", repr(self.function))

    def extra_repr(self) -> str:
        """Show the function, and the surrogate."""
        return ", ".join(filter(None, (self._name, super().extra_repr())))

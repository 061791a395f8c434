"""Units that backprop cannot train, or hardly: steps, samples, contests.

Each is an ordinary module. Rules with targets evaluate it on either side of h; backprop finds a
derivative of zero, or that of the surrogate which `straight_through` names.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Function

from lra.axis import count, instance
from lra.crossing import Surrogate
from lra.errors import OptionError


class _Instead(Function):
    """Give z forward, and send its error to s, which stands in for it."""

    generate_vmap_rule = True

    @staticmethod
    def forward(z: Tensor, s: Tensor) -> Tensor:
        return z.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        """Keep nothing."""

    @staticmethod
    def backward(ctx: Any, d: Tensor) -> Any:
        return None, d


class Unit(nn.Module):
    """Base of the units: z = phi(h), of h's shape.

    Args:
        straight_through: a surrogate s whose derivative autograd takes in phi's stead,
            e = s'(h) d. Rules with targets evaluate phi itself.
    """

    straight_through: Surrogate | None
    flat = True
    """Whether phi is flat but for steps, or may be."""

    def __init__(self, straight_through: Surrogate | None = None) -> None:
        super().__init__()
        self.straight_through = straight_through
        if straight_through is not None:
            instance(self, "straight_through", Surrogate)

    def evaluate(self, h: Tensor) -> Tensor:
        """Give phi(h)."""
        raise NotImplementedError

    def forward(self, h: Tensor) -> Tensor:
        """Give z = phi(h)."""
        if self.straight_through is None or not torch.is_grad_enabled():
            return self.evaluate(h)
        z: Tensor = _Instead.apply(self.evaluate(h.detach()), self.straight_through(h, torch))  # type: ignore[no-untyped-call]
        return z

    def extra_repr(self) -> str:
        """Name the surrogate, if there is one."""
        s = self.straight_through
        return "" if s is None else f"straight_through={s}"


def _step(h: Tensor) -> Tensor:
    """Give 1 above zero and else 0, of derivative zero."""
    return torch.sign(torch.relu(h))


class Sign(Unit):
    """z = sign(h): 1, -1, and 0 at 0.

    Args:
        straight_through: a surrogate for autograd; the usual one is `lra.crossing.HardTanhSurrogate()`.

    Source of the usual surrogate: Hubara et al., Binarized neural networks, NeurIPS 2016.
    """

    def evaluate(self, h: Tensor) -> Tensor:
        """Give sign(h)."""
        return torch.sign(h)


class Heaviside(Unit):
    """z = 1 where h > 0, else 0.

    Args:
        straight_through: a surrogate for autograd, such as `lra.crossing.SigmoidSurrogate()`.
    """

    def evaluate(self, h: Tensor) -> Tensor:
        """Give 1 or 0."""
        return _step(h)


class Quantized(Unit):
    """z = tanh(h) cut into k levels, evenly spaced in [-1, 1]: to the nearest of them.

    Args:
        k: how many levels, 2 or more; 2 gives -1 and 1.
        straight_through: a surrogate for autograd, such as `lra.crossing.TanhSurrogate()`.

    Raises:
        OptionError: for k below 2.
    """

    def __init__(self, k: int, straight_through: Surrogate | None = None) -> None:
        super().__init__(straight_through)
        self.k = k
        count(self, "k")
        if k < 2:
            raise OptionError(f"Quantized: k must be 2 levels or more, got {k}")

    def evaluate(self, h: Tensor) -> Tensor:
        """Give the level nearest to tanh(h)."""
        steps = self.k - 1
        return torch.round((torch.tanh(h) + 1) * (steps / 2)) * (2 / steps) - 1

    def extra_repr(self) -> str:
        """Give the number of levels, and the surrogate."""
        return ", ".join(filter(None, (f"k={self.k}", super().extra_repr())))


class Bernoulli(Unit):
    """z ~ Bernoulli(sigmoid(h)): 1 with probability sigmoid(h), else 0.

    In eval mode it gives its mean, sigmoid(h), as dropout gives its own. Rules take their targets
    of that mean as well: of samples they would be right in the mean, and mostly noise.

    Args:
        straight_through: a surrogate for autograd, such as `lra.crossing.SigmoidSurrogate()`.
    """

    flat = False

    def evaluate(self, h: Tensor) -> Tensor:
        """Give a sample in training mode, the mean in eval mode."""
        p = torch.sigmoid(h)
        return _step(p - torch.rand_like(p)) if self.training else p


class LWTA(Unit):
    """Local winner takes all: of each group of k units the largest keeps its h, the others are 0.

    Of equals the first wins. It has a derivative of its own, 1 for the winners and 0 for the
    others, so it needs no surrogate.

    Args:
        k: the size of a group of neighbours; the number of units is a multiple of it.
        dim: the dimension of the units; by default the last one of vectors and of tokens, and
            dimension 1, the channels, where there are four dimensions or more.

    Raises:
        OptionError: for k below 1; and in forward, where units do not make whole groups.

    Source: Srivastava et al., Compete to compute, NeurIPS 2013.
    """

    flat = False

    def __init__(self, k: int, dim: int | None = None) -> None:
        super().__init__()
        self.k, self.dim = k, dim
        count(self, "k")
        if dim is not None and (not isinstance(dim, int) or isinstance(dim, bool)):
            raise OptionError(f"LWTA: dim must be a whole number or None, got {dim!r}")

    def evaluate(self, h: Tensor) -> Tensor:
        """Give h where it is the largest of its group, else 0."""
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
        """Give the size of a group, and the dimension where one was named."""
        return f"k={self.k}" + ("" if self.dim is None else f", dim={self.dim}")

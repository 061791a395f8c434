"""Drawing feedback weights for a layer: from a distribution, or from its answer to noise."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lra.feedback import Feedback, Stored
from lra.inits import check_rank


@dataclass(frozen=True)
class Run:
    """A layer as a function that noise can be sent through.

    Attributes:
        f: y = f(x, W).
        shape: the shape of one sample's x.
        correlate: dW of (h, x), for an f that can only be run and has no adjoint.
    """

    f: Callable[[Tensor, Tensor], Tensor]
    shape: tuple[int, ...]
    correlate: Callable[[Tensor, Tensor], Tensor] | None = None


@dataclass(frozen=True)
class FeedbackSampler:
    """Draws tensors of W's shape, type and device.

    Attributes:
        W: the weights.
        inputs: the number of inputs that each unit reads, where that is not the size of W[0].
        like: the weights whose size sets the scale, where those are not W.
        run: the layer's product, where it is not x W^T.
        generator: the source of the noise, by default the device's own.
    """

    W: Tensor
    inputs: int | None = None
    like: Tensor | None = None
    run: Run | None = None
    generator: torch.Generator | None = None

    @property
    def fan_in(self) -> int:
        """The number of inputs that each unit reads."""
        return max(1, math.prod(self.W.shape[1:])) if self.inputs is None else self.inputs

    @property
    def fan_out(self) -> int:
        """The number of units that read each input."""
        offsets = math.prod(self.W.shape[2:]) if self.inputs is None else 1
        return max(1, self.W.numel() // self.fan_in * offsets)

    @property
    def rms(self) -> float:
        """The root mean square of W; nan where W holds no values."""
        W = (self.W if self.like is None else self.like).detach()
        return (
            math.nan
            if W.is_meta or not W.numel()
            else float(W.abs().double().square().mean().sqrt())
        )

    def __call__(self, kind: str, scale: float, rank: int = 0) -> Tensor:
        """Draw a tensor: normal by std, uniform by bound, orthogonal by gain, low-rank by rms."""
        E = torch.empty_like(self.W, requires_grad=False)
        exact = torch.promote_types(E.dtype, torch.float32)
        if kind == "orthogonal":  # torch factorises no half precision
            rows = torch.empty(len(E), E[0].numel(), dtype=exact, device=E.device)
            return E.copy_(nn.init.orthogonal_(rows, scale).view(E.shape))
        if kind == "low-rank":
            units, inputs = len(E), E[0].numel()
            check_rank(rank, units, inputs)
            Q = torch.randn(units, rank, dtype=exact, device=E.device)
            P = torch.randn(rank, inputs, dtype=exact, device=E.device)
            return E.copy_((scale * rank**-0.5 * Q @ P).view(E.shape))
        return E.normal_(0.0, scale) if kind == "normal" else E.uniform_(-scale, scale)

    def noise_correlation(self, samples: int) -> tuple[Tensor, Any]:
        """Send noise through the layer; return its correlation with the output, and uses of W."""
        W = self.W.detach()
        if self.run is None:  # each row of W reads a vector, or a patch of one
            rows = W.reshape(len(W), -1)
            x = self._noise(samples, (rows.shape[1],))
            return ((x @ rows.T).T @ x).view_as(W), samples
        f = self.run.f
        x = self._noise(samples, self.run.shape)
        if self.run.correlate is not None:
            y = f(x, W)
            uses = self.run.correlate(torch.ones_like(y), torch.ones_like(x))
            # Without the layer's own offset, at the cost of one sample.
            return self.run.correlate(y - y.mean(0), x), uses * (samples - 1) / samples
        y, correlate = torch.func.vjp(lambda W: f(x, W), W)[:2]
        count = torch.func.vjp(lambda W: f(torch.ones_like(x), W), W)[1]
        return correlate(y)[0], count(torch.ones_like(y))[0]

    def _noise(self, samples: int, shape: tuple[int, ...]) -> Tensor:
        like = {"dtype": self.W.dtype, "device": self.W.device}
        return torch.randn((samples, *shape), generator=self.generator, **like)  # type: ignore[call-overload, no-any-return]


@torch.no_grad()
def draw_feedback(feedback: Feedback, W: Any, run: Run | None = None) -> Tensor | None:
    """Draw what a layer with weight W stores for its feedback, if anything.

    The real and imaginary parts of complex feedback are drawn as separate numbers.
    """
    if feedback.stored is Stored.NOTHING:
        return None
    if W.is_complex():
        parts = draw_feedback(feedback, torch.view_as_real(W))
        return None if parts is None else torch.view_as_complex(parts)
    if W.is_meta:
        return torch.empty_like(W, requires_grad=False)
    with torch._C.DisableTorchFunction():  # out of sight of function modes
        E: Tensor = feedback.draw(FeedbackSampler(W, run=run))
    return E


@torch.no_grad()
def draw_between(feedback: Feedback, shape: Sequence[int], W: Tensor) -> Tensor:
    """Draw the E between two layers, of shape (units above, units below).

    Args:
        feedback: the feedback axis.
        shape: E's shape.
        W: the weight of the lower layer, which sets E's type, device and scale.
    """
    E = W.detach().new_empty(shape)
    if not E.is_meta:
        E = feedback.draw(FeedbackSampler(E, like=W))
    return E

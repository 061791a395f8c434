"""What a converted module knows of its conversion, and how its feedback is drawn."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from lra.feedback import Feedback, Stored
from lra.loss_terms import LossTerms
from lra.rules import Rule
from lra.torch.ops import observer

if TYPE_CHECKING:
    from lra.torch.ops.routing import ErrorRouter, Link


@dataclass(frozen=True)
class Run:
    """A layer as noise can be sent through it.

    Attributes:
        f: y = f(x, W).
        shape: that of one sample's x.
        black_box: whether f can only be run, on vectors, and has no adjoint.
    """

    f: Callable[[Tensor, Tensor], Tensor]
    shape: tuple[int, ...]
    black_box: bool = False


@dataclass(frozen=True)
class FeedbackSampler:
    """Draws tensors of W's shape, type and device.

    Attributes:
        W: the weights.
        inputs: how many inputs each unit reads, where that is not the size of W[0].
        like: the weights whose size counts, where those are not W.
        run: the layer's product, where it is not that of W's rows.
        generator: of the noise; by default the device's own.
    """

    W: Tensor
    inputs: int | None = None
    like: Tensor | None = None
    run: Run | None = None
    generator: torch.Generator | None = None

    @property
    def fan_in(self) -> int:
        """How many inputs each unit reads."""
        return self.W[0].numel() if self.inputs is None else self.inputs

    @property
    def rms(self) -> float:
        """The root mean square of W; nan where W holds no values."""
        W = (self.W if self.like is None else self.like).detach()
        return math.nan if W.is_meta or not W.numel() else float(W.double().square().mean().sqrt())

    def __call__(self, kind: str, scale: float) -> Tensor:
        """Draw a tensor: normal by std, uniform by bound, or orthogonal by gain."""
        E = torch.empty_like(self.W, requires_grad=False)
        if kind == "orthogonal":  # torch factors no half precision
            exact = torch.promote_types(E.dtype, torch.float32)
            rows = torch.empty(len(E), E[0].numel(), dtype=exact, device=E.device)
            return E.copy_(nn.init.orthogonal_(rows, scale).view(E.shape))
        return E.normal_(0.0, scale) if kind == "normal" else E.uniform_(-scale, scale)

    def noise_correlation(self, samples: int) -> tuple[Tensor, Any]:
        """Run the layer on noise; correlate what goes in with what comes out, and count uses."""
        W = self.W.detach()
        if self.run is None:  # each row of W reads a vector, or a patch of one
            rows = W.reshape(len(W), -1)
            x = self._noise(samples, (rows.shape[1],))
            return ((x @ rows.T).T @ x).view_as(W), samples
        f = self.run.f
        x = self._noise(samples, self.run.shape)
        if self.run.black_box:
            y = f(x, W)
            return (y - y.mean(0)).T @ x, samples - 1  # less what it gives for nothing
        y, correlate = torch.func.vjp(lambda W: f(x, W), W)[:2]
        count = torch.func.vjp(lambda W: f(torch.ones_like(x), W), W)[1]
        return correlate(y)[0], count(torch.ones_like(y))[0]

    def _noise(self, samples: int, shape: tuple[int, ...]) -> Tensor:
        like = {"dtype": self.W.dtype, "device": self.W.device}
        return torch.randn((samples, *shape), generator=self.generator, **like)  # type: ignore[call-overload, no-any-return]


@torch.no_grad()
def draw_feedback(
    feedback: Feedback, W: Any, run: Any = None, generator: torch.Generator | None = None
) -> Tensor | None:
    """Draw what a layer with weight W keeps for its feedback, if anything."""
    if feedback.stored is Stored.NOTHING:
        return None
    if W.is_meta:
        return torch.empty_like(W, requires_grad=False)
    with torch._C.DisableTorchFunction():  # of those who watch
        E: Tensor = feedback.draw(FeedbackSampler(W, run=run, generator=generator))
    return E


@torch.no_grad()
def effective_feedback(
    feedback: Feedback, W: Tensor, kept: Tensor | None, draw: FeedbackSampler
) -> Any:
    """Give the E of one pass."""
    if observer.current is None:
        return feedback.effective(W, kept, draw, torch)
    with observer.current.separate_random():
        return feedback.effective(W, kept, draw, torch)


@torch.no_grad()
def draw_between(feedback: Feedback, shape: Sequence[int], W: Tensor) -> Tensor:
    """Draw the E between two layers, of (units above, units below), for the weight W of the lower.

    W says type and device, and how large weights are here.
    """
    E = W.detach().new_empty(shape)
    if not E.is_meta:
        E = feedback.draw(FeedbackSampler(E, like=W))
    return E


@dataclass
class Conversion:
    """What all modules converted together share.

    Attributes:
        skipped: the qualified names of what was left to autograd on purpose.
        proof: the audit of the example, where one was given.
        bends: whether any nonlinearity may be among them.
        warned: whether a warning of the scale of the loss was given.
        hub: what wires the layers, where they are no chain.
    """

    skipped: tuple[str, ...] = ()
    audit: Any = None
    has_activations: bool = False
    warned: bool = False
    router: "ErrorRouter | None" = None


@dataclass
class RuleState:
    """What a converted module knows of its conversion; apart, so that no attribute is taken.

    Attributes:
        rule: the rule.
        path: the module's qualified name.
        terms: N, the number of terms that the loss is a mean over, or how to count them.
        sees_input: whether no error has to cross the module.
        conversion: what all modules converted together share.
        drawn: whether the feedback weights hold numbers, and not what a meta device left.
        table: what a layer by function knows beside.
        looked: how many errors were looked at for the scale of the loss.
        flat: whether a unit is flat but for steps.
        instead: the feedback that is in the place of the rule's, where layers share theirs.
    """

    rule: Rule
    path: str
    terms: LossTerms | float = LossTerms.BATCH
    sees_input: bool = False
    conversion: Conversion = field(default_factory=Conversion)
    drawn: bool = True
    table: Any = None
    looked: int = 0
    flat: bool = False
    instead: Feedback | None = None

    @property
    def feedback(self) -> Feedback:
        """The feedback axis as it is here."""
        return self.rule.feedback if self.instead is None else self.instead

    def link_of(self, key: str = "") -> "Link | None":
        """Tell which layer the input of the module, or of a product in it, hears, if another."""
        router = self.conversion.router
        return router.links.get(f"{self.path}:{key}" if key else self.path) if router else None

    @property
    def counts(self) -> bool:
        """Whether the crossing needs an N, and counts it in the shapes that it sees."""
        needs = self.conversion.has_activations and self.rule.crossing.needs_terms
        return needs and isinstance(self.terms, LossTerms)


def as_weights(E: Tensor, W: Tensor, feedback: Feedback) -> None:
    """Let learned feedback be frozen and unfrozen with its weights."""
    if feedback.stored is Stored.LEARNED and isinstance(E, nn.Parameter):
        E.requires_grad_(W.requires_grad)


def translate(state: dict[str, Any], plain: str, kept: str, weight: str, W: Tensor) -> None:
    """Give a state what a layer keeps as `kept`, where it has feedback in the other form.

    Args:
        state: a state dict.
        plain: the key of E; its other form, E - W, has the key `plain` + "_offset".
        kept: which of the two the layer keeps.
        weight: the key of W.
        W: the layer's own weights, for a state that has none.
    """
    offset = f"{plain}_offset"
    other = plain if kept == offset else offset
    if kept in state or other not in state:
        return
    sign = -1 if kept == offset else 1
    state[kept] = state.pop(other) + sign * state.get(weight, W.detach())

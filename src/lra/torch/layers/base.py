"""What every converted layer shares: its rule, its feedback weights, and the way back."""

import copyreg
import functools
import math
import sys
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from lra.crossing import Derivative
from lra.errors import RuleError
from lra.feedback import Feedback, Stored, Transpose
from lra.loss_terms import LossTerms
from lra.rules import Rule
from lra.torch.backward import (
    Nonlinearity,
    Operation,
    Place,
    Taught,
    Weights,
    bend,
    multiply,
    send,
)
from lra.torch.watch import look_at_errors, pair


@dataclass(frozen=True)
class DrawLike:
    """Draws tensors of W's shape, type and device."""

    W: Tensor
    inputs: int | None = None

    @property
    def fan_in(self) -> int:
        """How many inputs each unit reads."""
        return self.W[0].numel() if self.inputs is None else self.inputs

    @property
    def rms(self) -> float:
        """The root mean square of W; nan where W holds no values."""
        W = self.W.detach()
        return math.nan if W.is_meta or not W.numel() else float(W.double().square().mean().sqrt())

    def __call__(self, kind: str, scale: float) -> Tensor:
        """Draw a tensor, normal by std or uniform by bound."""
        E = torch.empty_like(self.W, requires_grad=False)
        return E.normal_(0.0, scale) if kind == "normal" else E.uniform_(-scale, scale)


@torch.no_grad()
def draw_feedback(feedback: Feedback, W: Any) -> Tensor | None:
    """Draw what a layer with weight W keeps for its feedback, if anything."""
    if feedback.stored is Stored.NOTHING:
        return None
    E: Tensor = feedback.draw(DrawLike(W))
    return E


@dataclass
class Conversion:
    """What all modules converted together share.

    Attributes:
        skipped: the qualified names of what was left to autograd on purpose.
        proof: the audit of the example, where one was given.
        bends: whether any nonlinearity may be among them.
        warned: whether a warning of the scale of the loss was given.
    """

    skipped: tuple[str, ...] = ()
    proof: Any = None
    bends: bool = False
    warned: bool = False


@dataclass
class Record:
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
    """

    rule: Rule
    path: str
    terms: LossTerms | float = LossTerms.BATCH
    sees_input: bool = False
    conversion: Conversion = field(default_factory=Conversion)
    drawn: bool = True
    table: Any = None
    looked: int = 0

    @property
    def nonlinear(self) -> bool:
        """Whether the scale of the errors matters to the crossing."""
        return not isinstance(self.rule.crossing, Derivative)

    @property
    def counts(self) -> bool:
        """Whether the crossing needs an N, and counts it in the shapes that it sees."""
        return self.conversion.bends and self.nonlinear and isinstance(self.terms, LossTerms)


def as_weights(E: Tensor, W: Tensor) -> None:
    """Let learned feedback be frozen and unfrozen with its weights."""
    if isinstance(E, nn.Parameter):
        E.requires_grad_(W.requires_grad)


class Local(nn.Module):
    """Mixed in before a module's class: it keeps its forward and gets a rule's backward."""

    plain: ClassVar[type[Any]]
    fuses: ClassVar[bool] = False
    """Whether a Sequential may run it with its neighbours in one autograd Function."""
    _lra: Record

    @classmethod
    def wrap(cls, plain: type[nn.Module]) -> dict[str, Any]:
        """Give what a class made for a plain one has of its own."""
        return {}

    def __reduce_ex__(self, protocol: Any) -> Any:
        reduced: Any = super().__reduce_ex__(protocol)
        made, args, *rest = reduced
        if made is copyreg.__newobj__ and type(self).__name__ not in vars(  # type: ignore[attr-defined]
            sys.modules[type(self).__module__]
        ):
            return _blank, (type(self).__mro__[1], self.plain), *rest
        return made, args, *rest

    @property
    def rule(self) -> Rule:
        """The rule that was swapped in."""
        return self._lra.rule

    @property
    def crosses(self) -> bool:
        """Whether errors cross this layer by the rule's own backward, not by torch's."""
        return True

    def place(self) -> tuple[Place, tuple[Tensor | None, ...]]:
        """Give this layer as a place that errors cross, with the tensors that it takes."""
        raise NotImplementedError

    def extra_repr(self) -> str:
        """Describe the plain layer, then the axis that applies to it."""
        return ", ".join(filter(None, (super().extra_repr(), self._describe())))

    def _describe(self) -> str:
        raise NotImplementedError

    def restore(self) -> None:
        """Become the plain class again, and drop what the conversion added."""
        del self._lra
        self.__class__ = self.plain


_made: dict[tuple[type[Local], type[nn.Module]], type[Local]] = {}


def local_class(mixin: type[Local], plain: type[nn.Module]) -> type[Local]:
    """Give the class that a module of a plain class becomes; the same one every time."""
    if (mixin, plain) not in _made:
        body = {"plain": plain, "__doc__": plain.__doc__, "__module__": mixin.__module__}
        name = f"Local{plain.__name__}"
        _made[mixin, plain] = type(name, (mixin, plain), body | mixin.wrap(plain))
    return _made[mixin, plain]


def _blank(mixin: type[Local], plain: type[nn.Module]) -> Local:
    """Make an empty module of a local class, for pickle to fill."""
    cls = local_class(mixin, plain)
    return cls.__new__(cls)


class LocalWeights(Local):
    """A weight layer across which errors go down through feedback weights.

    `feedback` stands beside `weight` and has its shape: a Parameter where the rule learns it, a
    buffer where it is fixed, None where the rule keeps none or the layer sees the raw input.
    """

    weight: Tensor
    bias: Tensor | None  # torch declares Linear's a Tensor, though it may be None
    feedback: Tensor | None

    @property
    def sees_input(self) -> bool:
        """Whether the layer sees the raw input only, so that no error has to cross it."""
        return self._lra.sees_input

    def adopt(self, record: Record, E: Tensor | None) -> None:
        """Take a rule, and what it keeps as feedback weights."""
        self._lra, rule = record, record.rule
        record.drawn = E is None or not E.is_meta
        if E is not None and rule.feedback.stored is Stored.FIXED:
            self.register_buffer("feedback", E)
            return
        learned = None if E is None else nn.Parameter(E, requires_grad=self.weight.requires_grad)
        self.register_parameter("feedback", learned)
        pair(self.weight, learned)

    def see_input(self) -> None:
        """Drop the feedback weights: no error has to cross this layer."""
        del self.feedback
        self._lra.sees_input = True
        self.register_parameter("feedback", None)

    def restore(self) -> None:
        """Become the plain class again, and drop what the conversion added."""
        del self.feedback
        super().restore()

    @property
    def crosses(self) -> bool:
        """Whether errors cross by feedback other than W itself."""
        return not (self.sees_input or isinstance(self.rule.feedback, Transpose))

    def place(self) -> tuple[Place, tuple[Tensor | None, ...]]:
        """Give h = z W^T + b with the E of this pass."""
        feedback = self.rule.feedback
        if not self._lra.drawn:
            self.draw_again()
        E = self.feedback
        if E is not None and E.requires_grad != self.weight.requires_grad:
            as_weights(E, self.weight)
        if type(feedback).effective is Feedback.effective:  # what is kept, as it is
            return Weights(self.operation(), feedback), (self.weight, self.bias, self.feedback)
        with torch.no_grad():
            W = self.weight
            E = feedback.effective(W, self.feedback, DrawLike(W), torch)
        return Weights(self.operation(), feedback), (self.weight, self.bias, E)

    @torch.no_grad()
    def draw_again(self) -> None:
        """Draw the feedback weights anew, at the scale that the layer's weights have now."""
        if self.feedback is not None and not self.feedback.is_meta:
            E = draw_feedback(self.rule.feedback, self.weight)
            assert E is not None
            self.feedback.copy_(E)
            self._lra.drawn = True

    def reset_parameters(self) -> None:
        """Draw all weights anew, those of the feedback too."""
        super().reset_parameters()  # type: ignore[misc]
        if "_lra" in vars(self):
            self.draw_again()

    def operation(self) -> Operation:
        """Give the layer's arithmetic."""
        raise NotImplementedError

    def carry(self, x: Tensor) -> Tensor:
        """Run the layer on x, with errors coming back through E."""
        place, tensors = self.place()
        assert isinstance(place, Weights)
        h = multiply(place, x, *tensors)
        look_at_errors(self._lra, h)
        return h

    def check_input(self, x: Tensor, dimensions: int) -> None:
        """Refuse what would give wrong updates.

        Args:
            x: the layer's input.
            dimensions: how many it has where there is no batch.

        Raises:
            RuleError: where an error would have to cross a layer taken to see the raw input, or
                where N would be counted in an input without a batch.
        """
        if x.dim() <= dimensions and self._lra.counts and torch.is_grad_enabled():
            raise RuleError(
                f"layer {self._lra.path!r} was given one sample without a batch, of shape "
                f"{tuple(x.shape)}; the number N of terms of the loss would be counted as "
                f"{x.shape[0]} there. Say what it is: lra.set_loss_terms(model, 1) for the loss of "
                "one sample"
            )
        if self.sees_input and x.requires_grad and torch.is_grad_enabled():
            raise RuleError(
                f"layer {self._lra.path!r} was converted as one that sees the raw input, so it has "
                "no feedback weights; but its input requires a gradient, so an error must cross "
                "it. Convert with input_layers=() to give every layer feedback weights, or name "
                "the layers that do see the raw input: input_layers=(...)"
            )

    def _describe(self) -> str:
        return f"feedback={None if self.sees_input else self.rule.feedback}"

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any
    ) -> None:
        # Weights of a plain network load as they are: the feedback weights stay as drawn.
        without = f"{prefix}feedback" not in state_dict
        if self.feedback is not None:
            state_dict.setdefault(f"{prefix}feedback", self.feedback)
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)
        if not self._lra.drawn and without:
            self.draw_again()
        self._lra.drawn = self._lra.drawn or not without


class LocalNonlinearity(Local):
    """A unit z = phi(h) of h's shape, which errors cross by the rule's crossing axis.

    phi is the plain class's own forward. Parameters of the unit's own take the gradient of the
    error that arrives.
    """

    @property
    def loss_terms(self) -> LossTerms | float:
        """N, the number of terms that the loss is a mean over, or how to count them."""
        return self._lra.terms

    @property
    def fuses(self) -> bool:  # type: ignore[override]
        """Whether a Sequential may run it with its neighbours: where phi has no parameters."""
        return not self._parameters and not self._modules

    @property
    def in_place(self) -> bool:
        """Whether the module overwrites its input."""
        return bool(getattr(self, "inplace", False))

    def phi(self, h: Tensor) -> Tensor:
        """Run the plain forward, out of place."""
        z: Tensor = self.plain.forward(self, h.clone() if self.in_place else h)
        return z

    def place(self) -> tuple[Place, tuple[Tensor | None, ...]]:
        """Give z = phi(h)."""
        return Nonlinearity(self.phi, self.rule.crossing, self.loss_terms), ()

    def forward(self, input: Tensor) -> Tensor:
        """Give z = phi(h); an in-place module overwrites h with it, as the plain one does."""
        if not torch.is_grad_enabled():
            return self.plain.forward(self, input)  # type: ignore[no-any-return]
        if self.fuses:
            phi = functools.partial(self.plain.forward, self)
            return bend(phi, self.rule.crossing, self.loss_terms, input, self.in_place)
        # Autograd finds the parameters' gradients; the error at h is the rule's.
        h = input.clone() if self.in_place else input
        taught = Taught(self.phi, self.rule.crossing, self.loss_terms)
        z = send((taught,), h, self.plain.forward(self, h.detach()))
        return input.copy_(z) if self.in_place else z

    def _describe(self) -> str:
        return f"crossing={self.rule.crossing}"

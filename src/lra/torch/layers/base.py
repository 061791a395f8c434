"""What every converted layer shares: its rule, its feedback weights, and the way back."""

from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from lra.crossing import LossTerms
from lra.errors import RuleError
from lra.feedback import Feedback, Stored, Transpose
from lra.rules import Rule
from lra.torch.backward import Nonlinearity, Operation, Place, Weights, send


def fan_in(W: Tensor) -> int:
    """Give how many inputs each unit of a weight layer reads."""
    return W[0].numel()


def draw_like(W: Tensor, kind: str, scale: float) -> Tensor:
    """Draw a tensor of W's shape, type and device, normal by std or uniform by bound."""
    E = torch.empty_like(W, requires_grad=False)
    return E.normal_(0.0, scale) if kind == "normal" else E.uniform_(-scale, scale)


@torch.no_grad()
def draw_feedback(feedback: Feedback, W: Any) -> Tensor | None:
    """Draw what a layer with weight W keeps for its feedback, if anything."""
    if feedback.stored is Stored.NOTHING:
        return None
    E: Tensor = feedback.draw(fan_in(W), partial(draw_like, W))
    return E


class Local(nn.Module):
    """Mixed in before a torch.nn class: the module keeps its forward and gets a rule's backward."""

    plain: ClassVar[type[Any]]
    fuses: ClassVar[bool] = False
    """Whether a Sequential may run it with its neighbours in one autograd Function."""
    rule: Rule
    path: str

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
        del self.rule, self.path
        self.__class__ = self.plain


class LocalWeights(Local):
    """A weight layer across which errors go down through feedback weights.

    `feedback` stands beside `weight` and has its shape: a Parameter where the rule learns it, a
    buffer where it is fixed, None where the rule keeps none or the layer sees the raw input.
    """

    weight: Tensor
    bias: Tensor | None  # torch declares Linear's a Tensor, though it may be None
    feedback: Tensor | None
    sees_input: bool

    def adopt(self, rule: Rule, path: str, sees_input: bool, E: Tensor | None) -> None:
        """Take a rule, and what it keeps as feedback weights."""
        self.rule, self.path, self.sees_input = rule, path, sees_input
        if E is not None and rule.feedback.stored is Stored.FIXED:
            self.register_buffer("feedback", E)
            return
        learned = None if E is None else nn.Parameter(E, requires_grad=self.weight.requires_grad)
        self.register_parameter("feedback", learned)

    def restore(self) -> None:
        """Become the plain class again, and drop what the conversion added."""
        del self.feedback, self.sees_input
        super().restore()

    @property
    def crosses(self) -> bool:
        """Whether errors cross by feedback other than W itself."""
        return not (self.sees_input or isinstance(self.rule.feedback, Transpose))

    def place(self) -> tuple[Place, tuple[Tensor | None, ...]]:
        """Give h = z W^T + b with the E of this pass."""
        feedback = self.rule.feedback
        if type(feedback).carried is Feedback.carried:  # what is kept, as it is: nothing to compute
            return Weights(self.operation(), feedback), (self.weight, self.bias, self.feedback)
        with torch.no_grad():
            W = self.weight
            E = feedback.carried(W, self.feedback, fan_in(W), partial(draw_like, W), torch)
        return Weights(self.operation(), feedback), (self.weight, self.bias, E)

    def operation(self) -> Operation:
        """Give the layer's arithmetic."""
        raise NotImplementedError

    def carry(self, x: Tensor) -> Tensor:
        """Run the layer on x, with errors coming back through E."""
        place, tensors = self.place()
        return send((place,), x, *tensors)

    def check_input(self, x: Tensor) -> None:
        """Refuse an error that would have to cross a layer taken to see the raw input.

        Raises:
            RuleError: where there is one.
        """
        if self.sees_input and x.requires_grad and torch.is_grad_enabled():
            raise RuleError(
                f"layer {self.path!r} was converted as one that sees the raw input, so it has no "
                "feedback weights; but its input requires a gradient, so an error must cross it. "
                "Convert with input_layers=() to give every layer feedback weights, or name the "
                "layers that do see the raw input: input_layers=(...)"
            )

    def _describe(self) -> str:
        return f"feedback={None if self.sees_input else self.rule.feedback}"

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any
    ) -> None:
        # Weights of a plain network load as they are: the feedback weights stay as drawn.
        if self.feedback is not None:
            state_dict.setdefault(f"{prefix}feedback", self.feedback)
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)


class LocalNonlinearity(Local):
    """An elementwise nonlinearity that errors cross by the rule's crossing axis."""

    loss_terms: LossTerms | float
    """N, the number of terms that the loss is a mean over, or how to count them."""

    def adopt(self, rule: Rule, path: str, terms: LossTerms | float) -> None:
        """Take a rule."""
        self.rule, self.path, self.loss_terms = rule, path, terms

    def restore(self) -> None:
        """Become the plain class again, and drop what the conversion added."""
        del self.loss_terms
        super().restore()

    def place(self) -> tuple[Place, tuple[Tensor | None, ...]]:
        """Give z = phi(h)."""
        return Nonlinearity(self.phi(), self.rule.crossing, self.loss_terms), ()

    def phi(self) -> Any:
        """Give the function of h, with the module's own settings."""
        raise NotImplementedError

    def _describe(self) -> str:
        return f"crossing={self.rule.crossing}"

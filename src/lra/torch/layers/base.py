"""What every converted layer shares: its rule, its feedback weights, and the way back."""

import copyreg
import sys
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from lra.errors import RuleError
from lra.feedback import Feedback, Offset, Stored, Transpose
from lra.rules import Rule
from lra.torch.layers.state import (
    FeedbackSampler,
    RuleState,
    as_weights,
    draw_between,
    draw_feedback,
    effective_feedback,
    translate,
)
from lra.torch.ops.autograd import apply_weights
from lra.torch.ops.ops import BilinearMap, Op, WeightOp, needs_error
from lra.torch.user_warnings import check_first_errors, link_feedback, warn_of_mirrored


class Local(nn.Module):
    """Mixed in before a module's class: it keeps its forward and gets a rule's backward."""

    plain: ClassVar[type[Any]]
    fuses: ClassVar[bool] = False
    """Whether a Sequential may run it with its neighbours in one autograd Function."""
    _lra: RuleState

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
    def follows_rule(self) -> bool:
        """Whether errors cross this layer by the rule's own backward, not by torch's."""
        return True

    def op(self) -> tuple[Op, tuple[Tensor | None, ...]]:
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
    buffer where it is fixed, None where the rule keeps none or the layer sees the raw input. Where
    feedback is shared (`lra.share_feedback`), E is `weight + feedback_offset`, and `feedback` None.
    """

    units_last: ClassVar[bool] = True
    """Whether the layer's units are in the last dimension."""
    weight: Tensor
    bias: Tensor | None  # torch declares Linear's a Tensor, though it may be None
    feedback: Tensor | None
    feedback_offset: Tensor

    @property
    def sees_input(self) -> bool:
        """Whether the layer sees the raw input only, so that no error has to cross it."""
        return self._lra.sees_input

    def adopt(self, record: RuleState, E: Tensor | None) -> None:
        """Take a rule, and what it keeps as feedback weights."""
        self._lra, rule = record, record.rule
        record.drawn = E is None or not E.is_meta
        if E is not None and rule.feedback.stored is Stored.FIXED:
            self.register_buffer("feedback", E)
            return
        learned = None if E is None else nn.Parameter(E, requires_grad=self.weight.requires_grad)
        self.register_parameter("feedback", learned)
        link_feedback(self.weight, learned)

    @property
    def kept_as(self) -> str:
        """The name of what the layer keeps for its feedback, if it keeps anything."""
        return "feedback_offset" if isinstance(self._lra.feedback, Offset) else "feedback"

    def _kept(self) -> Tensor | None:
        """Give the feedback weights, drawn, and learned as long as the weights are."""
        if not self._lra.drawn:
            self.draw_again()
        E: Tensor | None = getattr(self, self.kept_as)
        if E is not None and E.requires_grad != self.weight.requires_grad:
            as_weights(E, self.weight, self._lra.feedback)
        return E

    def see_input(self) -> None:
        """Drop the feedback weights: no error has to cross this layer."""
        del self.feedback
        self._lra.sees_input = True
        self.register_parameter("feedback", None)

    def restore(self) -> None:
        """Become the plain class again, and drop what the conversion added."""
        for name in {"feedback", self.kept_as}:
            delattr(self, name)
        super().restore()

    @property
    def follows_rule(self) -> bool:
        """Whether errors cross by feedback other than W itself."""
        return not (self.sees_input or isinstance(self._lra.feedback, Transpose))

    def op(self) -> tuple[Op, tuple[Tensor | None, ...]]:
        """Give h = z W^T + b with the E of this pass."""
        feedback, E, W = self._lra.feedback, self._kept(), self.weight
        if self.sees_input or self._lra.link_of() is not None:  # no error crosses the layer itself
            return WeightOp(self.map(), Transpose()), (W, self.bias, W.detach())
        offset = isinstance(feedback, Offset)
        if not offset and type(feedback).effective is not Feedback.effective:
            E = effective_feedback(feedback, W, E, FeedbackSampler(W))  # what is kept is not yet E
        return WeightOp(self.map(), feedback, offset=offset), (W, self.bias, E)

    @torch.no_grad()
    def draw_again(self) -> None:
        """Draw the feedback weights anew, at the scale that the layer's weights have now."""
        kept = getattr(self, self.kept_as)
        if kept is not None and not kept.is_meta:
            if self._lra.link_of() is None:
                E = draw_feedback(self._lra.feedback, self.weight, self.product_of(self))
                assert E is not None
            else:
                E = draw_between(self._lra.feedback, kept.shape, self.weight)
            kept.copy_(E - self.weight if isinstance(self._lra.feedback, Offset) else E)
            self._lra.drawn = True

    @staticmethod
    def product_of(layer: Any) -> Any:
        """Give the product that the layer runs, where it is not that of its weight's rows."""
        return None

    def reset_parameters(self) -> None:
        """Draw all weights anew, those of the feedback too."""
        super().reset_parameters()  # type: ignore[misc]
        if "_lra" in vars(self):
            self.draw_again()

    def map(self) -> BilinearMap:
        """Give the layer's arithmetic."""
        raise NotImplementedError

    def run(self, x: Tensor) -> Tensor:
        """Run the layer on x, with errors coming back through E."""
        router = self._lra.conversion.router
        if router is not None:
            x = router.detach_input(self._lra.path, x, self._kept(), self.units_last)
        op, tensors = self.op()
        assert isinstance(op, WeightOp)
        if router is None:
            h = apply_weights(op, x, *tensors)
        else:
            h = router.run(self._lra.path, op, x, *tensors)
        check_first_errors(self._lra, h)
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
        if self.sees_input and needs_error(x) and torch.is_grad_enabled():
            raise RuleError(
                f"layer {self._lra.path!r} was converted as one that sees the raw input, so it has "
                "no feedback weights; but its input requires a gradient, so an error must cross "
                "it. Convert with input_layers=() to give every layer feedback weights, or name "
                "the layers that do see the raw input: input_layers=(...)"
            )

    def _describe(self) -> str:
        return f"feedback={None if self.sees_input else self._lra.feedback}"

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any
    ) -> None:
        # Weights of a plain network load as they are: what is kept for feedback stays.
        name, kept = f"{prefix}{self.kept_as}", getattr(self, self.kept_as)
        translate(state_dict, f"{prefix}feedback", name, f"{prefix}weight", self.weight)
        without = name not in state_dict
        if kept is not None:
            state_dict.setdefault(name, kept)
        apart = kept is not None and self.kept_as == "feedback"  # what is shared goes with W
        warn_of_mirrored(self.rule, without and apart and self._lra.drawn)
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)
        if not self._lra.drawn and without:
            self.draw_again()
        self._lra.drawn = self._lra.drawn or not without

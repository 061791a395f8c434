"""What all converted modules share: their rule, their feedback slots, and their way to disk."""

import copyreg
import functools
import sys
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.fx import GraphModule

from lra.errors import ConversionError, RuleError
from lra.feedback import Stored, Transpose
from lra.rules import Rule
from lra.torch.layers.backward_check import check_backward
from lra.torch.layers.classes import adopt, blank, class_name
from lra.torch.layers.sampler import FeedbackSampler, Run
from lra.torch.layers.slots import FeedbackSlot, RuleState, add_tensor, translate
from lra.torch.ops.autograd import apply_weights
from lra.torch.ops.ops import BilinearMap, Op, WeightOp, needs_error
from lra.torch.optimizer_hooks import link_feedback
from lra.torch.user_warnings import check_first_errors


class Local(nn.Module):
    """Mixed in before a module's class, which keeps its forward and gets a rule's backward."""

    plain: ClassVar[type[Any]]
    methods: ClassVar[tuple[str, ...]] = ()
    """The methods beside `forward` whose code follows the rule."""
    fuses: ClassVar[bool] = False
    """Whether a Sequential can run it with its neighbours in one autograd Function."""
    multiplies: ClassVar[bool] = False
    """Whether modules of this kind multiply with weights."""
    _lra: RuleState

    @classmethod
    def wrap(cls, plain: type[nn.Module], *methods: str) -> dict[str, Any]:
        """Return the attributes of a class that is made for a plain one."""
        return {}

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if cls.multiplies and "plain" in vars(cls):
            for name in ("reset_parameters", "_reset_parameters"):
                if hasattr(cls.plain, name):
                    setattr(cls, name, _with_feedback(getattr(cls.plain, name)))

    def __reduce_ex__(self, protocol: Any) -> Any:
        reduced: Any = super().__reduce_ex__(protocol)
        made, args, *rest = reduced
        mixin = getattr(type(self), "_mixin", None)
        if isinstance(self, GraphModule):  # it is rebuilt from its code
            added = {name: getattr(self, name) for name in self._lra.added}
            return adopt, (mixin, made, args, self._lra, added)
        if made is copyreg.__newobj__ and type(self).__name__ not in vars(  # type: ignore[attr-defined]
            sys.modules[type(self).__module__]
        ):
            return blank, (mixin, self.plain, *self.methods), *rest
        return made, args, *rest

    def __prepare_scriptable__(self) -> Any:
        raise ConversionError(
            f"torch.jit.script: {self._lra.path!r} ({class_name(self)}) is converted, and "
            "TorchScript has no rules; call lra.restore(model) first"
        )

    @property
    def qconfig(self) -> Any:
        """What torch.ao.quantization attaches to a module; not to a converted one."""
        try:
            return vars(self)["qconfig"]
        except KeyError:
            raise AttributeError("qconfig") from None

    @qconfig.setter
    def qconfig(self, value: Any) -> None:
        raise ConversionError(
            f"torch.ao.quantization: {self._lra.path!r} ({class_name(self)}) is converted, and "
            "only plain layers can be quantized; call lra.restore(model) first"
        )

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        link_feedback(self)

    def register_parameter(self, name: str, param: Any) -> None:
        """Register a parameter, and find its feedback at the next step of an optimizer."""
        super().register_parameter(name, param)
        link_feedback(self)

    @property
    def rule(self) -> Rule:
        """The rule that was swapped in."""
        return self._lra.rule

    @property
    def follows_rule(self) -> bool:
        """Whether errors cross this module by the rule's backward pass, not by autograd's."""
        return True

    def op(self) -> tuple[Op, tuple[Tensor | None, ...]]:
        """Return this module as an op, with the tensors that the op takes."""
        raise NotImplementedError

    @staticmethod
    def product_of(layer: Any) -> Run | None:
        """Return the product that a layer computes, where it is not x W^T of its weight's rows."""
        return None

    def extra_repr(self) -> str:
        """Describe the plain module, then the axis that applies to it."""
        return ", ".join(filter(None, (super().extra_repr(), self._describe())))

    def _describe(self) -> str:
        raise NotImplementedError

    def restore(self) -> None:
        """Become the plain class again, and remove what the conversion added."""
        for name in self._lra.added:
            delattr(self, name)
        del self._lra
        self.__class__ = self.plain
        link_feedback(self)

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any
    ) -> None:
        # A plain network's weights load as they are, and the feedback weights stay.
        own = [slot for slot in self._lra.slots.values() if slot.own]
        missing = []
        for slot in own:
            W = slot.weight(self)
            if W is not None:
                translate(state_dict, prefix, slot, W)
            mirrored, slot.mirrored = slot.mirrored, None  # what a state holds belongs together
            if f"{prefix}{slot.name}" not in state_dict:
                missing.append(slot)
                if W is not None and slot.drawn:
                    slot.note_mirror(W, slot.stored(self), always=mirrored is not None)
                    self._lra.conversion.untrained = True
                state_dict[f"{prefix}{slot.name}"] = slot.stored(self)
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)
        for slot in own:
            if not slot.drawn and slot in missing:
                slot.draw(self)
            slot.drawn = slot.drawn or slot not in missing


def _with_feedback(reset: Any) -> Any:
    """Return a method that draws a module's weights again, and their feedback with them."""

    @functools.wraps(reset)
    def method(self: Any, *args: Any, **kwargs: Any) -> None:
        reset(self, *args, **kwargs)
        for slot in self._lra.slots.values() if "_lra" in vars(self) else ():
            if slot.weight(self) is not None:
                slot.draw(self)

    return method


class LocalUnchanged(Local):
    """A module under backprop, in whose functions other rules would replace something."""

    multiplies = True

    @property
    def follows_rule(self) -> bool:
        """False: errors cross it by autograd, as backprop does."""
        return False

    def _describe(self) -> str:
        return f"rule={self.rule}"


class LocalWeights(Local):
    """A weight layer across which errors go down through feedback weights.

    `feedback` stands beside `weight` and has its shape: a parameter where the rule learns it, a
    buffer where it is fixed, and None where the rule stores none or the layer sees the raw input.
    Where feedback is shared (`lra.share_feedback`), E is `weight + feedback_offset`, and `feedback`
    is None.
    """

    multiplies = True
    units_last: ClassVar[bool] = True
    """Whether the layer's units are in the last dimension."""
    weight: Tensor
    bias: Tensor | None  # torch declares Linear's a Tensor, though it can be None
    feedback: Tensor | None
    feedback_offset: Tensor

    @property
    def sees_input(self) -> bool:
        """Whether the layer sees only the raw input, so that no error has to cross it."""
        return self._lra.sees_input

    @property
    def slot(self) -> FeedbackSlot | None:
        """How the layer's weight gets its feedback; None where the layer sees the raw input."""
        return self._lra.slots.get("weight")

    def adopt(self, state: RuleState, E: Tensor | None) -> None:
        """Take a rule, and what the layer stores as feedback weights."""
        self._lra, feedback = state, state.rule.feedback
        if not state.sees_input:
            drawn = E is None or not E.is_meta
            slot = FeedbackSlot("weight", feedback, "" if E is None else "feedback", drawn)
            state.slots["weight"] = slot
            if E is not None:
                slot.note_mirror(self.weight, E)
        if E is not None and feedback.stored is Stored.LEARNED:
            E = nn.Parameter(E, requires_grad=self.weight.requires_grad)
        add_tensor(self, "feedback", E)

    def see_input(self) -> None:
        """Drop the feedback weights: no error has to cross this layer."""
        if self._lra.conversion.modules is not None:
            return  # another model of the layer, converted before, may send errors across it
        del self.feedback
        self._lra.sees_input = True
        self._lra.slots.clear()
        add_tensor(self, "feedback", None)

    @property
    def follows_rule(self) -> bool:
        """Whether errors cross by feedback other than W itself."""
        return self.slot is not None and not isinstance(self.slot.feedback, Transpose)

    def op(self) -> tuple[Op, tuple[Tensor | None, ...]]:
        """Return h = z W^T + b with the E of this pass."""
        slot, W = self.slot, self.weight
        if slot is None or slot.route is not None:  # no error crosses the layer itself
            return WeightOp(self.map(), Transpose()), (W, self.bias, W.detach())
        E = slot.current(self, W)
        if slot.computed and not slot.offset:
            E = slot.effective(W, E, FeedbackSampler(W))
        return WeightOp(self.map(), slot.feedback, offset=slot.offset), (W, self.bias, E)

    def map(self) -> BilinearMap:
        """Return the layer's arithmetic."""
        raise NotImplementedError

    def run(self, x: Tensor) -> Tensor:
        """Run the layer on x, with errors coming back through E."""
        router, slot = self._lra.conversion.router, self.slot
        if router is not None and slot is not None:
            E = slot.current(self, self.weight)
            x = router.detach_input(self._lra.path, slot.route, x, E, self.units_last)
        op, tensors = self.op()
        assert isinstance(op, WeightOp)
        if router is None:
            h = apply_weights(op, x, *tensors)
        else:
            h = router.run(self._lra.path, op, x, *tensors)
        check_first_errors(self._lra, h)
        return self.with_backward_check(h)

    def with_backward_check(self, h: Tensor) -> Tensor:
        """Return the layer's output; the first backward passes through it are checked."""
        check_backward(self._lra, h)
        return h

    def check_input(self, x: Tensor, dimensions: int) -> None:
        """Refuse an input that would lead to wrong updates.

        Args:
            x: the layer's input.
            dimensions: the number of its dimensions without a batch.

        Raises:
            RuleError: where an error would have to cross a layer that is taken to see the raw
                input, or where N would be counted in an input without a batch.
        """
        if x.dim() <= dimensions and self._lra.counts_terms and torch.is_grad_enabled():
            raise RuleError(
                f"layer {self._lra.path!r} got one sample without a batch, of shape "
                f"{tuple(x.shape)}, in which the number N of terms of the loss would be counted as "
                f"{x.shape[0]}. Call lra.set_loss_terms(model, 1) for the loss of one sample"
            )
        if self.sees_input and needs_error(x) and torch.is_grad_enabled():
            raise RuleError(
                f"layer {self._lra.path!r} was converted as one that sees the raw input, so it has "
                "no feedback weights, but its input requires a gradient, so an error must cross "
                "it. Convert with input_layers=() to give every layer feedback weights, or name "
                "the layers that do see the raw input: input_layers=(...)"
            )

    def _describe(self) -> str:
        return f"feedback={None if self.slot is None else self.slot.feedback}"

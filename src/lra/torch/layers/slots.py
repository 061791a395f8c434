"""Feedback slots: one record for each weight that a converted module multiplies with.

Every tool that draws, loads, mirrors, shares or counts feedback weights is a loop over these.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from lra.feedback import Feedback, Offset, Stored
from lra.inits import Mirror
from lra.loss_terms import LossTerms
from lra.rules import Rule
from lra.torch.layers.sampler import FeedbackSampler, draw_between, draw_feedback
from lra.torch.ops import observer
from lra.torch.optimizer_hooks import link_feedback
from lra.torch.user_warnings import note_change, sample

if TYPE_CHECKING:
    from lra.torch.ops.routing import ErrorRouter, Link


@dataclass(eq=False)
class FeedbackSlot:
    """How one weight of a converted module gets its feedback.

    Attributes:
        key: the parameter's name in the module. A weight that is derived from it in each forward
            has its shape after a colon: "weight:3x4".
        feedback: the feedback axis as it applies here: the rule's, or `Offset` where E is shared.
        name: the name of the stored tensor, E or E - W, in the module. "" where nothing is stored,
            and a dotted name where the tensor belongs to a submodule.
        drawn: False on a meta device, until the weights have values.
        route: which layer's error arrives at the weight's input, where that is not its own.
        mirrored: samples of W and E from when E last mirrored W, if it did.
    """

    key: str
    feedback: Feedback
    name: str = ""
    drawn: bool = True
    route: "Link | None" = None
    mirrored: tuple[Tensor, Tensor] | None = None

    @property
    def own(self) -> bool:
        """Whether the stored tensor belongs to the module itself."""
        return bool(self.name) and "." not in self.name

    @property
    def offset(self) -> bool:
        """Whether E - W is stored instead of E."""
        return isinstance(self.feedback, Offset)

    @property
    def computed(self) -> bool:
        """Whether the E of a pass is computed from W, and not simply what is stored."""
        return type(self.feedback).effective is not Feedback.effective

    @property
    def parameter(self) -> str:
        """The name of the parameter, without the shape of what is derived from it."""
        return self.key.partition(":")[0]

    def weight(self, module: nn.Module) -> Tensor | None:
        """Return the weight; None where it is derived in each forward."""
        if ":" in self.key:
            return None
        owner, _, leaf = self.key.rpartition(".")
        W: Tensor = getattr(module.get_submodule(owner), leaf)
        return W

    def leaf(self, module: nn.Module) -> nn.Parameter | None:
        """Return the weight if it is a parameter now; nothing is computed."""
        return dict(module.named_parameters(remove_duplicate=False)).get(self.key)

    def stored(self, module: nn.Module) -> Any:
        """Return the stored tensor, or None."""
        if not self.name:
            return None
        owner, _, leaf = self.name.rpartition(".")
        return getattr(module.get_submodule(owner), leaf)

    def current(self, module: Any, W: Tensor) -> Tensor | None:
        """Return the stored tensor for a pass: drawn, and trainable as long as W is."""
        if not self.drawn:
            self.draw(module)
        E: Tensor | None = self.stored(module)
        learned = self.feedback.stored is Stored.LEARNED and isinstance(E, nn.Parameter)
        if learned and E is not None and E.requires_grad != W.requires_grad:
            E.requires_grad_(W.requires_grad)
        if not torch.compiler.is_compiling():
            self.check_mirror(module, W)
        return E

    def note_mirror(self, W: Tensor, E: Tensor, always: bool = False) -> None:
        """Remember the W that E mirrors, if its init is `Mirror` or it does `always`."""
        mirrors = always or isinstance(getattr(self.feedback, "init", None), Mirror)
        known = mirrors and not (self.offset or W.is_meta or self.route)  # E = W + D moves with W
        self.mirrored = (sample(W), sample(E)) if known else None

    def check_mirror(self, module: Any, W: Tensor) -> None:
        """Check before training that W is still the one that E mirrors."""
        state = module._lra
        if not state.conversion.untrained:
            self.mirrored = None
        elif self.mirrored is not None:
            name = f"{state.path}.{self.parameter}".strip(".")
            note_change(state.conversion, name, self.mirrored, (W, self.stored(module)))
        elif "." in self.name:  # the submodule has noted it
            holder = module.get_submodule(self.name.rpartition(".")[0])
            holder._lra.slots["weight"].check_mirror(holder, W)

    def effective(self, W: Tensor, E: Tensor | None, draw: FeedbackSampler) -> Any:
        """Return the E of one pass from W and what is stored."""
        if W.is_complex():
            parts = torch.view_as_real(W), None if E is None else torch.view_as_real(E)
            return torch.view_as_complex(self.effective(*parts, replace(draw, W=parts[0])))
        with torch.no_grad():
            if observer.current is None:
                return self.feedback.effective(W, E, draw, torch)
            with observer.current.separate_random():
                return self.feedback.effective(W, E, draw, torch)

    @torch.no_grad()
    def draw(self, module: Any) -> None:
        """Draw the stored tensor of the module's own, at the scale of its current weights."""
        stored = self.stored(module) if self.own else None
        if stored is None or stored.is_meta:
            return
        W = self.weight(module)
        like = torch.zeros_like(stored) if W is None else W
        if self.route is None:
            E = draw_feedback(self.feedback, like, module.product_of(module))
            assert E is not None
        else:
            E = draw_between(self.feedback, stored.shape, like)
        stored.copy_(E - like if self.offset else E)
        self.note_mirror(like, stored)
        self.drawn = True

    def replace(self, module: Any, name: str, value: Tensor) -> None:
        """Store another tensor, under another name in the module that holds the present one.

        Args:
            module: the slot's module.
            name: the new name, without the path of a submodule.
            value: a parameter, or a tensor to register as a buffer.
        """
        owner, _, old = self.name.rpartition(".")
        holder = module.get_submodule(owner)
        delattr(holder, old)
        holder._lra.added.remove(old)
        if old == "feedback" != name:
            add_tensor(holder, "feedback", None)
        add_tensor(holder, name, value)
        self.name = f"{owner}.{name}" if owner else name


def add_tensor(module: Any, name: str, value: Tensor | None) -> None:
    """Register a parameter, a buffer or None, which `restore` removes again."""
    if value is None or isinstance(value, nn.Parameter):
        module.register_parameter(name, value)
    else:
        module.register_buffer(name, value)
    if name not in module._lra.added:
        module._lra.added.append(name)
    link_feedback(module)


def feedback_slots(model: nn.Module) -> Iterator[tuple[str, Any, FeedbackSlot]]:
    """Yield the qualified name of each converted module with each of its slots."""
    for path, module in model.named_modules():
        state = vars(module).get("_lra")
        if isinstance(state, RuleState):
            for slot in state.slots.values():
                yield path, module, slot


@dataclass
class Conversion:
    """What all modules that were converted together share.

    Attributes:
        skipped: the qualified names of the modules in `skip`.
        skipped_functions: the autograd Functions and custom operators in `skip`.
        before: the conversions to the same rule that it has found in the model.
        modules: the classes of the modules of the user's that it left as they are, by qualified
            name. None until it is finished.
        audit: the audit of the examples, where some were given.
        accepted: the names of nodes that are no activations where the examples have them.
        has_activations: whether there may be activations among the modules.
        warned: whether a warning about the scale of the loss was given.
        router: what routes errors that skip layers, where the wiring is not `Chain`.
        model: a weak reference to the model.
        checked: the backward passes whose graph was searched for what escapes the rule.
        untrained: whether no error has arrived since feedback weights were drawn or mirrored.
        stale: the names of weights that have changed since feedback weights mirrored them.
    """

    skipped: tuple[str, ...] = ()
    skipped_functions: tuple[Any, ...] = ()
    before: "tuple[Conversion, ...]" = ()
    modules: dict[str, str] | None = None
    audit: Any = None
    accepted: frozenset[str] = frozenset()
    has_activations: bool = False
    warned: bool = False
    router: "ErrorRouter | None" = None
    untrained: bool = True
    stale: set[str] = field(default_factory=set)
    model: Any = None
    checked: set[int] = field(default_factory=set)

    def __getstate__(self) -> dict[str, Any]:
        return vars(self) | {"model": None}  # a copy belongs to another model


@dataclass
class RuleState:
    """What a converted module remembers of its conversion, in its one added attribute `_lra`.

    Attributes:
        rule: the rule.
        path: the module's qualified name.
        terms: N, the number of terms that the loss is a mean over, or how to count them.
        sees_input: whether the module sees only the raw input, so that no error has to cross it.
        conversion: what all modules that were converted together share.
        slots: the feedback of each weight that the module multiplies with.
        added: the names of the parameters and buffers that the conversion added to the module.
        errors_checked: how many errors were checked for the scale of the loss.
        flat: whether the module is a step function.
        noisy: whether the module is an activation that draws noise.
        activations: functions that an example has shown to be activations in the module's code.
        steps: functions that an example has shown to be flat between steps, such as sign.
        guarded: the names of weights that the module holds without a slot, since no example
            multiplied with them.
        searches_graph: whether autograd Functions or the like make weights in the module's code.
        in_place: those of them that overwrite their argument.
        discovering: whether an example is running that may add slots and activations.
    """

    rule: Rule
    path: str
    terms: LossTerms | float = LossTerms.BATCH
    sees_input: bool = False
    conversion: Conversion = field(default_factory=Conversion)
    slots: dict[str, FeedbackSlot] = field(default_factory=dict)
    added: list[str] = field(default_factory=list)
    errors_checked: int = 0
    flat: bool = False
    noisy: bool = False
    activations: frozenset[Any] = frozenset()
    steps: frozenset[Any] = frozenset()
    guarded: tuple[str, ...] = ()
    searches_graph: bool = False
    in_place: frozenset[Any] = frozenset()
    discovering: bool = False

    @property
    def counts_terms(self) -> bool:
        """Whether the crossing needs an N that is counted in the shapes of activations."""
        needs = self.conversion.has_activations and self.rule.crossing.needs_terms
        return needs and isinstance(self.terms, LossTerms)


def translate(state: dict[str, Any], prefix: str, slot: FeedbackSlot, W: Tensor) -> None:
    """Convert the feedback in a state dict between its two forms, E and E - W.

    Args:
        state: the state dict, which gets the form that the slot stores.
        prefix: the prefix of the module's names in it.
        slot: the slot.
        W: the module's own weight, for a state without one.
    """
    name = f"{prefix}{slot.name}"
    plain = name.removesuffix("_offset")
    other = plain if slot.offset else f"{plain}_offset"
    if name in state or other not in state:
        return
    sign = -1 if slot.offset else 1
    state[name] = state.pop(other) + sign * state.get(f"{prefix}{slot.key}", W.detach())

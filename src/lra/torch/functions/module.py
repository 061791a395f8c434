"""Intercepted modules: the rule replaces parts of what their own forward calls.

Such a module runs as it is written, while every torch function that it calls is intercepted. A
product of data with a weight, or with something derived from weights alone, becomes an op of the
rule, and so does an activation. A parameter has feedback weights of its own where the product takes
it as it is, or a view of it. Where the product takes something derived from it (a standardised,
normalised or masked weight), the feedback weights belong to that.
"""

import contextlib
import functools
from typing import Any

import torch
from torch import Tensor, nn

from lra.errors import ConversionError, RuleError
from lra.feedback import Stored
from lra.torch.functions.calls import Source
from lra.torch.functions.interceptor import FunctionInterceptor
from lra.torch.layers.active import active
from lra.torch.layers.base import Local
from lra.torch.layers.sampler import draw_feedback
from lra.torch.layers.slots import FeedbackSlot, add_tensor


class SkippedModule(Local):
    """A skipped module inside an intercepted one: nothing in it becomes an op."""

    @classmethod
    def wrap(cls, plain: type[nn.Module], *methods: str) -> dict[str, Any]:
        """Return a forward that is not intercepted."""

        @functools.wraps(plain.forward)
        def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
            active.skipped += 1
            try:
                return plain.forward(self, *args, **kwargs)
            finally:
                active.skipped -= 1

        return {"forward": forward}

    @property
    def follows_rule(self) -> bool:
        """False: nothing here follows the rule."""
        return False

    def _describe(self) -> str:
        return "skipped"


def _intercepted(function: Any) -> Any:
    """Return a method whose calls of torch's functions are intercepted."""

    @functools.wraps(function)
    def run(self: Any, *args: Any, **kwargs: Any) -> Any:
        if not torch.is_grad_enabled() or self in active.layers:
            return function(self, *args, **kwargs)
        if self._lra.searches_graph and torch.compiler.is_compiling():
            torch._dynamo.graph_break()  # compilers show no graph
        with FunctionInterceptor(self):
            return function(self, *args, **kwargs)

    return run


class InterceptedModule(Local):
    """A module whose own forward runs as written, with the rule in the functions that it calls."""

    multiplies = True

    @classmethod
    def wrap(cls, plain: type[nn.Module], *methods: str) -> dict[str, Any]:
        """Return the forward and other methods, with the plain ones' signatures."""
        return {name: _intercepted(getattr(plain, name)) for name in ("forward", *methods)}

    def sources(self) -> dict[Tensor, Source]:
        """Return the parameters that have slots, or all of them during discovery."""
        if self._lra.discovering:
            own = {slot.name for slot in self._lra.slots.values()}
            return {
                W: Source(name, W)
                for name, W in (*self.named_parameters(), *self._hooked())
                if name not in own and name.rpartition(".")[2] != "feedback"
            }
        slots = dict.fromkeys(slot.parameter for slot in self._lra.slots.values())
        found = {self._parameter(name): Source(name, self._parameter(name)) for name in slots}
        for name in self._lra.guarded:
            with contextlib.suppress(AttributeError):  # the model may have changed since
                found[self._parameter(name)] = Source(name, self._parameter(name))
        return found

    def _parameter(self, name: str) -> Any:
        owner, _, leaf = name.rpartition(".")
        return getattr(self.get_submodule(owner), leaf)

    def weight_names(self) -> list[str]:
        """List the weights that the module may multiply with: those of no converted submodule."""
        converted = (name for name, m in self.named_modules() if name and isinstance(m, Local))
        inside = tuple(f"{name}." for name in converted)
        return [
            name
            for name, W in self.named_parameters()
            if (W.dim() > 1 or "." not in name)
            and name not in self._lra.added
            and not name.startswith(inside)
        ]

    def _hooked(self) -> list[tuple[str, Tensor]]:
        """List the weights that a hook computes before each forward: weight_norm, pruning."""
        own = vars(self).items()
        return [(name, t) for name, t in own if isinstance(t, Tensor) and t.requires_grad]

    def slot_of(self, key: str, like: Tensor) -> FeedbackSlot:
        """Return the slot of a weight; during discovery, add a missing one.

        Args:
            key: the slot's key.
            like: a tensor of the weight's shape and type.

        Raises:
            RuleError: where there is none.
        """
        if key not in self._lra.slots:
            if not self._lra.discovering:
                if self.rule.feedback.stored is Stored.NOTHING:
                    return FeedbackSlot(key, self.rule.feedback)
                raise RuleError(
                    f"{self._lra.path or 'the model'!r} ({self.plain.__name__}) multiplies with "
                    f"{key!r}, for which it has no feedback weights: it did not when it was "
                    "converted. Convert with example=, arguments with which the forward does "
                    "everything that it does in training"
                )
            self._add_slot(key, like)
        return self._lra.slots[key]

    def _add_slot(self, key: str, like: Tensor) -> None:
        """Add a slot, with feedback weights of its own or those of a submodule."""
        feedback = self.rule.feedback
        slot = self._lra.slots[key] = FeedbackSlot(key, feedback)
        if feedback.stored is Stored.NOTHING:
            return
        name, _, shape = key.partition(":")
        owner, _, leaf = name.rpartition(".")
        holder = self.get_submodule(owner)
        stored = getattr(holder, "feedback", None) if isinstance(holder, Local) else None
        fits = isinstance(stored, Tensor) and stored.shape == like.shape
        if owner and leaf == "weight" and not shape and fits:
            slot.name = f"{owner}.feedback"
            return
        flat = name.replace(".", "_")
        new = flat.replace("weight", "feedback") if "weight" in flat else f"{flat}_feedback"
        new = f"{new}_{shape}" if shape else new
        if hasattr(self, new):
            raise ConversionError(
                f"convert: {self._lra.path!r} ({self.plain.__name__}) has an attribute {new!r} of "
                "its own, where its feedback weights would go; rename it"
            )
        with torch.inference_mode(False), torch.no_grad(), torch._C._DisableFuncTorch():
            E = draw_feedback(feedback, like.detach().clone())
        assert E is not None
        slot.name, slot.drawn = new, not like.is_meta
        if feedback.stored is Stored.LEARNED:
            E = nn.Parameter(E, requires_grad=like.requires_grad)
        add_tensor(self, new, E)
        slot.note_mirror(like, E)

    def prepare(self) -> None:
        """Add slots for the module's own weights, where no example is given."""
        for name, W in [*self.named_parameters(), *self._hooked()]:
            if W.dim() > 1 and name not in self._lra.slots:
                self._add_slot(name, W)

    def _describe(self) -> str:
        return f"rule={self.rule}"

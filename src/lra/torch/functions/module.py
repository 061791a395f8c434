"""Layers by function: what a module's own forward does with weights and nonlinear functions.

Such a module runs as it is written, while every torch function that it calls is watched. A product
of data with a weight, or with what is computed from weights alone, becomes a place of the rule; so
does a nonlinear function of data. Feedback weights belong to the parameter where the product takes
it as it is, or a view of it; else (standardised, normed, masked weights) to what is computed.
"""

import functools
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from lra.errors import ConversionError, RuleError
from lra.feedback import Feedback, Offset, Stored
from lra.torch.functions.interceptor import FunctionInterceptor, Source, left
from lra.torch.layers.base import Local
from lra.torch.layers.state import as_weights, draw_between, draw_feedback, translate
from lra.torch.user_warnings import link_feedback, warn_of_mirrored


class SkippedModule(Local):
    """A skipped module inside one that is followed: nothing in it becomes a place."""

    @classmethod
    def wrap(cls, plain: type[nn.Module]) -> dict[str, Any]:
        """Give the forward that runs unwatched."""

        @functools.wraps(plain.forward)
        def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
            left.depth += 1
            try:
                return plain.forward(self, *args, **kwargs)
            finally:
                left.depth -= 1

        return {"forward": forward}

    @property
    def follows_rule(self) -> bool:
        """Nothing here follows the rule."""
        return False

    def _describe(self) -> str:
        return "left to autograd"


@dataclass
class Table:
    """What a followed layer knows beside its rule.

    Attributes:
        feedback: for each key, the name of its feedback weights; dotted below the layer.
        added: the names of those that conversion added to the layer itself.
        units: nonlinear functions that this layer uses beside the common ones.
        changing: those of them that overwrite their argument.
        discovering: whether feedback weights may be added where they are missing.
    """

    feedback: dict[str, str] = field(default_factory=dict)
    added: list[str] = field(default_factory=list)
    activations: frozenset[Any] = frozenset()
    in_place: frozenset[Any] = frozenset()
    discovering: bool = False


class InterceptedModule(Local):
    """A module whose own forward runs as written, with the rule in the functions that it calls."""

    @classmethod
    def wrap(cls, plain: type[nn.Module]) -> dict[str, Any]:
        """Give the forward, with the plain one's signature."""

        @functools.wraps(plain.forward)
        def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
            if not torch.is_grad_enabled():
                return plain.forward(self, *args, **kwargs)
            with FunctionInterceptor(self):
                return plain.forward(self, *args, **kwargs)

        return {"forward": forward}

    @property
    def table(self) -> Table:
        """What is known of this layer's weights and units."""
        found: Table = self._lra.table
        return found

    @property
    def units(self) -> frozenset[Any]:
        """The nonlinear functions that an example has shown."""
        return self.table.activations

    @property
    def computes(self) -> bool:
        """Whether the E of a pass is computed, and not what is kept."""
        return type(self._lra.feedback).effective is not Feedback.effective

    def sources(self) -> dict[Tensor, Source | None]:
        """Give the parameters that have feedback weights; all, where they are to be found out."""
        if self.table.discovering:
            own = {E for _, E in self.table.feedback.items()}
            found = (*self.named_parameters(), *self._computed())
            return {
                W: Source(name, W)
                for name, W in found
                if name not in own and name.rpartition(".")[2] != "feedback"
            }
        names = {key.partition(":")[0] for key in self.table.feedback}
        found_now: dict[Tensor, Source | None] = {}
        for name in names:
            owner, _, leaf = name.rpartition(".")
            W = getattr(self.get_submodule(owner), leaf)
            found_now[W] = Source(name, W)
        return found_now

    def _computed(self) -> list[tuple[str, Tensor]]:
        """Give the weights that a hook computes before each forward: weight_norm, pruning."""
        own = vars(self).items()
        return [(name, t) for name, t in own if isinstance(t, Tensor) and t.requires_grad]

    def feedback_of(self, key: str, like: Tensor) -> Tensor | None:
        """Give what is kept as feedback weights for a key, or draw it where that is asked for.

        Raises:
            RuleError: where there is none.
        """
        stored = self._lra.feedback.stored
        if stored is Stored.NOTHING:
            if self.table.discovering:
                self.table.feedback.setdefault(key, "")
            return None
        if key not in self.table.feedback:
            if not self.table.discovering:
                raise RuleError(
                    f"{self._lra.path or 'the model'!r} ({self.plain.__name__}) multiplies with "
                    f"{key!r}, for which it has no feedback weights: it did not when it was "
                    "converted. Convert with example=, arguments with which the forward does all "
                    "that it will do in training"
                )
            self._draw(key, like)
        if not self._lra.drawn:
            self.draw_again()
        owner, _, leaf = self.table.feedback[key].rpartition(".")
        kept: Tensor = getattr(self.get_submodule(owner), leaf)
        if kept.requires_grad != like.requires_grad:
            as_weights(kept, like, self._lra.feedback)
        return kept

    @torch.no_grad()
    def draw_again(self) -> None:
        """Draw the feedback weights anew, at the scale that the layer's weights have now."""
        for key, name in self.table.feedback.items():
            if name in self.table.added and not getattr(self, name).is_meta:
                E, W = getattr(self, name), self.weight_of(key)
                like = torch.zeros_like(E) if W is None else W
                if self._lra.link_of(key) is None:
                    drawn = draw_feedback(self._lra.feedback, like)
                    assert drawn is not None
                else:
                    drawn = draw_between(self._lra.feedback, E.shape, like)
                E.copy_(drawn - like if isinstance(self._lra.feedback, Offset) else drawn)
                self._lra.drawn = True

    def weight_of(self, key: str) -> Tensor | None:
        """Give the weight of a key; None where it is computed anew in each forward."""
        name, _, shape = key.partition(":")
        owner, _, leaf = name.rpartition(".")
        return None if shape else getattr(self.get_submodule(owner), leaf)

    def _draw(self, key: str, like: Tensor) -> None:
        name, _, shape = key.partition(":")
        owner, _, leaf = name.rpartition(".")
        beside = f"{owner}.feedback" if owner else "feedback"
        holder = self.get_submodule(owner)
        kept = getattr(holder, "feedback", None) if hasattr(holder, "_lra") else None
        if leaf == "weight" and not shape and isinstance(kept, Tensor) and kept.shape == like.shape:
            self.table.feedback[key] = beside
            return
        flat = name.replace(".", "_")
        new = flat.replace("weight", "feedback") if "weight" in flat else f"{flat}_feedback"
        new = f"{new}_{shape}" if shape else new
        if hasattr(self, new):
            raise ConversionError(
                f"convert: {self._lra.path!r} ({self.plain.__name__}) has an attribute {new!r} of "
                "its own, where its feedback weights would go; rename it"
            )
        with torch.inference_mode(False), torch.no_grad():
            E = draw_feedback(self._lra.feedback, like.detach().clone())
        self.table.feedback[key] = new
        self.table.added.append(new)
        self._lra.drawn = self._lra.drawn and not like.is_meta
        if self._lra.feedback.stored is Stored.LEARNED:
            self.register_parameter(new, nn.Parameter(E, requires_grad=like.requires_grad))  # type: ignore[arg-type]
        else:
            self.register_buffer(new, E)
        if not shape:
            link_feedback(like, getattr(self, new))

    def prepare(self) -> None:
        """Draw feedback weights for the layer's own weights, where no example is given."""
        for name, W in [*self.named_parameters(), *self._computed()]:
            if W.dim() > 1 and name not in self.table.feedback:
                if self._lra.feedback.stored is Stored.NOTHING:
                    self.table.feedback[name] = ""
                else:
                    self._draw(name, W)

    def restore(self) -> None:
        """Become the plain class again, and drop what the conversion added."""
        for name in self.table.added:
            delattr(self, name)
        super().restore()

    def _describe(self) -> str:
        return f"rule={self.rule}"

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any
    ) -> None:
        for key, name in self.table.feedback.items():
            W = self.weight_of(key) if name in self.table.added else None
            if W is not None:
                plain = f"{prefix}{name.removesuffix('_offset')}"
                translate(state_dict, plain, f"{prefix}{name}", f"{prefix}{key}", W)
        own = [f"{prefix}{name}" for name in self.table.added]
        without = any(key not in state_dict for key in own)
        apart = not isinstance(self._lra.feedback, Offset)  # what is shared goes with W
        warn_of_mirrored(self.rule, without and apart and self._lra.drawn)
        self._lra.drawn = self._lra.drawn or (bool(own) and all(key in state_dict for key in own))
        for key, name in zip(own, self.table.added, strict=True):
            state_dict.setdefault(key, getattr(self, name))
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)

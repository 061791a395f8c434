"""What a diagnosis found: numbers for each layer, in forward order, and a table of them."""

import dataclasses
import enum
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any


class LayerKind(enum.StrEnum):
    """What a layer is to the rule."""

    WEIGHTS = "weights"  # errors go down through its feedback weights
    UNIT = "unit"  # z = phi(h), which errors cross by the crossing axis
    OTHER = "other"  # what holds parameters besides: normalisation, embeddings, what was skipped


class Arrival(enum.StrEnum):
    """What became of the error on its way to a layer."""

    USABLE = "usable"
    NOTHING = "nothing"  # the loss does not depend on the layer, or no error is sent there
    ZERO = "zero"
    UNDERFLOW = "underflow"  # smaller than the type's numbers, or a target that rounding swallows
    NOT_FINITE = "not finite"


@dataclass(frozen=True)
class UpdateReport:
    """The rule's update of one parameter, what `.grad` holds after `backward()`.

    Attributes:
        name: the parameter's qualified name.
        size: the update's length.
        relative: that over the parameter's own length; None where that is 0.
        gradient: the length of backprop's gradient; None where backprop has none: for feedback
            weights, and below what can only be evaluated.
        angle: between the two, in degrees; None where either is zero, not finite or not there.
        feedback: whether the parameter is feedback weights.
    """

    name: str
    size: float
    relative: float | None
    gradient: float | None
    angle: float | None
    feedback: bool = False


@dataclass(frozen=True)
class LayerReport:
    """One layer, in one pass.

    Attributes:
        name: its qualified name; `layer.relu()` for a function that a layer's forward calls.
        kind: what it is to the rule.
        type: its class or function.
        calls: how often it ran.
        error: the length of the error that arrives: e at the h of weights, d at the z of units.
        arrival: whether that error is usable.
        feedback_angle: between E and W, in degrees, the mean of the calls; None for no E.
        moved: how far targets are from h: the length of h - (h - beta d).
        moved_relative: that over the length of h.
        saturated: the share of numbers at which phi is flat: its slope is less than a twentieth of
            the steepest.
        dead: the share of units that give the same z for every sample.
        updates: those of the layer's parameters, its feedback weights last.
    """

    name: str
    kind: LayerKind
    type: str
    calls: int
    error: float | None
    arrival: Arrival
    feedback_angle: float | None = None
    moved: float | None = None
    moved_relative: float | None = None
    saturated: float | None = None
    dead: float | None = None
    updates: tuple[UpdateReport, ...] = ()

    @property
    def update(self) -> UpdateReport | None:
        """The update of the layer's weights, the first of its parameters, if it has any."""
        return next((update for update in self.updates if not update.feedback), None)

    @property
    def angle(self) -> float | None:
        """The angle of the update of the layer's weights to backprop's gradient, in degrees."""
        return self.update.angle if self.update else None


COLUMNS = (
    *("layer", "kind", "type", "calls", "error", "arrival", "feedback_angle", "moved"),
    *("moved_relative", "saturated", "dead", "update", "update_relative", "gradient", "angle"),
)
"""The columns of a diagnosis's rows."""


@dataclass(frozen=True)
class Diagnosis:
    """What a rule does in one pass, layer by layer in forward order; as text, a table.

    Attributes:
        rule: the name of the rule.
        loss: the loss of the batch.
        layers: the layers.
    """

    rule: str
    loss: float
    layers: tuple[LayerReport, ...]

    def __getitem__(self, name: str) -> LayerReport:
        """Give a layer by its name."""
        for layer in self.layers:
            if layer.name == name:
                return layer
        raise KeyError(f"no layer {name!r}; there are {', '.join(x.name for x in self.layers)}")

    @property
    def weights(self) -> tuple[LayerReport, ...]:
        """The weight layers alone."""
        return tuple(layer for layer in self.layers if layer.kind is LayerKind.WEIGHTS)

    @property
    def unreached(self) -> tuple[LayerReport, ...]:
        """The layers to which no usable error comes."""
        return tuple(layer for layer in self.layers if layer.arrival is not Arrival.USABLE)

    @property
    def undefined(self) -> tuple[str, ...]:
        """The parameters for which backprop has no gradient, feedback weights aside."""
        own = [u for layer in self.layers for u in layer.updates if not u.feedback]
        return tuple(u.name for u in own if u.gradient is None)

    @property
    def flat(self) -> tuple[str, ...]:
        """The parameters for which backprop's gradient is zero, as below units that are flat."""
        return tuple(u.name for layer in self.layers for u in layer.updates if u.gradient == 0)

    def to_dict(self) -> dict[str, Any]:
        """Give all as plain data, for JSON."""
        return dataclasses.asdict(self)

    def rows(self) -> list[dict[str, Any]]:
        """Give one flat row a layer, with the update of its weights: for CSV or a data frame."""
        return [_row(layer) for layer in self.layers]

    def scalars(self) -> dict[str, float]:
        """Give the numbers that are finite under names for loggers: `angle/LAYER`."""
        return {name: value for row in self.rows() for name, value in scalars_of(row).items()}

    def __str__(self) -> str:
        notes = [f"diagnose: {self.rule}, loss {self.loss:.4g}", as_table(self.rows())]
        for arrival in Arrival:
            names = [layer.name for layer in self.unreached if layer.arrival is arrival]
            if names:
                notes.append(f"no usable error ({arrival}): {_some(names)}")
        if self.undefined:
            why = "no gradient of backprop, since something above can only be evaluated"
            notes.append(f"{why}: {_some(self.undefined)}")
        if self.flat:
            notes.append(f"backprop's gradient is zero: {_some(self.flat)}")
        return "\n".join(notes)


def _row(layer: LayerReport) -> dict[str, Any]:
    update = layer.update
    return {
        "layer": layer.name, "kind": str(layer.kind), "type": layer.type, "calls": layer.calls,
        "error": layer.error, "arrival": str(layer.arrival),
        "feedback_angle": layer.feedback_angle, "moved": layer.moved,
        "moved_relative": layer.moved_relative, "saturated": layer.saturated, "dead": layer.dead,
        "update": update and update.size, "update_relative": update and update.relative,
        "gradient": update and update.gradient, "angle": update and update.angle,
    }  # fmt: skip


def scalars_of(row: Mapping[str, Any]) -> dict[str, float]:
    """Give the numbers of a layer's row under names for loggers."""
    numbers = {name: row[name] for name in COLUMNS if isinstance(row[name], float)}
    return {
        f"{name}/{row['layer'] or 'model'}": value
        for name, value in numbers.items()
        if math.isfinite(value)
    }


def as_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Write rows, as `Diagnosis.rows` gives them, as text."""
    lines = [tuple(_SHOWN), *(tuple(show(row) for show in _SHOWN.values()) for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if i < 2 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


def _shows(column: str, form: str) -> Callable[[Mapping[str, Any]], str]:
    def show(row: Mapping[str, Any]) -> str:
        return "-" if row[column] is None else form.format(row[column])

    return show


_SHOWN: dict[str, Callable[[Mapping[str, Any]], str]] = {
    "layer": lambda row: row["layer"] or "(the model)",
    "type": lambda row: str(row["type"]),
    "error": _shows("error", "{:.2e}"),
    "E to W": _shows("feedback_angle", "{:.1f}°"),
    "target moved": _shows("moved_relative", "{:.1e} |h|"),
    "saturated": _shows("saturated", "{:.1%}"),
    "dead": _shows("dead", "{:.1%}"),
    "update": _shows("update_relative", "{:.1e} |W|"),
    "angle to backprop": _shows("angle", "{:.1f}°"),
}
"""The columns of the table, and what they show of a row."""


def _some(names: Any) -> str:
    names = [name or "(the model)" for name in names]
    return ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")

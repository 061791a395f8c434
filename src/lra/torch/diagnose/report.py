"""The report of a diagnosis: numbers for each layer in forward order, as a table or plain data."""

import dataclasses
import enum
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lra.display import as_html, plural, printable
from lra.torch.diagnose import plot
from lra.torch.diagnose.notes import abbreviate, notes_on_small_updates
from lra.torch.diagnose.table import HEADER, LEFT, as_table, cells_of, scalars_of
from lra.torch.diagnose.update_report import UpdateReport

if TYPE_CHECKING:
    from lra.figures import Figure


class LayerKind(enum.StrEnum):
    """Name the role of a layer under a rule."""

    #: A weight layer, which errors cross by the rule's feedback.
    WEIGHTS = "weights"
    #: An activation, which errors cross by the rule's crossing.
    ACTIVATION = "activation"
    #: Another module with parameters: normalization, an embedding, a skipped layer.
    OTHER = "other"


class Arrival(enum.StrEnum):
    """State whether the error that arrives at a layer is usable."""

    #: The error can be used.
    USABLE = "usable"
    #: No error arrives: the loss does not depend on the layer, or none is sent there.
    NOTHING = "nothing"
    #: The error is zero.
    ZERO = "zero"
    #: The error is below its type's smallest normal number, or a target is lost to rounding.
    UNDERFLOW = "underflow"
    #: The error is infinite or nan.
    NOT_FINITE = "not finite"


@dataclass(frozen=True)
class LayerReport:
    """Report on one layer in one pass.

    Attributes:
        name: the qualified name; `layer.relu()` for a function that a layer's forward calls.
        kind: the role of the layer under the rule.
        type: its class or function.
        calls: the number of calls.
        error: the norm of the error that arrives: at h for weights, at z for activations.
        arrival: whether that error is usable.
        feedback_angle: the angle between E and W in degrees, the mean over calls; None without E.
        moved: the distance of the targets, which is the norm of h - (h - beta d).
        moved_relative: its ratio to the norm of h.
        saturated: the share of numbers where phi is flat: its slope is less than a twentieth of
            the steepest.
        dead: the share of units with the same z for every sample.
        updates: those of the layer's parameters, feedback weights last.
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
        """The update of the layer's first parameter, its weights; None without parameters."""
        return next((update for update in self.updates if not update.feedback), None)

    @property
    def angle(self) -> float | None:
        """The angle between the update of the weights and backprop's gradient, in degrees."""
        return self.update.angle if self.update else None

    def row(self) -> dict[str, Any]:
        """Return the layer and the update of its weights as plain data, by column."""
        update = self.update
        return {
            "layer": self.name, "kind": str(self.kind), "type": self.type, "calls": self.calls,
            "error": self.error, "arrival": str(self.arrival),
            "feedback_angle": self.feedback_angle, "moved": self.moved,
            "moved_relative": self.moved_relative, "saturated": self.saturated, "dead": self.dead,
            "update": update and update.size, "update_relative": update and update.relative,
            "update_rms": update and update.rms, "step_scale": update and update.step_scale,
            "gradient": update and update.gradient, "angle": update and update.angle,
        }  # fmt: skip


@dataclass(frozen=True, repr=False)
class Diagnosis:
    """Report what a rule does in one pass, layer by layer in forward order.

    `print` shows a table, and so does a notebook; `plot` draws the updates.

    Attributes:
        rule: the name of the rule.
        loss: the loss of the batch.
        layers: the layers.
        optimizer: the names of the optimizers' classes; "" if no optimizer was given.
        shrinks: whether the rule scales errors by beta at every activation, so that they shrink
            from layer to layer.
    """

    rule: str
    loss: float
    layers: tuple[LayerReport, ...]
    optimizer: str = ""
    shrinks: bool = False

    def __getitem__(self, name: str) -> LayerReport:
        """Return a layer by name."""
        for layer in self.layers:
            if layer.name == name:
                return layer
        raise KeyError(f"no layer {name!r}; there are {', '.join(x.name for x in self.layers)}")

    @property
    def weights(self) -> tuple[LayerReport, ...]:
        """The weight layers."""
        return tuple(layer for layer in self.layers if layer.kind is LayerKind.WEIGHTS)

    @property
    def without_usable_error(self) -> tuple[LayerReport, ...]:
        """The layers where no usable error arrives."""
        return tuple(layer for layer in self.layers if layer.arrival is not Arrival.USABLE)

    @property
    def below_eps(self) -> tuple[str, ...]:
        """The weight layers that the optimizer hardly moves, since their update is below its eps.

        Their steps are less than half as long as usual (see `UpdateReport.step_scale`).
        """
        return tuple(x.name for x in self.weights if x.update and x.update.below_eps)

    @property
    def subnormal(self) -> tuple[str, ...]:
        """The weight layers whose update is below the smallest normal number of its type."""
        return tuple(x.name for x in self.weights if x.update and x.update.subnormal)

    @property
    def undefined(self) -> tuple[str, ...]:
        """The parameters for which backprop has no gradient, except feedback weights."""
        own = [u for layer in self.layers for u in layer.updates if not u.feedback]
        return tuple(u.name for u in own if u.gradient is None)

    @property
    def flat(self) -> tuple[str, ...]:
        """The parameters whose gradient under backprop is zero, as below step functions."""
        return tuple(u.name for layer in self.layers for u in layer.updates if u.gradient == 0)

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain data, for JSON."""
        return dataclasses.asdict(self)

    def rows(self) -> list[dict[str, Any]]:
        """Return one flat row for each layer, for CSV or a data frame."""
        return [layer.row() for layer in self.layers]

    def scalars(self) -> dict[str, float]:
        """Return the finite numbers by name for loggers, such as `angle/LAYER`."""
        return {name: value for row in self.rows() for name, value in scalars_of(row).items()}

    def plot(self) -> "Figure":
        """Plot the angle to backprop's gradient and the relative size of each layer's update.

        Returns:
            The figure; `figure.savefig("diagnosis.png")` writes it.

        Raises:
            ModuleNotFoundError: matplotlib is not installed.
        """
        return plot.of_updates([layer.row() for layer in self.weights], self._title)

    def __str__(self) -> str:
        return "\n".join((self._title, as_table(self.rows()), *self._notes()))

    def __repr__(self) -> str:
        angles = [layer.angle for layer in self.weights if layer.angle is not None]
        parts = [f"loss {self.loss:.4g}", plural(len(self.weights), "weight layer")]
        if angles:
            parts.append(f"angles to backprop {min(angles):.1f}° to {max(angles):.1f}°")
        if self.without_usable_error:
            parts.append(f"no usable error in {plural(len(self.without_usable_error), 'layer')}")
        return f"<Diagnosis of {printable(self.rule)}: {', '.join(parts)}>"

    def _repr_html_(self) -> str:
        return as_html(self._title, HEADER, cells_of(self.rows()), self._notes(), LEFT)

    @property
    def _title(self) -> str:
        return f"diagnose: {printable(self.rule)}, loss {self.loss:.4g}"

    def _notes(self) -> list[str]:
        """Return the lines below the table."""
        lines = []
        for arrival in Arrival:
            names = [x.name for x in self.without_usable_error if x.arrival is arrival]
            if names:
                lines.append(f"no usable error ({arrival}): {abbreviate(names)}")
        if self.undefined:
            why = "backprop has no gradient below a black box"
            lines.append(f"{why}: {abbreviate(self.undefined)}")
        if self.flat:
            lines.append(f"backprop's gradient is zero: {abbreviate(self.flat)}")
        updates = {layer.name: layer.update for layer in self.weights if layer.update}
        return lines + notes_on_small_updates(updates, self.optimizer, self.shrinks)

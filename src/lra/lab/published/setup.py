"""A published set-up, read from one file in `setups/`: settings, numbers, source, assumptions."""

import dataclasses
import math
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any, Literal

from lra.axis import unknown
from lra.errors import OptionError
from lra.lab.comparison.grid import Grid
from lra.lab.settings.spec import format_value

Figure = Literal["last", "highest", "chosen"]
"""Which test accuracy is published: after the last epoch, the highest after any epoch, or that of
the epoch that validation samples choose."""

_GRID = {field.name for field in dataclasses.fields(Grid)}


@dataclass(frozen=True)
class Row:
    """A row of a published table.

    Attributes:
        name: the method's name in the source.
        rule: the rule that stands for it here, with its settings, as in `lra compare --rules`.
        published: the test accuracy in percent, by the number of epochs.
    """

    name: str
    rule: str
    published: Mapping[int, float]


@dataclass(frozen=True)
class Setup:
    """A published set-up.

    Attributes:
        name: the name for `lra reproduce`.
        title: what was trained on what.
        source: where the settings and the numbers were read.
        second_hand: whether the numbers were read in another source than their own.
        figure: which test accuracy is published.
        test_samples: the number of test samples.
        machine: what a whole run needs: "cpu" or "gpu".
        minutes: how long a whole run takes on one core, roughly; 0 where that is not known.
        assumptions: what the source leaves open or what differs here, one sentence each.
        remarks: what was tried where the numbers do not agree.
        settings: the settings of all runs, by the names of `lra train`.
        rows: the rows of the table.
    """

    name: str
    title: str
    source: str
    figure: Figure
    test_samples: int
    machine: Literal["cpu", "gpu"]
    minutes: float
    settings: Mapping[str, Any]
    rows: Sequence[Row]
    assumptions: Sequence[str] = ()
    remarks: Sequence[str] = ()
    second_hand: bool = False

    @property
    def epochs(self) -> int:
        """The number of epochs of a whole run."""
        return int(self.settings["epochs"])

    def tolerance(self, published: float) -> float:
        """Compute the largest difference that counts as agreement, in percentage points.

            2 sqrt(2 p (100 - p) / n)

        That is two standard errors of the difference between two accuracies p, each measured on n
        test samples. It does not depend on what is measured.
        """
        return 2 * math.sqrt(2 * published * (100 - published) / self.test_samples)

    def grid(self, rows: Sequence[Row], seeds: int, epochs: int) -> Grid:
        """Return the comparison that trains some of the rows.

        Milestones move with the number of epochs.
        """
        lists = {k: tuple(v) for k, v in self.settings.items() if isinstance(v, list)}
        settings = dict(self.settings) | lists | {"epochs": epochs}
        if "milestones" in settings:
            scaled = (round(m * epochs / self.epochs) for m in settings["milestones"])
            settings["milestones"] = tuple(dict.fromkeys(m for m in scaled if 0 < m < epochs))
        datasets, models = (settings.pop("dataset"),), (settings.pop("model"),)
        own = {name: settings.pop(name) for name in _GRID & settings.keys()}
        others = tuple(
            f"{name}={format_value(value)}" for name, value in settings.items() if value != ()
        )
        rules = tuple(row.rule for row in rows)
        return Grid(datasets, rules, models, seeds=seeds, settings=others, **own)

    def select(self, names: Sequence[str] | None) -> list[Row]:
        """Return the rows of some names, or all.

        Raises:
            OptionError: a name is unknown.
        """
        known = {row.name: row for row in self.rows}
        for name in names or ():
            if name not in known:
                raise unknown(f"rule of {self.name}", name, known)
        return [row for row in self.rows if names is None or row.name in names]


def names() -> list[str]:
    """Return the names of all set-ups, sorted."""
    files = (resources.files(__package__) / "setups").iterdir()
    return sorted(file.name.removesuffix(".toml") for file in files if file.name.endswith(".toml"))


def load(name: str) -> Setup:
    """Read a set-up.

    Raises:
        OptionError: the name is unknown.
    """
    if name not in names():
        raise unknown("set-up", name, names())
    text = (resources.files(__package__) / "setups" / f"{name}.toml").read_text("utf-8")
    return read(name, text)


def read(name: str, text: str) -> Setup:
    """Build a set-up from the text of its file.

    Raises:
        OptionError: the text is not TOML, or a field is missing, unknown or wrong.
    """
    try:
        plain = tomllib.loads(text)
        rows = [_row(row) for row in plain.pop("rows")]
        found = Setup(name=name, rows=rows, **plain)
        found.grid(rows, 1, found.epochs)
    except (tomllib.TOMLDecodeError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise OptionError(f"set-up {name}: {error}") from error
    if found.figure == "highest" and not found.settings.get("test_each_epoch"):
        raise OptionError(f"set-up {name}: the figure highest needs test_each_epoch = true")
    return found


def _row(plain: dict[str, Any]) -> Row:
    published = {int(epochs): float(value) for epochs, value in plain.pop("published").items()}
    return Row(published=published, **plain)

"""The network that a run trains: parsed from text, checked and built."""

import functools
import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import nn

from lra.errors import OptionError
from lra.inits import Init, Mirror
from lra.lab.networks.parts import Parts, Standardize
from lra.lab.networks.table import NETWORKS, Network, hidden_sizes
from lra.lab.settings import code
from lra.lab.settings.options import make_activation
from lra.lab.settings.spec import (
    check_required,
    format_spec,
    format_value,
    is_reference,
    option_types,
    parse_values,
    split,
)

_TYPES: dict[str, Any] = {
    "hidden": tuple[int, ...],
    "dropout": float,
    "activation": str,
    "straight_through": str | None,
    "init": Init,
    "bias": bool,
    "standardize": tuple[float, ...] | None,
    "resize": bool,
    "scaling": Literal["depth", "mupc"],
}
"""The types of the options of the table's networks; all others are whole numbers."""

_MOST = {"depth": 10**4}
"""The largest value of an option; of the others it is a million."""


@dataclass(frozen=True)
class Model:
    """A network of the table or of a user, with its options.

    Attributes:
        name: its name, or the reference to a user's code.
        options: the options that are given.
        folder: where a user's file is looked for, besides the current folder.
    """

    name: str
    options: Mapping[str, Any]
    folder: str = field(default="", compare=False)

    @property
    def entry(self) -> Network | None:
        """Its entry in the table; None for a user's network."""
        return NETWORKS.get(self.name)

    @property
    def settings(self) -> dict[str, Any]:
        """All options, with defaults for those that are not given."""
        return (self.entry.defaults if self.entry else {}) | dict(self.options)

    def __str__(self) -> str:
        """Return the text of the network, without options that have their default."""
        defaults = self.entry.defaults if self.entry else {}
        order = [*defaults, *(name for name in self.options if name not in defaults)]
        given = {name: self.options[name] for name in order if name in self.options}
        changed = {k: v for k, v in given.items() if k not in defaults or defaults[k] != v}
        return format_spec(self.name, changed)

    def build(self, shape: Sequence[int], classes: int) -> nn.Module:
        """Build the plain network, with weights drawn from torch's global generator.

        Args:
            shape: the shape of a sample.
            classes: the number of outputs.

        Raises:
            OptionError: the network cannot read such samples, or sizes do not fit; or a user's code
                raises an error or returns no module.
        """
        if self.entry is None:
            return self._build_own(tuple(shape), classes)
        sizes = {name: self.settings[name] for name in self.entry.options}
        names = ("activation", "straight_through", "init", "bias")
        activation, through, init, bias = (self.settings[name] for name in names)
        parts = Parts(lambda: make_activation(activation, through), init, bias)
        network = self.entry.build(parts, tuple(shape), classes, **sizes)
        if not (numbers := self.settings.get("standardize")):
            return network
        rest = network if isinstance(network, nn.Sequential) else (network,)
        return nn.Sequential(Standardize(*numbers), *rest)

    def _build_own(self, shape: tuple[int, ...], classes: int) -> nn.Module:
        factory = code.load(self.name, self.folder)
        with code.errors_of(self.name):
            built = factory(shape, classes, **self.options)
        if not isinstance(built, nn.Module):
            raise OptionError(
                f"{self.name}(sample_shape, num_classes) must return an nn.Module; got "
                f"{built!r:.80}"
            )
        return built

    def describe(self, shape: Sequence[int], classes: int) -> str:
        """Return the name, the sizes and the activation as text."""
        if self.entry is None:
            return str(self)
        sizes = {name: self.settings[name] for name in self.entry.options}
        activation = self.settings["activation"]
        if self.name == "mlp":
            dropout = f", dropout {p:g}" if (p := sizes.pop("dropout")) else ""
            all_sizes = math.prod(shape), *hidden_sizes(**sizes), classes
            return f"{_join_sizes(all_sizes)}, {activation}{dropout}"
        options = (f"{k} {v}" for k, v in sizes.items() if v not in (None, False))
        return ", ".join((self.name, *options, activation))


@functools.lru_cache
def _parse(text: str, folder: str, stamp: object) -> Model:
    name, words = split("network", text, NETWORKS)
    options = parse_values(f"network {name!r}", words, model_option_types(name, folder))
    model = Model(name, options, folder)
    if model.entry is None:
        check_required(f"network {name!r}", code.load(name, folder), options, skip=2)
        return model
    for option, value in options.items():
        _check_sizes(f"{option} of network {name!r}", value, _MOST.get(option, 10**6))
    if (numbers := options.get("standardize")) and not (len(numbers) == 2 and numbers[1] > 0):
        raise OptionError(
            f"standardize of network {name!r} must be MEAN-DEVIATION, such as 0.13-0.31, with a "
            f"deviation above 0; got {format_value(numbers)}"
        )
    if isinstance(model.settings["init"], Mirror):
        raise OptionError(
            f"init of network {name!r}: mirror estimates weights that are there already, so it is "
            "for feedback weights; choose another"
        )
    if both := [option for option in ("width", "depth") if {option, "hidden"} <= options.keys()]:
        raise OptionError(f"{text!r}: hidden already sets all sizes; leave out hidden or {both[0]}")
    if not 0 <= (dropout := model.settings.get("dropout", 0.0)) < 1:
        raise OptionError(f"dropout of network {name!r} must be from 0 to below 1; got {dropout:g}")
    make_activation(model.settings["activation"], model.settings["straight_through"])
    return model


def parse_model(text: str, folder: str = "") -> Model:
    """Parse a network with its options.

    Args:
        text: NAME:OPTION=VALUE,... with a name of the table, or a reference to a function or class
            that is called with the shape of a sample and the number of classes.
        folder: where a user's file is looked for, besides the current folder.

    Raises:
        OptionError: for an unknown name or option, an invalid value, or options that contradict.
    """
    if not isinstance(text, str):
        raise OptionError(f"model must be a text such as mlp:width=64; got {text!r:.200}")
    own = code.split_reference(text) if text.partition(":")[0] not in NETWORKS else None
    return _parse(text, folder, id(code.load(f"{own[0]}:{own[1]}", folder)) if own else None)


def model_option_types(name: str, folder: str = "") -> dict[str, Any]:
    """Return the options of a network and the types of their values.

    Raises:
        OptionError: a user's code cannot be loaded, or is not a function or class.
    """
    if not is_reference(name):
        return {option: _TYPES.get(option, int) for option in NETWORKS[name].defaults}
    factory = code.load(name, folder)
    if isinstance(factory, nn.Module) or not callable(factory):
        raise OptionError(
            f"{name} must be a function or class that is called with the shape of a sample and the "
            f"number of classes; got {type(factory).__name__}"
        )
    return option_types(factory, skip=2)


def _check_sizes(what: str, value: Any, most: int) -> None:
    """Raise `OptionError` for a whole number that is not from 1 to `most`, also in a tuple."""
    for number in value if isinstance(value, tuple) else (value,):
        if type(number) is int and not 1 <= number <= most:
            raise OptionError(f"{what} must be a whole number from 1 to {most:,}; got {number}")


def _join_sizes(sizes: Sequence[int]) -> str:
    """Join sizes by "-", and abbreviate more than six equal ones in a row."""
    groups = ((size, len(list(same))) for size, same in itertools.groupby(sizes))
    parts = (f"({n} x {size})" if n > 6 else "-".join([str(size)] * n) for size, n in groups)
    return "-".join(parts)


def check_output(model: Model, network: nn.Module, samples: torch.Tensor, classes: int) -> None:
    """Check that a user's network returns logits for samples.

    Args:
        model: the network's description.
        network: the network, whose state and random numbers stay as they are.
        samples: a few samples, (n, ...).
        classes: the number of classes.

    Raises:
        OptionError: it raises an error, or its output does not have shape (n, ..., classes).
    """
    state = {name: value.clone() for name, value in network.state_dict().items()}
    weight = next(network.parameters(), samples)
    with code.errors_of(model.name), torch.random.fork_rng(devices=[]), torch.no_grad():
        out = network(samples.to(weight.dtype) if samples.is_floating_point() else samples)
    network.load_state_dict(state)
    expected = (len(samples), classes) if samples.is_floating_point() else (*samples.shape, classes)
    shape = getattr(out, "shape", None)
    if shape is None or tuple(shape) != expected:
        found = type(out).__name__ if shape is None else f"shape {tuple(shape)}"
        raise OptionError(
            f"{model.name}: for samples of shape {tuple(samples.shape)} its forward must return "
            f"logits of shape {expected}; got {found}"
        )

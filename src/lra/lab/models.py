"""The networks and optimizers that a configuration describes."""

import itertools
import math
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lra.errors import DataError, OptionError
from lra.lab.config import TrainConfig
from lra.lab.data import Dataset
from lra.lab.images import channel_axis
from lra.lab.learning import feedback
from lra.lab.networks import NETWORKS, hidden_sizes
from lra.lab.options import make_activation
from lra.lab.parts import Parts

_DECAY = {"adamw": 0.01}
"""Weight decay by default; none where it would be added to the gradient."""


def build_network(config: TrainConfig, sample_shape: Sequence[int], classes: int) -> nn.Module:
    """Build the plain network, drawn from torch's global generator.

    Args:
        config: the run's configuration.
        sample_shape: shape of one sample.
        classes: number of outputs.

    Raises:
        OptionError: for samples that the network cannot read, or sizes that do not fit.
    """
    network = NETWORKS[config.model]
    activation, through = config.activation or network.activation, config.straight_through
    parts = Parts(
        lambda: make_activation(activation, through), config.init or network.init, config.bias
    )
    return network.build(parts, tuple(sample_shape), classes, **config.sizes)


def check_reads(config: TrainConfig, dataset: Dataset) -> None:
    """Refuse data of a kind that the network does not read, or that cannot be augmented.

    Raises:
        OptionError: for text where the network reads values, or the other way round; and for
            augmentation of what are no images.
    """
    text = dataset.reads == "text"
    if NETWORKS[config.model].text != text:
        able = [name for name, network in NETWORKS.items() if network.text == text]
        raise OptionError(
            f"{config.model} reads {NETWORKS[config.model].reads}, and {dataset.name} holds "
            f"{dataset.reads}; choose --model {' or '.join(able)}, or another dataset"
        )
    if config.augment:
        try:
            channel_axis(dataset.sample_shape)
        except DataError as error:
            raise OptionError(f"augment: {dataset.name}: {error}, or leave out augment") from error


def describe(config: TrainConfig, dataset: Dataset) -> str:
    """Name a network with its sizes and its nonlinearity."""
    sizes = config.sizes
    activation = config.activation or NETWORKS[config.model].activation
    if config.model == "mlp":
        shape = math.prod(dataset.sample_shape), *hidden_sizes(**sizes), dataset.num_classes
        return f"{_join(shape)}, {activation}"
    shown = (f"{name} {size}" for name, size in sizes.items() if size is not None)
    return ", ".join((config.model, *shown, activation))


def _join(sizes: Sequence[int]) -> str:
    """Write sizes, long rows of one size as one."""
    runs = ((size, len(list(same))) for size, same in itertools.groupby(sizes))
    parts = (f"({n} x {size})" if n > 6 else "-".join([str(size)] * n) for size, n in runs)
    return "-".join(parts)


def build_optimizer(config: TrainConfig, model: nn.Module) -> torch.optim.Optimizer:
    """Build the optimizer, with a group for learned feedback weights if they have their own step.

    Raises:
        OptionError: for a feedback_lr where the rule learns no feedback weights.
    """
    groups: list[dict[str, Any]] = [{"params": list(model.parameters()), "lr": config.lr}]
    if config.feedback_lr is not None:
        own = feedback(config.rule, model)
        if not own:
            raise OptionError(
                f"feedback_lr is given, but {config.rule.name} learns no feedback weights "
                "here; leave it out"
            )
        learned = {id(E) for E in own}
        groups[0]["params"] = [p for p in model.parameters() if id(p) not in learned]
        groups.append({"params": own, "lr": config.feedback_lr})
    given = config.weight_decay
    decay = _DECAY.get(config.optimizer, 0.0) if given is None else given
    match config.optimizer:
        case "sgd":
            momentum = config.momentum or 0.0
            return torch.optim.SGD(groups, momentum=momentum, weight_decay=decay, fused=True)
        case "rmsprop":
            return torch.optim.RMSprop(
                groups,
                alpha=0.99 if config.smoothing is None else config.smoothing,
                momentum=config.momentum or 0.0,
                weight_decay=decay,
            )
        case _:
            optimizer = torch.optim.AdamW if config.optimizer == "adamw" else torch.optim.Adam
            betas = config.betas or (0.9, 0.999)
            return optimizer(groups, betas=betas, weight_decay=decay, fused=True)


def plain_state(model: nn.Module, names: Iterable[str]) -> dict[str, Tensor]:
    """Give the state of the unconverted network: what of a state has the names it had then."""
    state = model.state_dict()
    return {name: state[name].detach().cpu().contiguous() for name in names}

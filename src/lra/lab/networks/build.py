"""Building the network and the optimizer of a configuration."""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lra.errors import DataError, OptionError
from lra.lab.data import Dataset
from lra.lab.data.images import channel_axis
from lra.lab.networks.table import NETWORKS
from lra.lab.settings.config import TrainConfig
from lra.lab.training.learning import feedback_parameters

_DEFAULT_DECAY = {"adamw": 0.01}
"""Default weight decay; 0 for optimizers that would add it to the gradient."""


def build_network(config: TrainConfig, sample_shape: Sequence[int], classes: int) -> nn.Module:
    """Build the plain network of a configuration, as `Model.build` does."""
    return config.network.build(sample_shape, classes)


def check_dataset(config: TrainConfig, dataset: Dataset) -> None:
    """Check that the network can read a dataset, and that it can be augmented as configured.

    Raises:
        OptionError: the dataset is text and the network reads values, or the reverse; or samples
            to augment are not images.
    """
    text, entry = dataset.reads == "text", config.network.entry
    if entry and entry.text != text:
        suitable = [name for name, network in NETWORKS.items() if network.text == text]
        raise OptionError(
            f"{config.network.name} reads {entry.reads}, and {dataset.name} holds "
            f"{dataset.reads}; choose --model {' or '.join(suitable)}, or another dataset"
        )
    if config.augment:
        try:
            channel_axis(dataset.sample_shape)
        except DataError as error:
            raise OptionError(f"augment: {dataset.name}: {error}, or leave out augment") from error


def build_optimizer(config: TrainConfig, model: nn.Module) -> torch.optim.Optimizer:
    """Build the optimizer, with a separate group for feedback weights if `feedback_lr` is set.

    Raises:
        OptionError: `feedback_lr` is set, but the rule learns no feedback weights.
    """
    groups: list[dict[str, Any]] = [{"params": list(model.parameters()), "lr": config.lr}]
    if config.feedback_lr is not None:
        feedback = feedback_parameters(config.built_rule, model)
        if not feedback:
            raise OptionError(
                f"feedback_lr is given, but {config.rule_name} learns no feedback weights "
                "here; leave it out"
            )
        learned = {id(E) for E in feedback}
        groups[0]["params"] = [p for p in model.parameters() if id(p) not in learned]
        groups.append({"params": feedback, "lr": config.feedback_lr})
    decay = config.weight_decay
    if decay is None:
        decay = _DEFAULT_DECAY.get(config.optimizer, 0.0)
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
    """Return the state of the unconverted network, given the names in it."""
    state = model.state_dict()
    return {name: state[name].detach().cpu().contiguous() for name in names}

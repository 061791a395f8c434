"""The networks and optimizers that a configuration describes."""

import itertools
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

import lra
from lra.errors import OptionError
from lra.feedback import Init
from lra.lab.config import ACTIVATIONS, TrainConfig
from lra.rules import name_of
from lra.torch.layers.record import DrawLike


def build_network(config: TrainConfig, sample_shape: Sequence[int], classes: int) -> nn.Sequential:
    """Build the plain multilayer perceptron, drawn from torch's global generator.

    Args:
        config: the run's configuration.
        sample_shape: shape of one sample, which is flattened.
        classes: number of outputs.
    """
    sizes = (math.prod(sample_shape), *config.hidden, classes)
    layers: list[nn.Module] = [nn.Flatten()]
    for inputs, outputs in itertools.pairwise(sizes):
        if len(layers) > 1:
            layers.append(ACTIVATIONS[config.activation]())
        linear = nn.Linear(inputs, outputs, bias=config.bias)
        _draw(linear.weight, config.init)
        layers.append(linear)
    return nn.Sequential(*layers)


def _draw(weight: Tensor, init: Init) -> None:
    drawn: Tensor = init.draw(DrawLike(weight))
    with torch.no_grad():
        weight.copy_(drawn)


def build_optimizer(config: TrainConfig, model: nn.Module) -> torch.optim.Optimizer:
    """Build the optimizer, with a group for learned feedback weights if they have their own step.

    Raises:
        OptionError: for a feedback_lr where the rule learns no feedback weights.
    """
    groups: list[dict[str, Any]] = [{"params": list(model.parameters()), "lr": config.lr}]
    if config.feedback_lr is not None:
        feedback = lra.feedback_parameters(model)
        if not feedback:
            raise OptionError(
                f"feedback_lr is given, but {name_of(config.rule)} learns no feedback weights "
                "here; leave it out"
            )
        learned = {id(E) for E in feedback}
        groups[0]["params"] = [p for p in model.parameters() if id(p) not in learned]
        groups.append({"params": feedback, "lr": config.feedback_lr})
    decay = config.weight_decay
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


def plain_state(model: nn.Module) -> dict[str, Tensor]:
    """Give the weights of the unconverted network: the state without feedback weights."""
    return {
        name: value.detach().cpu().contiguous()
        for name, value in model.state_dict().items()
        if name.rpartition(".")[2] != "feedback"
    }

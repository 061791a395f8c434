"""The networks and optimizers that a configuration describes."""

import itertools
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

import lra
from lra.feedback import Init
from lra.lab.config import ACTIVATIONS, TrainConfig


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
    def fill(kind: str, scale: float) -> None:
        if kind == "normal":
            nn.init.normal_(weight, std=scale)
        else:
            nn.init.uniform_(weight, -scale, scale)

    init.draw(weight[0].numel(), fill)


def build_optimizer(config: TrainConfig, model: nn.Module) -> torch.optim.Optimizer:
    """Build the optimizer, with a group of its own for learned feedback weights."""
    feedback = lra.feedback_parameters(model)
    learned = {id(E) for E in feedback}
    groups: list[dict[str, Any]] = [
        {"params": [p for p in model.parameters() if id(p) not in learned], "lr": config.lr}
    ]
    if feedback:
        rate = config.lr if config.feedback_lr is None else config.feedback_lr
        groups.append({"params": feedback, "lr": rate})
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

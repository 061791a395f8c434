"""Set-up, steps and predictions of a run, which differ between rules and methods."""

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, nn

import lra
from lra.errors import ConversionError, OptionError
from lra.lab.runs.measure import LOSSES, Predictor, count_correct
from lra.lab.settings.config import TrainConfig
from lra.methods import Method
from lra.rules import Rule

if TYPE_CHECKING:
    from lra.torch.compiled import CompiledStep


def prepare(
    rule: Rule | Method, network: nn.Module, samples: Tensor, text: bool, own: bool
) -> None:
    """Convert a network to a rule, or attach a method to it.

    Args:
        rule: the rule or method.
        network: the plain network.
        samples: a few samples, as an example.
        text: whether the network predicts a character at each position.
        own: whether the network is the user's own, so that only an example shows all it does.

    Raises:
        ConversionError: a part of the network cannot follow the rule. A run in which that part
            follows backprop would be named after a rule that it does not show.
    """
    if samples.is_floating_point():  # float64 in double precision, where the network is not yet
        samples = samples.to(next(network.parameters()).dtype)
    if isinstance(rule, Method):
        rule.attach(network, torch.zeros_like(samples[:1]))
        return
    example = samples if own or rule.wiring != lra.wiring.Chain() else None
    terms: Literal["tokens", "batch"] = "tokens" if text else "batch"
    try:
        lra.convert(network, rule, example=example, loss_terms=terms)
    except ConversionError as error:
        if not any(refusal.name for refusal in error.refused):
            raise
        message = f"{error} in a training loop of your own; a run follows one rule as a whole"
        raise ConversionError(message, error.refused) from None


def feedback_parameters(rule: Rule | Method, network: nn.Module) -> list[nn.Parameter]:
    """Return the parameters that a network learns for the backward pass alone."""
    if isinstance(rule, Method):
        return rule.feedback_parameters(network)
    return lra.feedback_parameters(network)


def share_feedback(
    config: TrainConfig, network: nn.Module, optimizer: torch.optim.Optimizer
) -> None:
    """Store feedback weights as differences from the weights, as `config.share_feedback` says.

    Raises:
        OptionError: the setting is "always", and the feedback weights cannot be shared.
    """
    if config.share_feedback == "never":
        return
    try:
        if isinstance(config.built_rule, Method):
            raise ConversionError(f"{config.rule_name} has no feedback weights beside its weights")
        lra.share_feedback(network, optimizer)
    except ConversionError as error:
        if config.share_feedback == "always":
            raise OptionError(f"share_feedback is always, but {error}") from error


_MIN_STEPS = 100_000
"""The number of steps from which compiling pays even if it takes 30 s and saves little per step."""


def compile_step(
    config: TrainConfig,
    steps: int,
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    device: torch.device,
) -> "CompiledStep | None":
    """Return a run's compiled step, or None if it is not to be compiled.

    Its loss returns the number of correct predictions as an auxiliary output. The choice depends
    only on the settings and on torch, so that a run is reproducible.

    Args:
        config: the run's configuration.
        steps: the number of steps in the run.
        network: the network to train.
        optimizer: its optimizer.
        device: its device.

    Raises:
        OptionError: `config.compile` is "always", and the network has convolutions on a CPU.
        CompileError: torch cannot compile the step.
    """
    if config.compile == "never":
        return None
    has_convolutions = any(isinstance(m, nn.Conv2d) for m in network.modules())
    obstacle = config.compile_obstacle
    if device.type == "cpu" and has_convolutions:  # torch 2.13, also without lra
        obstacle = (
            "torch's compiled convolutions crash on some processors, so "
            f"{config.network.name} is not compiled for a CPU; leave --compile out, or use "
            "--device cuda"
        )
    if config.compile == "auto" and (obstacle or steps < _MIN_STEPS or not _can_compile(device)):
        return None
    if obstacle:
        raise OptionError(f"compile is always, but {obstacle}")

    def loss(logits: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        return LOSSES[config.loss](logits, y), count_correct(logits, y)

    return lra.compile_step(network, loss, optimizer, has_aux=True)


def _can_compile(device: torch.device) -> bool:
    """Return whether torch can compile steps, and a C++ compiler is there if it needs one."""
    from torch._inductor.cpp_builder import get_cpp_compiler  # slow to import

    from lra.torch.compiled import available

    try:
        return available() and (device.type != "cpu" or bool(get_cpp_compiler()))
    except RuntimeError:
        return False


def make_predictor(rule: Rule | Method, network: nn.Module) -> Predictor:
    """Return the function that predicts: the network, or a method's `output` for it."""
    return functools.partial(rule.output, network) if isinstance(rule, Method) else network


def method_step(
    method: Method,
    network: nn.Module,
    x: Tensor,
    loss: Callable[[Tensor], Tensor],
    terms: float,
) -> tuple[Tensor, Tensor]:
    """Compute the updates of a step by a method, and return the loss and its logits."""
    outputs: list[Tensor] = []

    def recording_loss(logits: Tensor) -> Tensor:
        if not outputs:  # a method's first call has the network's prediction
            outputs.append(logits.detach())
        return loss(logits)

    value = method(network, recording_loss, x, loss_terms=terms)
    return value, outputs[0]

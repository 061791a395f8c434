"""How a network learns and answers by what a run names: a rule swapped into it, or a method."""

import functools
from collections.abc import Callable

import torch
from torch import Tensor, nn

import lra
from lra.errors import ConversionError, OptionError
from lra.lab.config import TrainConfig
from lra.lab.measure import Answer, count_right, cross_entropy
from lra.methods import Method
from lra.rules import Rule


def prepare(rule: Rule | Method, network: nn.Module, samples: Tensor, text: bool) -> list[str]:
    """Convert a network to a rule, or make it ready for a method.

    Args:
        rule: the rule or method.
        network: the plain network.
        samples: a few, as an example.
        text: whether the network predicts a character at each place.

    Returns:
        What is to be said of it.
    """
    if isinstance(rule, Method):
        rule.attach(network, torch.zeros(1, *samples.shape[1:]))
        return []
    if samples.is_floating_point():  # those of a run in double precision, which the network is not
        samples = samples.to(next(network.parameters()).dtype)
    example = (
        None if rule.wiring == lra.wiring.Chain() else samples
    )  # others ask who comes after whom
    lra.convert(network, rule, example=example, loss_terms="tokens" if text else "batch")
    covered = lra.coverage(network)
    if not covered.left:
        return []
    layers = ", ".join(covered.left)
    return [f"{1 - covered.share:.1%} of the weights follow no rule: {layers}"]


def feedback(rule: Rule | Method, network: nn.Module) -> list[nn.Parameter]:
    """List the parameters that a network learns for the way back alone."""
    if isinstance(rule, Method):
        return rule.feedback_parameters(network)
    return lra.feedback_parameters(network)


def share(config: TrainConfig, network: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Share feedback weights with the weights: "auto", where that can be; "always"; or "never".

    Raises:
        OptionError: for "always", where they cannot be shared.
    """
    if config.share_feedback == "never":
        return
    try:
        if isinstance(config.rule, Method):
            raise ConversionError(f"{config.rule.name} has no feedback weights beside its weights")
        lra.share_feedback(network, optimizer)
    except ConversionError as error:
        if config.share_feedback == "always":
            raise OptionError(f"share_feedback is always, but {error}") from error


_WORTH = 100_000
"""In how many steps compiling pays, also where it takes half a minute and saves little in each."""


def compiled(
    config: TrainConfig,
    steps: int,
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    device: torch.device,
) -> lra.torch.compiled.CompiledStep | None:
    """Give a run's compiled step, whose loss has the number of right predictions beside it.

    Whether a run has one depends on its settings and on torch alone, so that it comes to the same
    numbers each time.

    Args:
        config: the run's configuration.
        steps: how many the run has.
        network: what is trained.
        optimizer: what moves it.
        device: where.

    Raises:
        OptionError: for convolutions on a CPU, where it is always to be compiled.
        CompileError: where torch cannot compile.
    """
    if config.compile == "never":
        return None
    convolves = any(isinstance(m, nn.Conv2d) for m in network.modules())
    trouble = config.uncompiled
    if device.type == "cpu" and convolves:  # torch 2.13, without lra too
        trouble = (
            f"torch's compiled convolutions crash on some processors, so {config.model} is not "
            "compiled for a CPU; leave --compile out, or take --device cuda"
        )
    if config.compile == "auto" and (trouble or steps < _WORTH or not _can_compile(device)):
        return None
    if trouble:
        raise OptionError(f"compile is always, but {trouble}")

    def loss(logits: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        return cross_entropy(logits, y), count_right(logits, y)

    return lra.compile_step(network, loss, optimizer, has_aux=True)


def _can_compile(device: torch.device) -> bool:
    """Tell whether torch compiles steps, and has what it compiles kernels with."""
    from torch._inductor.cpp_builder import get_cpp_compiler  # which takes a while to import

    from lra.torch.compiled import available

    try:
        return available() and (device.type != "cpu" or bool(get_cpp_compiler()))
    except RuntimeError:
        return False


def answering(rule: Rule | Method, network: nn.Module) -> Answer:
    """Give the network as what predicts: its forward pass, unless a method says otherwise."""
    return functools.partial(rule.output, network) if isinstance(rule, Method) else network


def step_by(
    method: Method,
    network: nn.Module,
    x: Tensor,
    loss: Callable[[Tensor], Tensor],
    terms: float,
) -> tuple[Tensor, Tensor]:
    """Compute a step's updates by a method; give the loss, and the logits that it is of."""
    answer: list[Tensor] = []

    def heard(logits: Tensor) -> Tensor:
        if not answer:  # the first is the network's answer
            answer.append(logits.detach())
        return loss(logits)

    value = method(network, heard, x, loss_terms=terms)
    return value, answer[0]

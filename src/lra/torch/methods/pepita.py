"""PEPITA for torch: two forward passes, the second with the projected error in its input."""

import torch
from torch import Tensor, nn

from lra.errors import MethodError
from lra.loss_terms import LossTerms
from lra.methods import PEPITA
from lra.methods.base import Loss
from lra.torch.methods import linear_chain
from lra.torch.methods.linear_chain import remove_projections
from lra.torch.methods.runs import Runs, count_loss_terms

__all__ = ["attach", "remove_projections", "step"]


def attach(method: PEPITA, model: nn.Module) -> nn.Module:
    """Add F to the first linear layer."""
    segments = linear_chain.split_model(method, model)
    first, last = segments[0], segments[-1]
    sizes = [(first, first.layer.in_features)]
    linear_chain.add_projections(method, sizes, last.layer.out_features, method.scale)
    return model


def step(
    method: PEPITA,
    model: nn.Module,
    loss: Loss,
    x: Tensor,
    loss_terms: LossTerms | str | float,
) -> Tensor:
    """Run both passes, and add the updates to `.grad`."""
    segments = linear_chain.split_model(method, model)
    (F,) = linear_chain.projections(method, segments[:1])
    if torch.is_autocast_enabled(x.device.type):
        raise MethodError(
            "PEPITA: autocast is on, and 16 bits lose the small differences between the two "
            "passes; call the method outside torch.autocast"
        )
    inputs: list[Tensor] = []  # of the linear layers, in one pass
    outputs: list[Tensor] = []
    shift: Tensor | None = None  # of the first layer's input

    def save_input(layer: nn.Module, z: Tensor) -> Tensor:
        z = z + shift if shift is not None and not inputs else z
        inputs.append(z)
        return z

    def save_output(layer: nn.Module, h: Tensor) -> Tensor:
        outputs.append(h)
        return h.detach()  # no error goes down

    with Runs(method, model, x) as run:
        layers = [segment.layer for segment in segments]
        run.replace_inputs(layers, save_input)
        run.replace_outputs(layers, save_output)
        with torch.no_grad():
            output = run()
        value, d = linear_chain.loss_and_gradient(loss, output)
        N = count_loss_terms(loss_terms, output)
        clean = inputs[1:]
        inputs.clear()
        outputs.clear()
        shift = N * d @ F
        run(last=True)
    total = (outputs[-1] * d).sum()
    for h, z, modulated in zip(outputs, clean, inputs[1:], strict=False):
        total = total + (h * (z - modulated)).sum() / N
    total.backward()  # type: ignore[no-untyped-call]
    return value

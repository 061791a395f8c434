"""Direct random target projection for torch: labels, projected to each hidden layer."""

from torch import Tensor, nn

from lra.loss_terms import LossTerms
from lra.methods import DRTP
from lra.methods.base import Loss
from lra.torch.methods import linear_chain
from lra.torch.methods.linear_chain import remove_projections
from lra.torch.methods.runs import Runs, count_loss_terms

__all__ = ["attach", "remove_projections", "step"]


def attach(method: DRTP, model: nn.Module) -> nn.Module:
    """Add B to each hidden layer."""
    *hidden, last = linear_chain.split_model(method, model)
    sizes = [(segment, segment.layer.out_features) for segment in hidden]
    linear_chain.add_projections(method, sizes, last.layer.out_features, method.scale)
    return model


def step(
    method: DRTP,
    model: nn.Module,
    loss: Loss,
    x: Tensor,
    loss_terms: LossTerms | str | float,
) -> Tensor:
    """Run the model, and add the updates to `.grad`."""
    segments = linear_chain.split_model(method, model)
    B = linear_chain.projections(method, segments[:-1])
    inputs: list[Tensor] = []  # of the linear layers

    def detach_input(layer: nn.Module, z: Tensor) -> Tensor:
        inputs.append(z)
        return z.detach()

    with Runs(method, model, x) as run:
        run.replace_inputs([segment.layer for segment in segments], detach_input)
        output = run(last=True)
        value, d = linear_chain.loss_and_gradient(loss, output)
        N = count_loss_terms(loss_terms, output)
    labels = linear_chain.recover_labels(method, output, d, N)
    total = (output * d).sum()
    for z, each in zip(inputs[1:], B, strict=True):
        total = total + (z * each[labels]).sum() / N
    total.backward()
    return value

"""Forward-Forward for torch: passes with the label, with a wrong one, and with a neutral one."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lra.errors import Refusal
from lra.loss_terms import LossTerms
from lra.methods import ForwardForward
from lra.methods.base import Loss
from lra.torch.methods import linear_chain
from lra.torch.methods.linear_chain import LinearSegment
from lra.torch.methods.runs import Runs, count_loss_terms, raise_if_refused


def split_model(method: ForwardForward, model: nn.Module) -> list[LinearSegment]:
    """Split a chain of linear layers whose input has room for the label.

    Raises:
        MethodError: for any other model.
    """
    segments = linear_chain.split_model(method, model)
    first, classes = segments[0], segments[-1].layer.out_features
    if not 2 <= classes <= first.layer.in_features:
        reason = f"it reads {first.layer.in_features} numbers, and the model has {classes} outputs"
        raise_if_refused(
            method,
            [Refusal(first.path, type(first.layer).__name__, reason)],
            "the first layer's input needs an entry for each of at least two classes",
        )
    return segments


def normalise(z: Tensor) -> Tensor:
    """Divide each sample by its root mean square."""
    z = z if z.dtype is torch.float64 else z.float()
    return z / (z.square().mean(-1, keepdim=True).sqrt() + 1e-8)


def embed(x: Tensor, label: Tensor) -> Tensor:
    """Replace the first entries of each sample by a label's, (..., classes)."""
    return torch.cat([label.to(x.dtype), x[..., label.shape[-1] :]], -1)


class _NeutralRun(Runs):
    """A run of a model with normalised inputs and the neutral label."""

    def __init__(
        self, method: ForwardForward, model: nn.Module, segments: list[LinearSegment], x: Tensor
    ) -> None:
        super().__init__(method, model, x)
        self.inputs: list[Tensor] = []  # of the linear layers
        self._classes = segments[-1].layer.out_features
        self.replace_inputs([segment.layer for segment in segments], self._replace)

    def _replace(self, layer: nn.Module, z: Tensor) -> Tensor:
        self.inputs.append(z)
        if len(self.inputs) == 1:
            neutral = z.new_full((*z.shape[:-1], self._classes), 1 / self._classes)
            z = embed(z, neutral)
        return normalise(z.detach())


def output(method: ForwardForward, model: nn.Module, x: Tensor) -> Tensor:
    """Compute the output for the neutral label."""
    segments = split_model(method, model)
    with (
        torch.enable_grad(),
        _NeutralRun(method, model, segments, x.detach()) as run,
        torch.no_grad(),
    ):
        answer: Tensor = run()
    return answer


def step(
    method: ForwardForward,
    model: nn.Module,
    loss: Loss,
    x: Tensor,
    loss_terms: LossTerms | str | float,
) -> Tensor:
    """Run the model, then the hidden layers with both labels, and add the updates to `.grad`."""
    segments = split_model(method, model)
    with _NeutralRun(method, model, segments, x) as run:
        output = run(last=True)
        value, d = linear_chain.loss_and_gradient(loss, output)
        N = count_loss_terms(loss_terms, output)
    labels = linear_chain.recover_labels(method, output, d, N)
    classes = output.shape[-1]
    wrong = (labels + torch.randint_like(labels, 1, classes)) % classes
    z = torch.stack([embed(run.inputs[0], F.one_hot(t, classes)) for t in (labels, wrong)])
    total = (output * d).sum()
    for segment in segments[:-1]:
        z = segment(normalise(z.detach()))
        squares = z.square() if z.dtype is torch.float64 else z.float().square()
        g = squares.sum(-1) - method.threshold * z.shape[-1]
        total = total + (F.softplus(-g[0]) + F.softplus(g[1])).sum() / (2 * N)
    total.backward()
    return value

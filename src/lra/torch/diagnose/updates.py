"""The updates of a rule or method, backprop's gradients, and the layers that they belong to."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Function

from lra.errors import OptionError
from lra.loss_terms import LossTerms
from lra.methods.base import Loss, Method
from lra.torch.activations import BlackBox
from lra.torch.diagnose.measures import compare
from lra.torch.diagnose.optimizers import Epsilons
from lra.torch.diagnose.pass_observer import PassObserver
from lra.torch.diagnose.roles import row_of
from lra.torch.layers.slots import feedback_slots
from lra.torch.model_state import clone_tensors

Updates = dict[str, Tensor | None]
"""An update for each parameter that requires a gradient, by name; None for zero."""


def updates_of(model: nn.Module, compute_loss: Callable[[], Tensor]) -> tuple[float, Updates]:
    """Return the loss and what `.grad` would hold, without changing it or calling its hooks."""
    named = {name: p for name, p in model.named_parameters() if p.requires_grad}
    loss = compute_loss()
    if not (isinstance(loss, Tensor) and loss.numel() == 1 and loss.requires_grad and named):
        raise OptionError(
            "diagnose: the loss must be one number, a tensor that depends on parameters of the "
            f"model which require gradients; got {loss!r}"
        )
    updates = torch.autograd.grad(loss, list(named.values()), allow_unused=True)
    dense = (g.to_dense() if g is not None and g.is_sparse else g for g in updates)
    return float(loss.detach()), dict(zip(named, dense, strict=True))


def updates_by_method(
    method: Method, model: nn.Module, x: Tensor, loss: Loss, terms: LossTerms | str | float
) -> tuple[float, Updates]:
    """Return the loss and what a method writes to `.grad`, which is then reset."""
    before = [(p, p.grad) for p in model.parameters()]
    try:
        for p, _ in before:
            p.grad = None
        value = method(model, loss, clone_tensors(x), loss_terms=terms)
        named = model.named_parameters()
        return float(value), {name: p.grad for name, p in named if p.requires_grad}
    finally:
        for p, grad in before:
            p.grad = grad


class _Undefined(Function):
    """Return a result whose derivative is undefined: errors become nan."""

    @staticmethod
    def forward(ctx: Any, result: Tensor, *inputs: Tensor) -> Tensor:
        ctx.save_for_backward(*inputs)
        return result.view_as(result)

    @staticmethod
    def backward(ctx: Any, error: Tensor) -> Any:
        return None, *(torch.full_like(t, torch.nan) for t in ctx.saved_tensors)


class UndefinedGradients:
    """Marks gradients that backprop cannot compute with nan, for everything below a black box."""

    found = False

    def hook(self, module: nn.Module, inputs: tuple[Any, ...], output: Any) -> Any:
        """Replace the output of a module that autograd cannot differentiate: a forward hook."""
        sources = [x for x in inputs if isinstance(x, Tensor) and x.requires_grad]
        sources += [p for p in module.parameters(recurse=False) if p.requires_grad]
        if not isinstance(output, Tensor) or not sources:
            return None
        black_box = isinstance(module, BlackBox) and module.straight_through is None
        if output.requires_grad and not black_box:
            return None
        self.found = True
        return _Undefined.apply(output.detach(), *sources)  # type: ignore[no-untyped-call]


def assign_updates(
    model: nn.Module,
    observer: PassObserver,
    updates: Updates,
    gradients: Updates,
    has_undefined: bool,
    epsilons: Epsilons,
) -> None:
    """Add each parameter's update to the record of its layer, feedback weights last.

    Args:
        model: the model.
        observer: the observer of the rule's pass.
        updates: those of the rule.
        gradients: those of backprop, for the parameters that the plain model has.
        has_undefined: whether gradients with nan are undefined.
        epsilons: the eps of each parameter's optimizer.
    """
    feedback_rows = _feedback_rows(model)
    names = {id(p): name for name, p in model.named_parameters()}
    everywhere = dict(model.named_parameters(remove_duplicate=False))  # tied weights twice
    for alias, W in sorted(
        everywhere.items(), key=lambda item: names[id(item[1])] not in gradients
    ):
        name = names[id(W)]
        own = alias if alias in observer.records else alias.rpartition(".")[0]
        row = feedback_rows.get(alias, own)
        if name not in updates or (alias != name and row not in observer.records):
            continue
        feedback = name not in gradients  # the plain model does not have it
        gradient = gradients.get(name)
        if gradient is None and not feedback:
            gradient = torch.zeros_like(W)
        if has_undefined and gradient is not None and not bool(torch.isfinite(gradient).all()):
            gradient = None
        eps = epsilons.of(W)
        report = compare(alias, W, updates[name], gradient, feedback=feedback, eps=eps)
        observer.assign(row, report)


def _feedback_rows(model: nn.Module) -> dict[str, str]:
    """Map the names of feedback weights to the rows of the weights that they belong to."""
    return {
        f"{path}.{slot.name}".strip("."): row_of(path, slot.key)
        for path, _, slot in feedback_slots(model)
        if slot.name
    }

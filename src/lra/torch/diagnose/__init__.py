"""The diagnosis: `lra.diagnose` compares a rule with backprop on one batch, layer by layer."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from lra.crossing import TargetDifference
from lra.errors import ConversionError, OptionError
from lra.loss_terms import LossTerms
from lra.methods import Method
from lra.rules import Rule
from lra.torch.convert import is_converted, restore
from lra.torch.diagnose.measures import angle_between
from lra.torch.diagnose.optimizers import Epsilons, Optimizers
from lra.torch.diagnose.pass_observer import PassObserver
from lra.torch.diagnose.report import Arrival, Diagnosis, LayerKind, LayerReport
from lra.torch.diagnose.roles import kind_of
from lra.torch.diagnose.table import COLUMNS, as_table, scalars_of
from lra.torch.diagnose.update_report import UpdateReport
from lra.torch.diagnose.updates import (
    UndefinedGradients,
    assign_updates,
    updates_by_method,
    updates_of,
)
from lra.torch.distributed import is_sharded
from lra.torch.functions.module import SkippedModule
from lra.torch.layers import Local
from lra.torch.layers.slots import feedback_slots
from lra.torch.model_state import (
    clone_tensors,
    example_to_args,
    preserve_modules,
    preserve_state,
    unwrap_parallel,
)
from lra.torch.ops import observer

__all__ = [
    "COLUMNS",
    "Arrival",
    "Diagnosis",
    "LayerKind",
    "LayerReport",
    "UpdateReport",
    "angle_between",
    "as_table",
    "diagnose",
    "scalars_of",
]


def diagnose(
    model: nn.Module,
    x: Any = None,
    t: Any = None,
    *,
    optimizer: Optimizers = None,
    loss: Callable[..., Tensor] | None = None,
    method: Method | None = None,
    loss_terms: LossTerms | str | float = LossTerms.BATCH,
) -> Diagnosis:
    """Measure what the rule of a converted model does with a batch, layer by layer.

    The batch runs once under the rule and once under plain backprop, on the same weights with the
    same random numbers. Nothing changes: parameters and their ``.grad``, buffers, random states,
    mode, hooks and attributes are as before.

    Args:
        model: a converted model, in the mode to be diagnosed.
        x: the model's input: one argument, a tuple of arguments, or a mapping of keyword
            arguments.
        t: the targets.
        optimizer: the optimizer, or several. Updates below its eps hardly move the weights, and
            the diagnosis lists them. Without one they are compared with Adam's default eps; pass
            the optimizer if it is another one.
        loss: a function that returns the loss. It takes (output, t), or the output alone if t is
            missing, or nothing if x is missing too, and then calls the model itself. The default
            is the cross-entropy of classes.
        method: a method that computes the updates of an unconverted model, such as
            `lra.methods.PredictiveCoding()`. Errors, targets and feedback are then not measured.
        loss_terms: for a method, what the loss is a mean over.

    Returns:
        Angles between updates and backprop's gradients and between E and W, norms of errors,
        distances of targets, sizes of updates, shares of saturated numbers and dead units, and
        where no usable error arrives. `print` shows a table. Below a black box without a
        surrogate, backprop has no gradient and there is no angle.

    Raises:
        ConversionError: the model is not converted, is sharded, or was changed after
            `lra.convert` so that `lra.restore` refuses it.
        OptionError: x, t and loss do not fit together, the loss is not one number that depends on
            the model's parameters, or optimizer is not an optimizer.

    >>> net = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3))
    >>> net = lra.convert(net, lra.MirroredLRA())
    >>> optimizer = torch.optim.AdamW(net.parameters())
    >>> x, t = torch.randn(16, 4), torch.randint(3, (16,))
    >>> found = lra.diagnose(net, x, t, optimizer=optimizer)
    >>> [layer.name for layer in found.weights]
    ['0', '2']
    >>> found["0"].angle < 10  # degrees to backprop's gradient
    True

    A model that computes its own loss::

        lra.diagnose(gpt2, {"input_ids": ids, "labels": ids}, loss=lambda output: output.loss)
    """
    model = unwrap_parallel(model)
    model = getattr(model, "_orig_mod", model)  # inside torch.compile's wrapper
    if method is None and not is_converted(model):
        raise ConversionError(
            f"diagnose: no layer of this {type(model).__name__} is converted; "
            "call lra.convert(model, rule) first"
        )
    if any(is_sharded(module) for module in model.modules()):
        raise ConversionError("diagnose: the model is sharded; diagnose it before sharding")
    epsilons = Epsilons(optimizer)
    compute_loss = _loss_closure(model, x, t, loss)
    if method is not None and not isinstance(x, Tensor):
        raise OptionError(f"diagnose: a method takes a tensor x, got a {type(x).__name__}")
    for _, module, slot in feedback_slots(model):
        if not slot.drawn:
            slot.draw(module)  # as the first pass would
    rules = _rules(model)
    with torch.inference_mode(False), torch.enable_grad():  # whatever the caller has set
        with preserve_modules(model), preserve_state(model):
            kinds = {module: kind_of(module, method is None) for module in model.modules()}
        with preserve_modules(model), preserve_state(model):
            recorded = PassObserver(model, kinds, records_errors=method is None)
            if method is None:
                recorded.register_hooks()
                with observer.observing(recorded):
                    value, updates = updates_of(model, compute_loss)
            else:
                loss_of = _loss_of_output(t, loss)
                value, updates = updates_by_method(method, model, x, loss_of, loss_terms)
        with preserve_modules(model), preserve_state(model):
            if method is None:
                restore(model)
            else:
                method.detach(model)
                recorded.register_hooks()
            undefined = UndefinedGradients()
            for module, kind in kinds.items():
                if kind in (LayerKind.WEIGHTS, LayerKind.ACTIVATION):
                    module.register_forward_hook(undefined.hook)
            gradients = updates_of(model, compute_loss)[1]
    assign_updates(model, recorded, updates, gradients, undefined.found, epsilons)
    records = recorded.records.values()
    return Diagnosis(
        " and ".join(sorted({rule.name for rule in rules})) if method is None else method.name,
        value,
        tuple(r.report() for r in records if r.kind is not LayerKind.OTHER or r.updates),
        epsilons.names,
        any(map(_shrinks_errors, rules)),
    )


def _rules(model: nn.Module) -> list[Rule]:
    """Return the rules of the converted modules that are not skipped."""
    converted = (m for m in model.modules() if isinstance(m, Local))
    return [m.rule for m in converted if not isinstance(m, SkippedModule)]


def _shrinks_errors(rule: Rule) -> bool:
    """Return whether the rule scales errors by beta at every activation."""
    return isinstance(rule.crossing, TargetDifference) and not rule.crossing.normalized


def _loss_closure(
    model: nn.Module, x: Any, t: Any, loss: Callable[..., Tensor] | None
) -> Callable[[], Tensor]:
    """Return a function that runs the model on the batch and returns the loss."""
    if loss is not None and not callable(loss):
        raise OptionError(f"diagnose: loss must be a function, got {loss!r}")
    if x is None:
        if loss is None or t is not None:
            raise OptionError(
                "diagnose: give a batch x with targets t, or with loss=, a function of the model's "
                "output; or neither, and loss=, a function that calls the model itself"
            )
        return loss
    if t is None and loss is None:
        raise OptionError("diagnose: give targets t, or loss=, a function of the model's output")

    def compute_loss() -> Tensor:
        args, kwargs = example_to_args(clone_tensors(x))
        return _loss_of_output(t, loss)(model(*args, **kwargs))

    return compute_loss


def _loss_of_output(t: Any, loss: Callable[..., Tensor] | None) -> Callable[[Any], Tensor]:
    """Return the loss as a function of the model's output."""

    def loss_of(output: Any) -> Tensor:
        if loss is not None:
            return loss(output) if t is None else loss(output, t)
        return _cross_entropy(output, t)

    return loss_of


def _cross_entropy(output: Any, t: Any) -> Tensor:
    if not (isinstance(output, Tensor) and isinstance(t, Tensor)):
        raise OptionError(
            f"diagnose: the model returns a {type(output).__name__}, and t is a "
            f"{type(t).__name__}, but cross-entropy takes tensors; name another loss, such as "
            "loss=lambda output: output.loss"
        )
    if output.dim() == t.dim() + 1 > 2 and output.shape[:-1] == t.shape:  # classes come last
        output, t = output.flatten(0, -2), t.flatten()
    return torch.nn.functional.cross_entropy(output, t)

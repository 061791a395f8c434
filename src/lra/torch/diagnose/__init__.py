"""Diagnose: what a rule does in one pass, layer by layer, and how far from backprop it is."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Function

from lra.errors import ConversionError, OptionError
from lra.loss_terms import LossTerms
from lra.methods import Loss, Method
from lra.torch.activations import BlackBox
from lra.torch.convert import is_converted, restore
from lra.torch.diagnose.measures import angle_between, compare
from lra.torch.diagnose.report import (
    COLUMNS,
    Arrival,
    Diagnosis,
    LayerKind,
    LayerReport,
    UpdateReport,
    as_table,
    scalars_of,
)
from lra.torch.diagnose.watcher import Watch, kind_of, row_of
from lra.torch.distributed import is_sharded
from lra.torch.functions.module import SkippedModule
from lra.torch.layers import Local
from lra.torch.layers.slots import feedback_slots
from lra.torch.model_state import arguments, copied, preserve_modules, preserve_state, unwrapped
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

Found = dict[str, Tensor | None]


def diagnose(
    model: nn.Module,
    x: Any = None,
    t: Any = None,
    *,
    loss: Callable[..., Tensor] | None = None,
    method: Method | None = None,
    loss_terms: LossTerms | str | float = LossTerms.BATCH,
) -> Diagnosis:
    """Tell what the rule of a converted model does with a batch, layer by layer.

    One forward and backward pass under the rule, and one by plain backprop on the same weights with
    the same random numbers. Nothing is changed by it: not the parameters and their `.grad`, nor
    buffers, random states, mode, hooks or attributes of the modules.

    Args:
        model: a converted model, in the mode that is to be looked at.
        x: what the model is called with: one argument, a tuple of them, or a mapping of names.
        t: the targets.
        loss: gives the loss from (output, t), by default the cross-entropy of classes; from the
            output alone, where no t is given, as for models that compute their loss themselves; or
            from nothing, where no x is given either: it then calls the model itself.
        method: a method that computes the updates, such as `lra.methods.PredictiveCoding()`, of a model
            that is not converted. Its passes are its own: there are no errors, targets and feedback
            to tell of, and the arrival is told by the updates.
        loss_terms: for a method, what the loss is a mean over.

    Returns:
        What was found: angles between updates and backprop's gradients and between E and W,
        lengths of errors, distances of targets, sizes of updates, shares of saturated and dead
        units, and where no usable error arrives. As text, a table. Where backprop has no gradient,
        below a part that can only be evaluated and has no surrogate, there is no angle.

    Raises:
        ConversionError: for a model that is not converted, or that is sharded; or one that
            `lra.restore` refuses, since something was put on it after `lra.convert`.
        OptionError: where x, t and loss do not go together, or the loss is no number that depends
            on the model's parameters.

    Example:
        print(lra.diagnose(model, x, t))
        lra.diagnose(gpt2, {"input_ids": ids, "labels": ids}, loss=lambda output: output.loss)
    """
    model = unwrapped(model)
    model = getattr(model, "_orig_mod", model)  # what torch.compile covers
    if method is None and not is_converted(model):
        raise ConversionError(
            f"diagnose: no layer of this {type(model).__name__} is converted; "
            "call lra.convert(model, rule) first"
        )
    if any(is_sharded(module) for module in model.modules()):
        raise ConversionError("diagnose: the model is sharded; diagnose it first, then shard")
    step = _closure(model, x, t, loss)
    if method is not None and not isinstance(x, Tensor):
        raise OptionError(f"diagnose: a method takes a tensor x, got a {type(x).__name__}")
    for _, module, slot in feedback_slots(model):
        if not slot.drawn:
            slot.draw(module)  # as the first pass would
    # Gradients are enabled, whatever the caller has set.
    with torch.inference_mode(False), torch.enable_grad():
        with preserve_modules(model), preserve_state(model):
            kinds = {module: kind_of(module, method is None) for module in model.modules()}
        with preserve_modules(model), preserve_state(model):
            watch = Watch(model, kinds, deaf=method is not None)
            if method is None:
                watch.hook()
                with observer.observing(watch):
                    value, updates = _updates(model, step)
            else:
                value, updates = _updates_by(method, model, x, _loss_of(t, loss), loss_terms)
        with preserve_modules(model), preserve_state(model):
            if method is None:
                restore(model)
            else:
                method.detach(model)
                watch.hook()
            blind = _Blind()
            for module, kind in kinds.items():
                if kind in (LayerKind.WEIGHTS, LayerKind.UNIT):
                    module.register_forward_hook(blind.hook)
            gradients = _updates(model, step)[1]
    _assign(model, watch, updates, gradients, blind.any)
    rows = watch.rows.values()
    kept = [seen for seen in rows if seen.kind is not LayerKind.OTHER or seen.updates]
    return Diagnosis(_name(model, method), value, tuple(seen.report() for seen in kept))


def _name(model: nn.Module, method: Method | None) -> str:
    """Name the method, or the rules that the model was converted to."""
    if method is not None:
        return method.name
    local = (
        m for m in model.modules() if isinstance(m, Local) and not isinstance(m, SkippedModule)
    )
    return " and ".join(sorted({m.rule.name for m in local}))


def _closure(
    model: nn.Module, x: Any, t: Any, loss: Callable[..., Tensor] | None
) -> Callable[[], Tensor]:
    """Give what runs the model on the batch and gives the loss."""
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

    def run() -> Tensor:
        args, kwargs = arguments(copied(x))
        return _loss_of(t, loss)(model(*args, **kwargs))

    return run


def _loss_of(t: Any, loss: Callable[..., Tensor] | None) -> Callable[[Any], Tensor]:
    """Give the loss as a function of the model's output."""

    def of(output: Any) -> Tensor:
        if loss is not None:
            return loss(output) if t is None else loss(output, t)
        return _cross_entropy(output, t)

    return of


def _cross_entropy(output: Any, t: Any) -> Tensor:
    if not (isinstance(output, Tensor) and isinstance(t, Tensor)):
        raise OptionError(
            f"diagnose: the model gives a {type(output).__name__}, and t is a {type(t).__name__}; "
            "the cross-entropy takes tensors, so name another loss: loss=lambda output: output.loss"
        )
    if output.dim() == t.dim() + 1 > 2 and output.shape[:-1] == t.shape:  # classes come last
        output, t = output.flatten(0, -2), t.flatten()
    return torch.nn.functional.cross_entropy(output, t)


def _updates(model: nn.Module, step: Callable[[], Tensor]) -> tuple[float, Found]:
    """Give the loss, and what `.grad` would hold; which is left alone, and who waits for it."""
    named = {name: p for name, p in model.named_parameters() if p.requires_grad}
    loss = step()
    if not (isinstance(loss, Tensor) and loss.numel() == 1 and loss.requires_grad and named):
        raise OptionError(
            "diagnose: the loss must be one number, a tensor that depends on parameters of the "
            f"model which require gradients; got {loss!r}"
        )
    found = torch.autograd.grad(loss, list(named.values()), allow_unused=True)
    dense = (g.to_dense() if g is not None and g.is_sparse else g for g in found)
    return float(loss.detach()), dict(zip(named, dense, strict=True))


def _updates_by(
    method: Method, model: nn.Module, x: Tensor, loss: Loss, terms: LossTerms | str | float
) -> tuple[float, Found]:
    """Give the loss, and what a method adds to `.grad`, which is put back as it was."""
    before = [(p, p.grad) for p in model.parameters()]
    try:
        for p, _ in before:
            p.grad = None
        value = method(model, loss, copied(x), loss_terms=terms)
        named = model.named_parameters()
        return float(value), {name: p.grad for name, p in named if p.requires_grad}
    finally:
        for p, grad in before:
            p.grad = grad


class _NotDefined(Function):
    """A result whose derivative nobody knows: what depends on it has no gradient, not even zero."""

    @staticmethod
    def forward(ctx: Any, result: Tensor, *given: Tensor) -> Tensor:
        ctx.save_for_backward(*given)
        return result.view_as(result)

    @staticmethod
    def backward(ctx: Any, error: Tensor) -> Any:
        return None, *(torch.full_like(t, torch.nan) for t in ctx.saved_tensors)


class _Blind:
    """Marks the results of parts that can only be run, in a pass by backprop."""

    any = False

    def hook(self, module: nn.Module, inputs: tuple[Any, ...], output: Any) -> Any:
        """Have errors that come back to such a part turn into nan, for all that is below."""
        given = [x for x in inputs if isinstance(x, Tensor) and x.requires_grad]
        given += [p for p in module.parameters(recurse=False) if p.requires_grad]
        if not isinstance(output, Tensor) or not given:
            return None
        if output.requires_grad and not _refuses(module):
            return None
        self.any = True
        return _NotDefined.apply(output.detach(), *given)  # type: ignore[no-untyped-call]


def _refuses(module: nn.Module) -> bool:
    return isinstance(module, BlackBox) and module.straight_through is None


def _assign(
    model: nn.Module, watch: Watch, updates: Found, gradients: Found, undefined: bool
) -> None:
    """Give every parameter's update to the layer that it belongs to, feedback weights last."""
    rows = _rows_of_feedback(model)
    names = {id(p): name for name, p in model.named_parameters()}
    everywhere = dict(model.named_parameters(remove_duplicate=False))  # tied weights twice
    for alias, W in sorted(
        everywhere.items(), key=lambda item: names[id(item[1])] not in gradients
    ):
        name = names[id(W)]
        row = rows.get(alias, alias if alias in watch.rows else alias.rpartition(".")[0])
        if name not in updates or (alias != name and row not in watch.rows):
            continue
        own = name in gradients  # else it is feedback weights, of which backprop has none
        gradient = gradients.get(name)
        if own and gradient is None:
            gradient = torch.zeros_like(W)
        if undefined and gradient is not None and not bool(torch.isfinite(gradient).all()):
            gradient = None
        report = compare(alias, W, updates[name], gradient)
        watch.assign(row, replace(report, feedback=not own))


def _rows_of_feedback(model: nn.Module) -> dict[str, str]:
    """Name for each of the feedback weights the row of the weights that they stand beside."""
    found = {}
    for path, _, slot in feedback_slots(model):
        if slot.name:
            found[f"{path}.{slot.name}".strip(".")] = row_of(path, slot.key)
    return found

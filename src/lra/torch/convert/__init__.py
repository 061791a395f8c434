"""Convert a model to a rule and back: plan everything, check everything, then swap classes."""

import contextlib
import traceback
import weakref
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from lra.errors import ConversionError, OptionError, Refusal, RuleError
from lra.loss_terms import LossTerms, check_terms
from lra.methods import Method
from lra.rules import Rule, require_rule
from lra.torch.convert.discover import discover
from lra.torch.convert.plan import Plan, find_skipped, listing, make_plan
from lra.torch.convert.sharing import converted_before, copy_activations, put_back
from lra.torch.convert.swap import swap, undo
from lra.torch.convert.wiring import wire
from lra.torch.coverage import user_modules
from lra.torch.distributed import is_sharded
from lra.torch.functions.module import SkippedModule
from lra.torch.layers import Local, LocalSequential, class_name
from lra.torch.layers.slots import Conversion, feedback_slots
from lra.torch.model_state import example_to_args
from lra.torch.ops.autograd import SECOND_DERIVATIVE
from lra.torch.registry import WEIGHT_LAYERS, is_operator, overloads
from lra.wiring import Chain, Direct, Stride

M = TypeVar("M", bound=nn.Module)


def convert(
    model: M,
    rule: Rule,
    *,
    example: Any = None,
    examples: Sequence[Any] = (),
    methods: Sequence[str] = (),
    skip: Any = (),
    input_layers: Sequence[str] | None = None,
    loss_terms: LossTerms | str | float = LossTerms.BATCH,
) -> M:
    """Swap a learning rule into a model, in place: `loss.backward()` then computes its updates.

    Across weight layers d = e E replaces e W, and across activations the rule's crossing, such as
    e = gain (z - phi(h - beta d)), replaces phi'(h) d. Everything else keeps autograd's derivative.
    The forward pass stays the same to the bit, except where a kernel must be taken apart
    (nn.MultiheadAttention, recurrent layers, GLU), where it may differ by rounding. Parameters keep
    their names and identity.

    Feedback weights are added as `feedback` beside `weight`. An optimizer built earlier needs them
    too: `optimizer.add_param_group({"params": lra.feedback_parameters(model)})`.

    Activations are replaced by copies, since other models may hold the same modules. Layers that
    another model holds too, and that follow the same rule already, stay as they are.

    Modules of known classes are converted by class. Products and activations in a module's own code
    (`F.relu(x)`, `x @ self.w`) are found by running the model on examples.

    Args:
        model: any module.
        rule: how errors travel, such as `lra.LRAE(beta=0.1)`.
        example: arguments of one forward pass: a tensor, a tuple as for `model(*example)`, a
            mapping as for `model(**example)`, or a function that takes the model, runs it, and
            returns its outputs. A dict or tuple that is itself the only argument goes into a tuple;
            a named tuple need not. Whatever escapes the rule in that pass is then refused. Buffers,
            random states and the model's mode are preserved.
        examples: several examples, for a model with several branches, heads or modes. A product
            with a weight that no example shows raises a RuleError in training.
        methods: the names of methods other than `forward` whose code follows the rule as well:
            "encode" for `model.encode(x)`, "decoder.sample" for one of a submodule. Show what they
            do by an example such as `lambda model: model.encode(x)`.
        skip: submodules to leave on backprop with all that they hold: qualified names, patterns
            such as `"*.attention"`, or classes. Also autograd Functions and custom operators that
            keep their own backward pass.
        input_layers: qualified names of the weight layers that see only the raw input. No error has
            to cross them, so they get no feedback weights. By default the example decides; without
            one it is the first weight layer in order of registration, unless something trainable
            comes before it.
        loss_terms: the number N of terms that the loss is a mean over. "batch": dimension 0 of each
            activation's input; "tokens": all its dimensions but the last; or a number: 1 for a
            summed loss, k times the batch for a mean over k accumulated batches, N / S for a loss
            scaled by S. In recurrent layers "batch" is the batch, wherever it stands, and "tokens"
            also counts the time steps. Add several losses up before one `backward()`: an update is
            not linear in the error, so two calls give another one.

    Returns:
        The same model.

    Raises:
        ConversionError: for what cannot be converted, with the remedies, and as data in `refused`;
            for a model that is converted already or has nothing to convert. The model is unchanged.
        OptionError: for a name in `skip` or `input_layers` that the model does not have.

    Source: Ororbia and Mali, AAAI 2019.

    >>> net = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3))
    >>> net = lra.convert(net, lra.MirroredLRA())
    >>> optimizer = torch.optim.AdamW(net.parameters())
    >>> x, t = torch.randn(16, 4), torch.randint(3, (16,))
    >>> F.cross_entropy(net(x), t).backward()
    >>> optimizer.step()

    A model with activations and products in its own code needs an example:

    >>> class Net(nn.Module):
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.first, self.second = nn.Linear(4, 8), nn.Linear(8, 3)
    ...     def forward(self, x):
    ...         return self.second(torch.tanh(self.first(x)))
    >>> net = lra.convert(Net(), lra.LRAE(beta=0.1), example=x)
    >>> lra.coverage(net).full
    True
    """
    if not isinstance(model, nn.Module):
        raise ConversionError(
            f"convert: expected a torch.nn.Module, got {type(model).__name__}; for a Keras model "
            "use lra.keras.convert"
        )
    if isinstance(rule, Method):
        raise ConversionError(
            f"convert: {type(rule).__name__} is a method, which changes no layer; call it instead "
            "of backward: method(model, loss, x)"
        )
    require_rule(rule)
    if not isinstance(rule.wiring, (Chain, Direct, Stride)):
        raise ConversionError(
            f"convert: {rule.wiring} is not implemented for torch; use lra.wiring.Chain()"
        )
    terms = check_terms(loss_terms)
    shown = [e if _is_runner(e) else example_to_args(e) for e in _list(example, examples)]
    skips = (skip,) if isinstance(skip, (str, type)) or is_operator(skip) else tuple(skip)
    functions = [f for f in skips if is_operator(f) or _is_function(f)]
    keys = [key for f in functions for key in (overloads(f) if is_operator(f) else [f])]
    before = converted_before(model, rule, terms)
    skipped = find_skipped(model, tuple(s for s in skips if s not in functions))
    replaced = copy_activations(model, rule, terms, skipped)
    try:
        named = (input_layers,) if isinstance(input_layers, str) else input_layers
        own = (methods,) if isinstance(methods, str) else tuple(methods)
        plan = make_plan(model, rule, skipped, named, bool(shown), keys, own)
        plan.shared = Conversion(tuple(skipped), tuple(keys), before, model=weakref.ref(model))
        _carry_out(model, rule, terms, plan, shown, find_inputs=named is None)
    except BaseException:
        put_back(replaced)
        raise
    return model


def _carry_out(
    model: nn.Module,
    rule: Rule,
    terms: LossTerms | float,
    plan: Plan,
    shown: list[Any],
    find_inputs: bool,
) -> None:
    """Convert the modules of a plan, and what examples show."""
    if not shown and not isinstance(rule.wiring, Chain):
        raise ConversionError(
            f"convert: {rule.wiring} needs example=, the arguments of one forward pass, to find "
            "the order and the sizes of the layers"
        )
    try:
        swap(model, plan, rule, terms, discovering=bool(shown))
        if shown:
            with _naming_second_derivatives(model):
                discover(model, rule, terms, shown, plan, find_inputs)
        _check_result(model, plan.shared)
        if not isinstance(rule.wiring, Chain):
            wire(model, rule, plan.shared, shown[0])
    except BaseException:
        undo(model, plan)
        raise
    plan.shared.modules = user_modules(model)


def _check_result(model: nn.Module, conversion: Conversion) -> None:
    """Raise an error where nothing was converted."""
    layers = [m for m in model.modules() if isinstance(m, Local)]
    if not any(m.multiplies for m in layers):
        raise _nothing(model)
    if not any(m._lra.conversion is conversion for m in layers):
        raise ConversionError(
            f"convert: already converted: {listing([m._lra.path for m in layers])}. Call "
            "lra.restore(model) first"
        )


@contextlib.contextmanager
def _naming_second_derivatives(model: nn.Module) -> Iterator[None]:
    """Name the module whose forward takes a derivative that is to be differentiated again."""
    try:
        yield
    except RuleError as error:
        if str(error) != SECOND_DERIVATIVE:
            raise
        paths = {id(module): path for path, module in model.named_modules()}
        frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
        modules = [frame.f_locals.get("self") for frame in frames]
        at = next((m for m in reversed(modules) if id(m) in paths), model)
        name = paths[id(at)]
        where = f"{name!r} ({class_name(at)})" if name else f"this {class_name(at)}"
        remedy = f", or leave it on backprop with skip=({name!r},)" if name else ""
        raise ConversionError(
            f"convert: the forward of {where} differentiates with create_graph=True, and the "
            f"updates of a learning rule have no derivative. Train this model by backprop{remedy}",
            (Refusal(name, class_name(at), SECOND_DERIVATIVE),),
        ) from error


def _list(example: Any, examples: Sequence[Any]) -> list[Any]:
    if isinstance(examples, (Tensor, Mapping)) or not isinstance(examples, Sequence):
        raise OptionError(
            f"convert: examples takes a list of examples, got {type(examples).__name__}; pass one "
            "example as example="
        )
    return [*([] if example is None else [example]), *examples]


def _is_runner(example: Any) -> bool:
    return callable(example) and not isinstance(example, (Tensor, nn.Module))


def _is_function(skipped: Any) -> bool:
    return isinstance(skipped, type) and issubclass(skipped, torch.autograd.Function)


def _nothing(model: nn.Module) -> ConversionError:
    return ConversionError(
        f"convert: this {class_name(model)} has no layer to convert; a rule needs at least "
        f"one of {', '.join(sorted(cls.__name__ for cls in WEIGHT_LAYERS))}, or another product "
        "with weights, which example= can find"
    )


def restore(model: M) -> M:
    """Undo `convert` in place: restore the plain classes, without feedback weights.

    Layers that another model holds too become plain there as well.

    Args:
        model: a converted model.

    Returns:
        The same model, with its weights as trained.

    Raises:
        ConversionError: for a model in which nothing is converted, or where something was put on a
            converted module since.

    >>> net = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3))
    >>> net = lra.convert(net, lra.LRAE())
    >>> lra.restore(net)
    Sequential(
      (0): Linear(in_features=4, out_features=8, bias=True)
      (1): Tanh()
      (2): Linear(in_features=8, out_features=3, bias=True)
    )
    """
    _require_converted(model, "restore")
    covered = [
        name
        for name, m in model.named_modules()
        if is_sharded(m)
        or (isinstance(m, (Local, LocalSequential)) and "plain" not in vars(type(m)))
    ]
    if covered:
        raise ConversionError(
            f"restore: {listing(covered)} got a parametrization or a sharding after convert; "
            "remove that first"
        )
    undo(model)
    return model


def is_converted(model: nn.Module) -> bool:
    """Return whether any layer of a model follows a rule that `convert` swapped in.

    Args:
        model: any module.

    >>> net = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3))
    >>> lra.is_converted(net)
    False
    >>> lra.is_converted(lra.convert(net, lra.LRAE()))
    True
    """
    return any(isinstance(m, Local) and not isinstance(m, SkippedModule) for m in model.modules())


def feedback_parameters(model: nn.Module) -> list[nn.Parameter]:
    """List the feedback weights that the rule learns, for an optimizer group of their own.

    Shared feedback (`lra.share_feedback`) is not among them, since no optimizer moves it.

    Args:
        model: a converted model.

    Returns:
        The parameters, each of its weight's shape.

    Raises:
        ConversionError: for a model in which nothing is converted.

    >>> net = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3))
    >>> optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    >>> net = lra.convert(net, lra.LRAE())
    >>> optimizer.add_param_group({"params": lra.feedback_parameters(net), "lr": 0.01})
    """
    _require_converted(model, "feedback_parameters")
    found = [slot.stored(m) for _, m, slot in feedback_slots(model) if slot.own and not slot.offset]
    return list(dict.fromkeys(E for E in found if isinstance(E, nn.Parameter)))


def set_loss_terms(model: nn.Module, loss_terms: LossTerms | str | float) -> None:
    """Change what the loss is a mean over.

    Args:
        model: a converted model.
        loss_terms: "batch", "tokens" or a positive number, as in `convert`.

    Raises:
        ConversionError: for a model in which nothing is converted.
        OptionError: for anything but "batch", "tokens" or a positive number.

    >>> net = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3))
    >>> net = lra.convert(net, lra.LRAE())
    >>> lra.set_loss_terms(net, 1)  # for a summed loss
    """
    _require_converted(model, "set_loss_terms")
    terms = check_terms(loss_terms)
    for module in model.modules():
        if isinstance(module, Local):
            module._lra.terms = terms


def _require_converted(model: nn.Module, verb: str) -> None:
    if not is_converted(model):
        raise ConversionError(
            f"{verb}: no layer of this {class_name(model)} is converted; "
            "call lra.convert(model, rule) first"
        )

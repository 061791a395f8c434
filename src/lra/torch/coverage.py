"""Coverage: the share of a converted model's weights and activations that follow its rule."""

from collections import Counter
from dataclasses import dataclass

from torch import nn

from lra.crossing import Derivative
from lra.display import as_html, as_text, listed_calls, plural
from lra.errors import ConversionError
from lra.rules import Rule
from lra.torch.functions.module import InterceptedModule
from lra.torch.layers import Local, LocalActivation, LocalSequential, class_name
from lra.torch.layers.custom import LocalBlackBox
from lra.torch.layers.slots import Conversion, feedback_slots
from lra.torch.registry import ACTIVATIONS, INTERCEPTED


@dataclass(frozen=True, repr=False)
class Coverage:
    """Report how much of a model follows its rule, counted in weights. Notebooks show a table.

    Attributes:
        weights: the number of weights under the rule, by module type. Weights that no error has to
            cross count as well: those that read the raw input, embeddings, biases and scales. The
            other parameters of a black box do not count: nothing trains them.
        left: the number of weights on autograd, by module type: those excluded with `skip=`, and
            those of modules that came into the model later.
        activations: the number of activation modules under the rule, by type.
        passes: functions that errors cross by autograd's derivative in the example, with numbers
            of calls: normalization, softmax, products of activations, sums, reshapes. Empty
            without an example.
        escaped: the number of calls in the example that stayed on autograd. They are all in
            skipped modules.
        crossed: the number of ops in the example that errors cross by the rule.
        verified: whether an example verified that nothing else escapes the rule.
        changed: the names of modules that came into the model after `lra.convert` and do not
            follow the rule.
    """

    weights: dict[str, int]
    left: dict[str, int]
    activations: dict[str, int]
    passes: dict[str, int]
    escaped: int
    crossed: int
    verified: bool
    changed: tuple[str, ...] = ()

    @property
    def share(self) -> float:
        """The share of weights under the rule."""
        followed, left = sum(self.weights.values()), sum(self.left.values())
        return followed / (followed + left) if followed + left else 1.0

    @property
    def activation_share(self) -> float:
        """The share of ops in the example that errors cross by the rule."""
        return self.crossed / (self.crossed + self.escaped) if self.crossed else 1.0

    @property
    def full(self) -> bool:
        """Whether an example verified that every weight and activation follows the rule."""
        return self.verified and not (self.left or self.escaped or self.changed)

    def __str__(self) -> str:
        return "\n".join((as_text(_HEADER, self._rows()), *self._notes()))

    def __repr__(self) -> str:
        total = sum(self.weights.values()) + sum(self.left.values())
        new = f", {plural(len(self.changed), 'new module')}" if self.changed else ""
        verified = "" if self.verified else "not "
        return f"<Coverage: {self._share()} ({total:,} in all), {verified}verified{new}>"

    def _repr_html_(self) -> str:
        return as_html("coverage", _HEADER, self._rows(), self._notes())

    def _share(self) -> str:
        bound = "" if self.verified else "at most "
        return f"{bound}{self.share:.1%} of the weights follow the rule"

    def _rows(self) -> list[list[str]]:
        """Return the cells of the table, one row for each type of module."""
        columns = self.weights, self.left, self.activations
        return [
            [name, *(f"{counts.get(name, 0):,}" for counts in columns)]
            for name in sorted({*self.weights, *self.left, *self.activations})
        ]

    def _notes(self) -> list[str]:
        """Return the lines below the table."""
        lines = [self._share()]
        if self.verified:
            lines.append(f"passed on by autograd, by design: {listed_calls(self.passes)}")
        else:
            lines.append("not verified: pass example= to lra.convert to check what forwards call")
        if self.changed:
            names = ", ".join(repr(name) for name in self.changed)
            lines.append(f"new since lra.convert: {names}; convert again by the same rule")
        return lines


_HEADER = "module", "by the rule", "by autograd", "activations"


def coverage(model: nn.Module) -> Coverage:
    """Count the weights and activations of a converted model that follow its rule.

    Args:
        model: a converted model, as it is now.

    Returns:
        The counts. `print` shows them as a table.

    Raises:
        ConversionError: no layer of the model is converted.

    >>> net = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3))
    >>> print(lra.coverage(lra.convert(net, lra.LRAE(), example=torch.zeros(1, 4))))
    module  by the rule  by autograd  activations
    Linear           67            0            0
    Tanh              0            0            1
    100.0% of the weights follow the rule
    passed on by autograd, by design: nothing
    """
    modules = dict(model.named_modules())
    converted = {path: m for path, m in modules.items() if isinstance(m, Local)}
    if not any(m.multiplies for m in converted.values()):
        raise ConversionError(
            f"coverage: no layer of this {class_name(model)} is converted; "
            "call lra.convert(model, rule) first"
        )
    conversions = _latest_conversions(converted)
    audits = [conversion.audit for conversion, _ in conversions if conversion.audit]
    skipped = [f"{prefix}{name}." for c, prefix in conversions for name in c.skipped]
    known = {
        f"{prefix}{n}": cls for c, prefix in conversions for n, cls in (c.modules or {}).items()
    }
    found = user_modules(model)
    added = {id(slot.stored(m)) for _, m, slot in feedback_slots(model) if slot.name}
    weights: Counter[str] = Counter()
    left: Counter[str] = Counter()
    activations: Counter[str] = Counter()
    changed = []
    seen: set[int] = set()
    for path, module in modules.items():
        kind = class_name(module)
        is_skipped = any(f"{path}.".startswith(top) for top in skipped)
        is_new = not is_skipped and (
            known.get(path) != found[path] if path in found else _escapes(path, module, converted)
        )
        changed += [path] * is_new
        # What a weight is computed from belongs to the module of the weight.
        is_new |= any(path.startswith(f"{name}.parametrizations") for name in changed)
        activations[kind] += isinstance(module, LocalActivation)
        own = dict(module.named_parameters(recurse=False))
        if isinstance(module, LocalBlackBox):  # nothing trains its other parameters
            own = {name: p for name, p in own.items() if name in ("weight", "bias")}
        for parameter in own.values():
            if id(parameter) not in seen and id(parameter) not in added:
                seen.add(id(parameter))
                (left if is_skipped or is_new else weights)[kind] += parameter.numel()
    return Coverage(
        dict(+weights),
        dict(+left),
        dict(+activations),
        dict(sum((Counter(audit.passes) for audit in audits), Counter())),
        sum(f.calls for audit in audits for f in audit.findings),
        sum(audit.crossings for audit in audits),
        len(audits) == len(conversions),
        tuple(changed),
    )


def user_modules(model: nn.Module) -> dict[str, str]:
    """Return the classes of a model's plain modules that are not torch's, by qualified name."""
    return {
        path: f"{type(m).__module__}.{type(m).__qualname__}"
        for path, m in model.named_modules()
        if not isinstance(m, (Local, LocalSequential))
        and not type(m).__module__.startswith("torch.")
    }


def _latest_conversions(modules: dict[str, Local]) -> list[tuple[Conversion, str]]:
    """Return the conversions of some modules, each with the path of its model in this one.

    Where a later conversion found modules that were converted before, it has checked them too.
    """
    prefixes: dict[int, Counter[str]] = {}
    conversions: dict[int, Conversion] = {}
    for path, module in modules.items():
        state = module._lra
        conversions[id(state.conversion)] = state.conversion
        if path.endswith(state.path):
            prefix = path.removesuffix(state.path)
            prefixes.setdefault(id(state.conversion), Counter())[prefix] += 1
    earlier = {id(c) for conversion in conversions.values() for c in conversion.before}
    return [
        (conversion, prefixes[key].most_common(1)[0][0] if key in prefixes else "")
        for key, conversion in conversions.items()
        if key not in earlier
    ]


def _escapes(path: str, module: nn.Module, converted: dict[str, Local]) -> bool:
    """Return whether a plain module of torch is one that the rule would convert."""
    rule = next(iter(converted.values())).rule
    if isinstance(module, (Local, LocalSequential)) or rule == Rule():
        return False
    if isinstance(module, INTERCEPTED):
        return True
    if type(module) not in ACTIVATIONS or isinstance(rule.crossing, Derivative):
        return False
    around = [m for name, m in converted.items() if not name or path.startswith(f"{name}.")]
    return not any(isinstance(m, InterceptedModule) for m in around)  # which finds it by function

"""Coverage: what part of a converted model's weights and units follows its rule, and what not."""

from collections import Counter
from dataclasses import dataclass

from torch import nn

from lra.errors import ConversionError
from lra.torch.layers import Local, LocalActivation
from lra.torch.layers.slots import feedback_slots


@dataclass(frozen=True)
class Coverage:
    """What follows the rule, by number of weights.

    Attributes:
        weights: for each type of module, how many weights it holds of its own whose errors follow
            the rule, or which no error has to cross (those that see the raw input, embeddings,
            biases, scales).
        left: the same for those that were left to autograd on purpose, by `skip`.
        units: how many modules of each type are units of the rule.
        passes: what else passed errors on by autograd's derivative in the example, with numbers of
            calls (normalisation, softmax, products of activities, sums, reshaping); empty where
            no example was given.
        escaped: how many nonlinear functions in the example stayed on autograd, all in skipped
            modules.
        crossed: how many places the example's error crossed by the rule.
        verified: whether an example has verified that nothing else escapes.
    """

    weights: dict[str, int]
    left: dict[str, int]
    units: dict[str, int]
    passes: dict[str, int]
    escaped: int
    crossed: int
    verified: bool

    @property
    def share(self) -> float:
        """The share of the weights that follow the rule."""
        followed, left = sum(self.weights.values()), sum(self.left.values())
        return followed / (followed + left) if followed + left else 1.0

    @property
    def unit_share(self) -> float:
        """The share of the places in the example that the error crossed by the rule."""
        return self.crossed / (self.crossed + self.escaped) if self.crossed else 1.0

    @property
    def full(self) -> bool:
        """Whether an example has verified that every weight and unit follows the rule."""
        return self.verified and not self.left and not self.escaped

    def __str__(self) -> str:
        types = sorted({*self.weights, *self.left, *self.units})
        width = max(map(len, ("module", *types)))
        lines = [f"{'module':{width}}  {'by the rule':>13}  {'by autograd':>13}  {'units':>6}"]
        for name in types:
            counts = self.weights.get(name, 0), self.left.get(name, 0), self.units.get(name, 0)
            lines.append("{:{}}  {:>13,}  {:>13,}  {:>6,}".format(name, width, *counts))
        lines.append(f"{self.share:.1%} of the weights follow the rule")
        if self.verified:
            passes = ", ".join(f"{name} ({calls})" for name, calls in self.passes.items())
            lines.append(f"passed on by autograd, by design: {passes or 'nothing'}")
        else:
            lines.append("not verified: give lra.convert an example= to know of what forwards call")
        return "\n".join(lines)


def coverage(model: nn.Module) -> Coverage:
    """Tell what part of a converted model follows its rule.

    Args:
        model: a converted model.

    Returns:
        What was found; as text, a table.

    Raises:
        ConversionError: for a model in which nothing is converted.
    """
    layers = [m for m in model.modules() if isinstance(m, Local) and m.multiplies]
    if not layers:
        raise ConversionError(
            f"coverage: no layer of this {type(model).__name__} is converted; "
            "call lra.convert(model, rule) first"
        )
    conversion = layers[0]._lra.conversion
    audited = conversion.audit
    skipped = set(conversion.skipped)
    added = {id(slot.stored(m)) for _, m, slot in feedback_slots(model) if slot.name}
    weights: Counter[str] = Counter()
    left: Counter[str] = Counter()
    units: Counter[str] = Counter()
    seen: set[int] = set()
    for path, module in model.named_modules():
        kind = (module.plain if isinstance(module, Local) else type(module)).__name__
        apart = any(f"{path}.".startswith(f"{top}.") for top in skipped)
        units[kind] += isinstance(module, LocalActivation)
        for parameter in module.parameters(recurse=False):
            if id(parameter) not in seen and id(parameter) not in added:
                seen.add(id(parameter))
                (left if apart else weights)[kind] += parameter.numel()
    return Coverage(
        dict(+weights),
        dict(+left),
        dict(+units),
        audited.passes if audited else {},
        sum(f.calls for f in audited.findings) if audited else 0,
        audited.crossings if audited else 0,
        audited is not None,
    )

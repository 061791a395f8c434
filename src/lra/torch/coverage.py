"""Coverage: the share of a converted model's weights and activations that follow its rule."""

from collections import Counter
from dataclasses import dataclass

from torch import nn

from lra.errors import ConversionError
from lra.torch.layers import Local, LocalActivation
from lra.torch.layers.slots import feedback_slots


@dataclass(frozen=True)
class Coverage:
    """How much of a model follows its rule, counted in weights.

    Attributes:
        weights: the number of weights under the rule, by module type. Weights that no error has to
            cross count as well: those that read the raw input, embeddings, biases and scales.
        left: the number of weights on autograd, by module type: those excluded with `skip=`.
        activations: the number of activation modules under the rule, by type.
        passes: functions that errors cross by autograd's derivative in the example, with numbers
            of calls: normalization, softmax, products of activations, sums, reshapes. Empty
            without an example.
        escaped: the number of calls in the example that stayed on autograd. They are all in
            skipped modules.
        crossed: the number of ops in the example that errors cross by the rule.
        verified: whether an example verified that nothing else escapes the rule.
    """

    weights: dict[str, int]
    left: dict[str, int]
    activations: dict[str, int]
    passes: dict[str, int]
    escaped: int
    crossed: int
    verified: bool

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
        return self.verified and not self.left and not self.escaped

    def __str__(self) -> str:
        types = sorted({*self.weights, *self.left, *self.activations})
        width = max(map(len, ("module", *types)))
        lines = [
            f"{'module':{width}}  {'by the rule':>13}  {'by autograd':>13}  {'activations':>11}"
        ]
        for name in types:
            counts = (
                self.weights.get(name, 0),
                self.left.get(name, 0),
                self.activations.get(name, 0),
            )
            lines.append("{:{}}  {:>13,}  {:>13,}  {:>11,}".format(name, width, *counts))
        lines.append(f"{self.share:.1%} of the weights follow the rule")
        if self.verified:
            passes = ", ".join(f"{name} ({calls})" for name, calls in self.passes.items())
            lines.append(f"passed on by autograd, by design: {passes or 'nothing'}")
        else:
            lines.append("not verified: pass example= to lra.convert to check what forwards call")
        return "\n".join(lines)


def coverage(model: nn.Module) -> Coverage:
    """Count the weights and activations of a converted model that follow its rule.

    Args:
        model: a converted model.

    Returns:
        The counts. `print` shows them as a table.

    Raises:
        ConversionError: no layer of the model is converted.
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
    activations: Counter[str] = Counter()
    seen: set[int] = set()
    for path, module in model.named_modules():
        kind = (module.plain if isinstance(module, Local) else type(module)).__name__
        is_skipped = any(f"{path}.".startswith(f"{top}.") for top in skipped)
        activations[kind] += isinstance(module, LocalActivation)
        for parameter in module.parameters(recurse=False):
            if id(parameter) not in seen and id(parameter) not in added:
                seen.add(id(parameter))
                (left if is_skipped else weights)[kind] += parameter.numel()
    return Coverage(
        dict(+weights),
        dict(+left),
        dict(+activations),
        audited.passes if audited else {},
        sum(f.calls for f in audited.findings) if audited else 0,
        audited.crossings if audited else 0,
        audited is not None,
    )

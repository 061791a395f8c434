"""Audit: run one forward pass, and list where errors would still cross by backprop's own rule.

The autograd graph of a forward pass is the path that errors take back. The model runs while every
torch function is watched; the graph nodes that a call adds are its own, and their names tell what
they do to an error. What counts as a weight is told by three *levels*: 0, computed from parameters
and constants alone; 1, a product of such; 2, anything of the model's input.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from lra.crossing import Derivative
from lra.errors import ConversionError
from lra.feedback import Transpose
from lra.rules import Rule
from lra.torch.audit.classify import Classifier, Finding, Kind
from lra.torch.audit.recorder import Call, Recorder, tensors_in
from lra.torch.layers import Local
from lra.torch.model_state import copied, preserve_state, unwrapped

__all__ = ["Audit", "Finding", "Kind", "audit", "examine"]


@dataclass(frozen=True)
class Audit:
    """What an audit saw.

    Attributes:
        findings: the operations that errors cross as in backprop against the rule, as called.
        passes: what passes errors on by autograd's derivative as it should (normalisation,
            pooling, reshapes, sums, attention's products ...): functions and numbers of calls.
        crossings: how many places errors cross by the rule's own backward.
    """

    findings: tuple[Finding, ...]
    passes: dict[str, int]
    crossings: int

    @property
    def clean(self) -> bool:
        """Whether there are no findings."""
        return not self.findings

    def __str__(self) -> str:
        n = len(self.findings)
        count = "nothing" if self.clean else f"{n} operation{'s' if n > 1 else ''}"
        passes = ", ".join(f"{name} ({calls})" for name, calls in self.passes.items())
        return "\n".join(
            (
                f"audit: against the rule, errors cross {count} as in backprop",
                *(f"  - {finding}" for finding in self.findings),
                f"crossed by the rule: {self.crossings} places",
                f"passed on by design: {passes or 'nothing'}",
            )
        )


def audit(model: nn.Module, *example: Any, **kwargs: Any) -> Audit:
    """Run one forward pass, and list the operations that escape the model's rule.

    Conversion walks modules, so it cannot see a nonlinearity or a product with a parameter that
    a forward calls as a function; nor does it touch what skip= names. Errors cross those as in
    backprop, by phi'(h) d and e W. The model, its buffers and mode, the example and torch's random
    states stay as they are. Not seen: what the outputs do not depend on, what runs in no_grad or in
    an autograd.Function, what other inputs would run, and a nonlinearity made of a comparison, such
    as h * (h > 0).

    Args:
        model: a converted model.
        *example: inputs as for model(...).
        **kwargs: keyword inputs.

    Raises:
        ConversionError: for a model in which nothing is converted.
    """
    if not any(isinstance(m, Local) for m in model.modules()):
        raise ConversionError(
            f"audit: no layer of this {type(model).__name__} is converted; "
            "call lra.convert(model, rule) first"
        )
    return examine(model, example, kwargs)[0]


def examine(
    model: nn.Module,
    example: tuple[Any, ...],
    kwargs: dict[str, Any],
    rules: Iterable[Rule] | None = None,
) -> tuple[Audit, list[tuple[Call, Finding]]]:
    """Audit, and give beside it each call with what was found at it."""
    rules = rules or [m.rule for m in model.modules() if isinstance(m, Local)]
    kinds = set()
    if any(not isinstance(rule.crossing, Derivative) for rule in rules):
        kinds.add(Kind.ACTIVATION)
    if any(not isinstance(rule.feedback, Transpose) for rule in rules):
        kinds.add(Kind.WEIGHTS)
    model = unwrapped(model)

    with preserve_state(model), torch.inference_mode(False):  # which enables gradients too
        example, kwargs = copied((example, kwargs))
        recorder = Recorder(model, tensors_in((example, kwargs)), examine.__code__)
        with recorder.hooks(), recorder:
            outputs = tensors_in(model(*example, **kwargs))  # kept: with them go the graph's nodes
            recorder.reach(outputs)
    classifier = Classifier(recorder)
    found: Counter[Finding] = Counter()
    where: list[tuple[Call, Finding]] = []
    passes: Counter[str] = Counter()
    for call in recorder.calls:
        findings = [f for f in classifier.findings(call) if f.kind in kinds]
        found.update(findings)
        where += [(call, finding) for finding in findings]
        passes[call.operation] += not findings
    report = Audit(
        tuple(replace(finding, calls=calls) for finding, calls in found.items()),
        {name: calls for name, calls in passes.most_common() if calls},
        recorder.crossings,
    )
    return report, where

"""The audit: `lra.audit` lists the operations that errors still cross as in backprop.

Errors travel back along the autograd graph of a forward pass. The audit intercepts every torch
function during one forward pass and attributes each node of the graph to the call that created it.
The node's name shows what the call does to an error.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from lra.crossing import Derivative
from lra.display import as_html, listed_calls, plural
from lra.errors import ConversionError
from lra.feedback import Transpose
from lra.rules import Rule
from lra.torch.audit.calls import Call
from lra.torch.audit.classify import Classifier, Finding, Kind
from lra.torch.audit.recorder import Recorder, tensors_in
from lra.torch.layers import Local, LocalWeights, class_name
from lra.torch.model_state import clone_tensors, preserve_state, unwrap_parallel
from lra.torch.ops.nodes import node_name

__all__ = ["Audit", "Finding", "Kind", "audit", "examine"]


@dataclass(frozen=True, repr=False)
class Audit:
    """List the operations that escape a rule. Notebooks show a table.

    Attributes:
        findings: the operations that errors cross as in backprop, though the rule changes them.
        passes: the functions that errors cross by autograd's derivative under every rule
            (normalization, pooling, reshapes, sums, attention's products), with numbers of calls.
        crossings: the number of ops that errors cross by the rule.
    """

    findings: tuple[Finding, ...]
    passes: dict[str, int]
    crossings: int

    @property
    def clean(self) -> bool:
        """Whether there are no findings."""
        return not self.findings

    def __str__(self) -> str:
        findings = (f"  - {finding}" for finding in self.findings)
        return "\n".join((f"audit: {self._summary}", *findings, *self._notes()))

    def __repr__(self) -> str:
        return f"<Audit: {self._summary}, {plural(self.crossings, 'op')} by the rule>"

    def _repr_html_(self) -> str:
        rows = [
            (
                *(f.operation, f.module or "(the model itself)"),
                *(f.where, f.parameter, f.remedy, str(f.calls)),
            )
            for f in self.findings
        ]
        header = "operation", "module", "where", "weights", "remedy", "calls"
        return as_html(f"audit: {self._summary}", header, rows, self._notes(), left=5)

    @property
    def _summary(self) -> str:
        count = plural(len(self.findings), "operation") if self.findings else "no operation"
        return f"errors cross {count} as in backprop against the rule"

    def _notes(self) -> list[str]:
        """Return the last lines."""
        return [
            f"ops crossed by the rule: {self.crossings}",
            f"passed on by autograd, by design: {listed_calls(self.passes)}",
        ]


def audit(model: nn.Module, *example: Any, **kwargs: Any) -> Audit:
    """Run one forward pass and list the operations that escape the model's rule.

    Conversion by class does not see an activation or a product with a parameter that a forward
    calls as a function, and it leaves out what `skip=` names. Errors cross those as in backprop.
    The audit changes nothing: parameters, buffers, mode, example and random states stay as they
    are.

    It does not see operations that the outputs do not depend on, code under `no_grad` or in an
    autograd Function, branches that the example does not take, and activations written as a
    comparison, such as `h * (h > 0)`.

    Args:
        model: a converted model.
        *example: positional inputs of the model.
        **kwargs: keyword inputs of the model.

    Returns:
        The findings. `print` shows each with its line of code and a remedy.

    Raises:
        ConversionError: no layer of the model is converted.

    >>> net = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3))
    >>> net = lra.convert(net, lra.LRAE(), skip="1")
    >>> found = lra.audit(net, torch.randn(2, 4))
    >>> [(finding.operation, finding.module) for finding in found.findings]
    [('torch.tanh', '1')]
    """
    if not any(isinstance(m, Local) for m in model.modules()):
        raise ConversionError(
            f"audit: no layer of this {type(model).__name__} is converted; "
            "call lra.convert(model, rule) first"
        )
    conversions = [m._lra.conversion for m in model.modules() if isinstance(m, Local)]
    skipped = [f for conversion in conversions for f in conversion.skipped_functions]
    return examine(model, (example, kwargs), skipped=skipped).audit


@dataclass(frozen=True)
class Examination:
    """What one run of a model shows.

    Attributes:
        audit: the audit.
        located: each finding with its call.
        used: the names of the parameters that the outputs depend on.
        accepted: the names of the nodes that are no findings.
        unclear: autograd Functions of which the graph does not show whether they read data.
    """

    audit: Audit
    located: list[tuple[Call, Finding]]
    used: set[str]
    accepted: set[str]
    unclear: set[Any]


def examine(
    model: nn.Module,
    example: Any,
    rules: Iterable[Rule] | None = None,
    skipped: Iterable[Any] = (),
) -> Examination:
    """Audit a run of a model.

    Args:
        model: the model.
        example: args and kwargs of the model, or a function that runs it.
        rules: the rules to check against; by default those of the converted modules.
        skipped: autograd Functions and custom operators that keep their own backward pass.
    """
    rules = rules or [m.rule for m in model.modules() if isinstance(m, Local)]
    kinds = set()
    if any(not isinstance(rule.crossing, Derivative) for rule in rules):
        kinds |= {Kind.ACTIVATION, Kind.UNKNOWN}
    if any(not isinstance(rule.feedback, Transpose) for rule in rules):
        kinds.add(Kind.WEIGHTS)
    model = unwrap_parallel(model)

    with preserve_state(model), torch.inference_mode(False):  # which enables gradients too
        example = example if callable(example) else clone_tensors(example)
        recorder = Recorder(model, tensors_in(example), examine.__code__)
        with recorder.module_hooks(), recorder:
            outputs = tensors_in(run_example(model, example))  # hold the graph's nodes
            if not any(t.requires_grad for t in outputs) and _trains(model):
                raise ConversionError(
                    f"this example of the {class_name(model)} shows no outputs that depend on its "
                    "parameters. Return tensors, or lists, tuples or dicts of them, computed with "
                    "gradients; a function as an example returns the outputs or the loss"
                )
            recorder.select_reached(outputs)
    classifier = Classifier(recorder, skipped)
    counts: Counter[Finding] = Counter()
    located: list[tuple[Call, Finding]] = []
    passes: Counter[str] = Counter()
    accepted: set[str] = set()
    # A converted layer that reads the input multiplies by autograd: no error goes below it.
    layers = {n for n, m in model.named_modules() if isinstance(m, LocalWeights)}
    for call in recorder.calls:
        findings = [f for f in classifier.findings(call) if f.kind in kinds]
        counts.update(findings)
        located += [(call, finding) for finding in findings]
        if not findings and call.module not in layers:
            passes[call.operation] += 1
        accepted |= set() if findings else set(map(node_name, call.nodes))
    report = Audit(
        tuple(replace(finding, calls=calls) for finding, calls in counts.items()),
        {name: calls for name, calls in passes.most_common() if calls},
        recorder.crossings,
    )
    return Examination(report, located, recorder.used, accepted, recorder.unclear)


def _trains(model: nn.Module) -> bool:
    return any(p.requires_grad for p in model.parameters())


def run_example(model: nn.Module, example: Any) -> Any:
    """Run a model on args and kwargs, or by a function, and return what it returns."""
    if callable(example):
        before = [(p, p.grad) for p in model.parameters()]
        try:
            return example(model)
        finally:
            for p, grad in before:  # the function may run a backward pass
                p.grad = grad
    args, kwargs = example
    return model(*args, **kwargs)


def merge(audits: list[Audit]) -> Audit:
    """Return one audit of several runs."""
    passes: Counter[str] = Counter()
    for each in audits:
        passes.update(each.passes)
    findings = tuple(dict.fromkeys(finding for each in audits for finding in each.findings))
    return Audit(findings, dict(passes.most_common()), sum(each.crossings for each in audits))

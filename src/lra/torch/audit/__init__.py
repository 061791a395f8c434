"""Audit: run one forward pass, and list where errors would still cross by backprop's own rule.

The autograd graph of a forward pass is the path that errors take back. The model runs while every
torch function is watched; the graph nodes that a call adds are its own, and their names tell what
they do to an error. What counts as a weight is told by three *levels*: 0, computed from parameters
and constants alone; 1, a product of such; 2, anything of the model's input.
"""

import contextlib
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn
from torch.nn.parallel import DataParallel, DistributedDataParallel
from torch.utils import _pytree as pytree
from torch.utils.checkpoint import CheckpointFunction

from lra.crossing import Derivative
from lra.errors import ConversionError
from lra.feedback import Transpose
from lra.rules import Rule
from lra.torch.audit.judge import Finding, Judge, Kind
from lra.torch.audit.recorder import Call, Recorder, tensors_in
from lra.torch.layers import Local, LocalForward

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
        kinds.add(Kind.NONLINEARITY)
    if any(not isinstance(rule.feedback, Transpose) for rule in rules):
        kinds.add(Kind.WEIGHTS)
    while isinstance(model, (DataParallel, DistributedDataParallel)):
        model = model.module  # the wrapper would wait for a backward pass

    def copied(leaf: Any) -> Any:
        is_tensor = isinstance(leaf, Tensor)
        return leaf.detach().clone().requires_grad_(leaf.requires_grad) if is_tensor else leaf

    with _untouched(model), torch.inference_mode(False):  # which enables gradients too
        example, kwargs = pytree.tree_map(copied, (example, kwargs))
        recorder = Recorder(model, tensors_in((example, kwargs)), examine.__code__)
        with recorder.hooks(), recorder:
            recorder.reach(tensors_in(model(*example, **kwargs)))
    judge = Judge(recorder)
    found: Counter[Finding] = Counter()
    where: list[tuple[Call, Finding]] = []
    passes: Counter[str] = Counter()
    for call in recorder.calls:
        findings = [f for f in judge.findings(call) if f.kind in kinds]
        found.update(findings)
        where += [(call, finding) for finding in findings]
        passes[call.operation] += not findings
    report = Audit(
        tuple(replace(finding, calls=calls) for finding, calls in found.items()),
        {name: calls for name, calls in passes.most_common() if calls},
        recorder.crossings,
    )
    return report, where


@contextlib.contextmanager
def _untouched(model: nn.Module) -> Iterator[None]:
    """Run on copies of the buffers, put random states back, and open up what hides the graph."""
    buffers = [(module, module._buffers.copy()) for module in model.modules()]
    clones = {id(b): b.clone() for _, own in buffers for b in own.values() if b is not None}
    devices = {p.device.index for p in model.parameters() if p.device.type == "cuda"}
    with contextlib.ExitStack() as stack:
        stack.enter_context(torch.random.fork_rng(devices))
        # A reentrant checkpoint runs without a graph, and a compiled one is a single node.
        openly = staticmethod(lambda run, preserve, *args: run(*args))
        stack.enter_context(mock.patch.object(CheckpointFunction, "apply", openly))
        if "torch._dynamo" in sys.modules:
            stack.enter_context(torch.compiler.set_stance("force_eager"))
        try:
            for module, own in buffers:
                module._buffers.update({key: clones.get(id(b)) for key, b in own.items()})
            yield
        finally:
            for module, own in buffers:
                table = module.table.added if isinstance(module, LocalForward) else ()
                drawn = {key: b for key, b in module._buffers.items() if key in table}
                module._buffers.clear()
                module._buffers.update(own | drawn)  # fixed feedback that this pass has shown

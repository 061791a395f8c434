"""Break a copy of the core, one line at a time, and see that the tests notice each defect.

    python tests/mutation.py            # all defects, a quarter of an hour on two cores
    python tests/mutation.py --only beta padding
    python tests/mutation.py --list

The checkout itself is never touched. Exits 1 where a defect goes unnoticed, where the line that it
replaces or the test that it names is no longer there, or where a test fails without any defect.

To add a defect, name a file of tests, run `--only`, and add the test that the verdict names: then
only this test runs.
"""

import argparse
import compileall
import concurrent.futures
import contextlib
import functools
import io
import multiprocessing
import os
import py_compile
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import pytest

T, R = TypeVar("T"), TypeVar("R")

ROOT = Path(__file__).resolve().parent.parent
AXES = "tests/test_axes.py"
LAYERS = "tests/torch/test_layers.py"
IDENTITY = "tests/torch/test_identity.py"
MACHINERY = "tests/torch/test_machinery.py"
FUNCTION = "tests/torch/test_functions.py"
MEMORY = "tests/torch/test_memory.py"
DIAGNOSE = "tests/torch/test_diagnose.py"
SMALL = "tests/torch/test_diagnose_small_updates.py"
REFUSALS = "tests/torch/test_refusals.py"
WIRING = "tests/torch/test_wiring.py"
SHARE = "tests/torch/test_share.py"
MIRROR = "tests/torch/test_mirror.py"
PSEUDOCODE = "tests/torch/test_against_pseudocode.py"
CODING = "tests/torch/test_predictive_coding.py"
ERRORS = "tests/torch/test_error_predictive_coding.py"
EQUILIBRIUM = "tests/torch/test_equilibrium_propagation.py"
COMPILED = "tests/torch/test_compile_step.py"
DATA = "tests/lab/test_data.py"
STATISTICS = "tests/lab/test_compare_statistics.py"
REPORT = "tests/lab/test_compare_report.py"
TEXT_RUNS = "tests/lab/test_text_runs.py"
COMPILED_RUNS = "tests/lab/test_compiled_runs.py"
CODE = "tests/lab/test_code.py"
RUN_SETTINGS = "tests/lab/test_run_settings.py"
PUBLISHED = "tests/lab/test_published.py"
TARGETS = "tests/torch/test_target_propagation.py"
CHAINS = "tests/torch/test_linear_chain_methods.py"
CHECKS = "tests/torch/test_check_methods.py"
BIOTORCH = "tests/torch/test_biotorch.py"
ENSEMBLE = "tests/torch/test_ensemble.py"
ACTIVATIONS = "tests/torch/test_activations.py"
FLOPS = "tests/torch/test_flops.py"
DIFFERENCES = "tests/test_differences.py"
EXACT = "tests/torch/test_exactness.py"
PASSES = "tests/torch/test_activation_passes.py"
SHARING = "tests/torch/test_sharing.py"
TOOLS = "tests/torch/test_tools.py"
COVERAGE = "tests/torch/test_coverage.py"
DISCOVERY = "tests/torch/test_discovery.py"
RECURRENT = "tests/torch/test_recurrent.py"
DIVERGENCE = "tests/torch/test_method_divergence.py"
SURROUNDINGS = "tests/torch/test_surroundings.py"
SEARCH = "tests/lab/test_compare_search.py"
GRID = "tests/lab/test_compare_grid.py"
COMPARE = "tests/lab/test_compare_api.py"
THREADS = "tests/lab/test_training.py::test_threads"
LENGTHS = "tests/lab/test_training.py::test_runs_that_depend_on_their_length_are_not_lengthened"
TRACKED = "tests/lab/test_trackers.py::test_a_resumed_run_continues_its_run"
CONTROLS = "tests/lab/test_cli.py::test_control_characters_in_names_are_shown"
FOLDERS = "tests/lab/test_training.py::test_no_command_replaces_files_that_are_not_a_runs"

ESTIMATOR = "tests/lab/test_estimator.py"


@dataclass(frozen=True)
class Defect:
    """A part of one line of a file of the package, what to put there, and which test must fail.

    Without `test`, one of all tests of the files `tests` must fail.
    """

    name: str
    file: str
    right: str
    wrong: str
    tests: str
    test: str = ""

    @property
    def nodes(self) -> list[str]:
        """Return the arguments of pytest that select the tests."""
        return [f"{self.tests}::{self.test}"] if self.test else self.tests.split()


DEFECTS = (
    Defect(
        "report intervals of single differences",
        "lab/comparison/statistics.py",
        "stats.t.isf(LEVEL / 2 / tests, degrees)",
        "stats.t.isf(LEVEL / 2, degrees)",
        STATISTICS,
    ),
    Defect(
        "test only one end of the margin",
        "lab/comparison/statistics.py",
        "(margin - abs(mean)) / error",
        "(margin - mean) / error",
        STATISTICS,
    ),
    Defect(
        "do not correct tests for equivalence",
        "lab/comparison/statistics.py",
        "min(1.0, p * tests)",
        "min(1.0, p)",
        STATISTICS,
    ),
    Defect(
        "rank the worst rule first",
        "lab/comparison/statistics.py",
        "stats.rankdata(-np.asarray(scores), axis=1)",
        "stats.rankdata(np.asarray(scores), axis=1)",
        STATISTICS,
    ),
    Defect(
        "correct for one comparison",
        "lab/comparison/results.py",
        "theirs, self.margin, len(others))",
        "theirs, self.margin, 1)",
        REPORT,
    ),
    Defect(
        "mark the largest loss as the best",
        "lab/comparison/results.py",
        "best = (min if self.text else max)(",
        "best = max(",
        REPORT,
    ),
    Defect(
        "insert names without escapes",
        "lab/comparison/page.py",
        "        text = escaped(visible(value))",
        "        text = visible(value)",
        REPORT,
    ),
    Defect(
        "print terminal escapes",
        "lab/comparison/page.py",
        "return printable(re.sub(",
        "return str(re.sub(",
        REPORT,
    ),
    Defect(
        "read formulas in names",
        "lab/comparison/pictures.py",
        '{"text.parse_math": False}',
        '{"text.parse_math": True}',
        REPORT,
    ),
    Defect(
        "warn of no missing results",
        "lab/comparison/sentences.py",
        "missing=places(state),",
        "missing=[],",
        REPORT,
    ),
    Defect(
        "write a page into its own folder",
        "lab/comparison/report.py",
        "if page is not None and not page.suffix:",
        "if False:",
        REPORT,
    ),
    Defect(
        "count windows of text as test samples",
        "lab/training/loop.py",
        "self.test_set[1].numel()",
        "len(self.test_set[1])",
        TEXT_RUNS,
    ),
    Defect(
        "take a layer's output on positions for a weight",
        "torch/layers/base.py",
        "active.skipped += intercepted",
        "pass",
        DISCOVERY,
    ),
    Defect(
        "take no unknown function for an activation",
        "torch/audit/classify.py",
        "call.nature is Nature.ELEMENTWISE\n            or",
        "False\n            or",
        DISCOVERY,
    ),
    Defect(
        "find no activation that compares",
        "torch/audit/classify.py",
        "(bool(call.selects_by) and any(",
        "(False and any(",
        DISCOVERY,
    ),
    Defect(
        "take every choice for an activation",
        "torch/audit/classify.py",
        "len(sources) == 1 and not self._of_statistic(node)",
        "True",
        DISCOVERY,
    ),
    Defect(
        "take every function for elementwise",
        "torch/audit/judge.py",
        "return Nature.ELEMENTWISE if stays else Nature.OTHER",
        "return Nature.ELEMENTWISE",
        DISCOVERY,
    ),
    Defect(
        "see no broadcast in a product",
        "torch/registry.py",
        "any(a == 1 < b for a, b in sizes)",
        "False",
        DISCOVERY,
    ),
    Defect(
        "look into no autograd Function",
        "torch/audit/recorder.py",
        'if frame.f_code is _CALL and isinstance(frame.f_locals["self"], Local):',
        "if True:",
        DISCOVERY,
    ),
    Defect(
        "recompute checkpoints without the rule",
        "torch/functions/interceptor.py",
        "            with self:\n                return function(*args, **kwargs)",
        "            return function(*args, **kwargs)",
        DISCOVERY,
    ),
    Defect(
        "take lookups for weights",
        "torch/functions/interceptor.py",
        "pure = bool(below) and is_pure(node)",
        "pure = bool(below)",
        DISCOVERY,
    ),
    Defect(
        "send no update to feedback after a detached state",
        "torch/functions/interceptor.py",
        "if not crossed and (own is None or own.route is not None):",
        "if not crossed:",
        DISCOVERY,
    ),
    Defect(
        "forget weights that no example showed",
        "torch/functions/module.py",
        "for name in self._lra.guarded:",
        "for name in ():",
        DISCOVERY,
    ),
    Defect(
        "take recomputed layers for input layers",
        "torch/convert/discover.py",
        "        if not torch.is_grad_enabled():\n            return",
        "        if False:\n            return",
        DISCOVERY,
    ),
    Defect(
        "intercept nothing that no example showed",
        "torch/convert/discover.py",
        "if kinds or (unused and not transpose):",
        "if False:",
        DISCOVERY,
    ),
    Defect(
        "warn of nothing in a backward pass",
        "torch/layers/backward_check.py",
        "    if found:\n",
        "    if False:\n",
        DISCOVERY,
    ),
    Defect(
        "warn of learned gates",
        "torch/layers/backward_check.py",
        "data[node] = bool(by_rule(node) or reads_input or further)",
        "data[node] = True",
        DISCOVERY,
    ),
    Defect(
        "pickle no methods",
        "torch/layers/base.py",
        "(mixin, self.plain, *self.methods)",
        "(mixin, self.plain)",
        DISCOVERY,
    ),
    Defect(
        "draw no imaginary parts",
        "torch/layers/sampler.py",
        "return None if parts is None else torch.view_as_complex(parts)",
        "return None if parts is None else torch.view_as_complex(parts * torch.tensor([1.0, 0.0]))",
        DISCOVERY,
    ),
    Defect(
        "forget surrogates of functions",
        "torch/functions/interceptor.py",
        "SURROGATES.get(func), func in state.steps)",
        "None, func in state.steps)",
        DISCOVERY,
    ),
    Defect(
        "keep no Function's backward pass",
        "torch/audit/classify.py",
        "or call.torch_function) in self.skipped:",
        "or call.torch_function) in ():",
        DISCOVERY,
    ),
    Defect(
        "read no parent's forward",
        "torch/convert/source.py",
        'return isinstance(node, ast.Call) and ast.unparse(node.func) == "super"',
        "return False",
        DISCOVERY,
    ),
    Defect(
        "read no container",
        "torch/convert/forward_scan.py",
        "return _Any(_members(of)) if _is_container(of) else",
        "return _UNKNOWN if _is_container(of) else",
        DISCOVERY,
    ),
    Defect(
        "believe tensors under vmap that nothing comes back to them",
        "torch/ops/ops.py",
        "while transforming() and torch._C._functorch.is_batchedtensor(x):",
        "while False:",
        MACHINERY,
    ),
    Defect(
        "halve no two-sided difference",
        "differences.py",
        "return (self.f(h + m) - self.f(h - m)) / 2",
        "return self.f(h + m) - self.f(h - m)",
        AXES,
    ),
    Defect(
        "leave out the local loss",
        "crossing.py",
        "e = self.local_loss.derivative(difference, xp)",
        "e = difference",
        AXES,
    ),
    Defect(
        "give users' crossings no output",
        "torch/ops/ops.py",
        "if z is None and type(op.crossing) is not TargetDifference:",
        "if False:",
        ACTIVATIONS,
        "test_users_crossings_get_a_phi_that_preserves_its_arguments",
    ),
    Defect(
        "send errors through what E differs from W by",
        "torch/ops/ops.py",
        "E = saved[2] + E",
        "E = E + 0 * saved[2]",
        SHARE,
        "test_decay_may_shrink_the_offset_to_nothing",
    ),
    Defect(
        "share what a parameter's own layer alone does not move",
        "torch/share.py",
        "if uses[id(W)] > 1:",
        "if False:",
        SHARE,
        "test_layers_that_cannot_share_stay_learned",
    ),
    Defect(
        "forget decay in shared feedback",
        "torch/optimizer_hooks.py",
        'torch._foreach_mul_([D for _, D in pairs], 1 - group["lr"] * group["weight_decay"])',
        "pass",
        SHARE,
        "test_a_new_weight_shares_as_the_old_one_did",
    ),
    Defect(
        "forget the momentum of decay",
        "torch/optimizer_hooks.py",
        "torch._foreach_mul_(buffers, momentum)",
        "torch._foreach_mul_(buffers, 0)",
        SHARE,
        "test_decay_may_shrink_the_offset_to_nothing",
    ),
    Defect(
        "dampen the first decay",
        "torch/optimizer_hooks.py",
        '(1 - group["dampening"] if MOMENTUM in state else 1)',
        '(1 - group["dampening"])',
        SHARE,
        "test_one_of_two_states_may_be_loaded",
    ),
    Defect(
        "forget steps before the first decay",
        "torch/optimizer_hooks.py",
        "state.setdefault(MOMENTUM, 0.0)",
        "pass",
        SHARE,
        "test_settings_of_sgd_may_change_between_steps[decay on-False]",
    ),
    Defect(
        "decay after hooks that change settings",
        "torch/optimizer_hooks.py",
        "hooks.move_to_end(handle.id, last=False)",
        "pass",
        SHARE,
        "test_the_order_of_hooks_makes_no_difference",
    ),
    Defect(
        "notice the decay that E cannot share after the step",
        "torch/optimizer_hooks.py",
        "for group in optimizer.param_groups if optimizer in _decaying else ():",
        "for group in ():",
        SHARE,
        "test_adaptive_decay_that_is_set_later_is_refused",
    ),
    Defect(
        "share what another optimizer moves",
        "torch/share.py",
        "if id(W) not in held and id(slot.stored(layer)) not in held:",
        "if False:",
        SHARE,
        "test_layers_of_another_optimizer_stay_learned",
    ),
    Defect(
        "forget the feedback of a copy",
        "torch/layers/base.py",
        "def __setstate__(self, state: dict[str, Any]) -> None:",
        "def _copy(self, state: dict[str, Any]) -> None:",
        SHARE,
        "test_a_copied_optimizer_is_one_without_its_feedback",
    ),
    Defect(
        "forget the feedback of a new weight",
        "torch/layers/base.py",
        "def register_parameter(self, name: str, param: Any) -> None:",
        "def _register(self, name: str, param: Any) -> None:",
        SHARE,
        "test_a_new_weight_shares_as_the_old_one_did",
    ),
    Defect(
        "load E for what it differs from W by",
        "torch/layers/slots.py",
        "sign = -1 if slot.offset else 1",
        "sign = 0",
        SHARE,
        "test_states_load_into_the_other_form",
    ),
    Defect(
        "mirror onto the offset",
        "torch/mirror.py",
        "add_(E - sampler.W if slot.offset else E, alpha=step)",
        "add_(E, alpha=step)",
        SHARE,
        "test_mirror_sets_shared_feedback_like_learned_feedback",
    ),
    Defect(
        "let attaching inverses move the statistics of batch norm",
        "torch/methods/target_propagation.py",
        "with preserve_state(model):",
        "if True:",
        CHECKS,
    ),
    Defect(
        "let attached methods draw anew in every pass",
        "torch/methods/runs.py",
        "self._random.put(self._start)",
        "pass",
        CHECKS,
    ),
    Defect(
        "check nothing of what modules hold",
        "torch/testing/identities.py",
        "own += [name, *parts]",
        "pass",
        CHECKS,
    ),
    Defect(
        "check samples by what random numbers move",
        "torch/testing/methods.py",
        "if torch.equal(found[key], other[key])",
        "if True",
        CHECKS,
    ),
    Defect(
        "check that methods add up by what was there",
        "torch/testing/methods.py",
        "return gap(grads_of(net), {key: 2 * update",
        "return gap(once, {key: 1 * update",
        CHECKS,
    ),
    Defect(
        "check a limit where states have not settled",
        "methods/equilibrium.py",
        "free_steps=100, nudged_steps=100",
        "free_steps=5, nudged_steps=5",
        "tests/torch/test_method_limits.py",
    ),
    Defect(
        "keep the graph below a state in the last pass",
        "torch/methods/error_predictive_coding.py",
        "s = s.detach()",
        "pass",
        ERRORS,
    ),
    Defect(
        "update by errors without the precision",
        "torch/methods/error_predictive_coding.py",
        "torch._foreach_mul(self.errors, -1 / weight)",
        "torch._foreach_mul(self.errors, -1)",
        ERRORS,
    ),
    Defect(
        "move errors by the gradient alone",
        "torch/methods/error_predictive_coding.py",
        "moves = torch._foreach_add(grads, self.errors) if self.errors else grads",
        "moves = grads",
        ERRORS,
    ),
    Defect(
        "climb the energy",
        "torch/methods/error_predictive_coding.py",
        "torch._foreach_mul(moves, -step)",
        "torch._foreach_mul(moves, step)",
        ERRORS,
    ),
    Defect(
        "take a precision of 1",
        "torch/methods/error_predictive_coding.py",
        "N / (run.count if method.precision is None",
        "N / (1 if method.precision is None",
        ERRORS,
    ),
    Defect(
        "scale no residual layer as muPC",
        "lab/networks/table.py",
        "(width * depth) ** -0.5",
        "depth**-0.5",
        "tests/lab/test_networks.py",
    ),
    Defect(
        "direct errors the wrong way",
        "torch/ops/routing.py",
        "link.layout.restored(e @ known[E],",
        "link.layout.restored(-e @ known[E],",
        BIOTORCH,
    ),
    Defect(
        "the signs of M for those of W",
        "feedback.py",
        "return self.init.draw(_Scale(draw)) * xp.sign(W)",
        "return self.init.draw(draw) * xp.sign(W)",
        BIOTORCH,
    ),
    Defect(
        "one network's numbers for all",
        "torch/ensemble/across.py",
        "_op_with_numbers(self.op, given).backward",
        "self.op.backward",
        ENSEMBLE,
    ),
    Defect(
        "forget that a number is one",
        "torch/ensemble/compatibility.py",
        "found[path] = torch.tensor",
        "found[path + '_'] = torch.tensor",
        ENSEMBLE,
    ),
    Defect(
        "hand out the last updates only",
        "torch/ensemble/stack.py",
        "update if member.grad is None else member.grad + update",
        "update",
        ENSEMBLE,
    ),
    Defect(
        "hand out updates in another order",
        "torch/ensemble/stack.py",
        "stack.grad.unbind(0), strict=True",
        "stack.grad.flip(0).unbind(0), strict=True",
        ENSEMBLE,
    ),
    Defect(
        "leave moved parameters where they are",
        "torch/ensemble/stack.py",
        "if not self._is_gathered():",
        "if not len(self.tensor):",
        ENSEMBLE,
    ),
    Defect(
        "send errors of plain layers nowhere",
        "torch/ensemble/linear.py",
        "W.detach())",
        "W.detach() * 0)",
        ENSEMBLE,
    ),
    Defect(
        "let computed feedback differ",
        "torch/ensemble/compatibility.py",
        '(axis == "feedback" and not computes)',
        'axis == "feedback"',
        ENSEMBLE,
    ),
    Defect(
        "take no look at classes again",
        "torch/ensemble/__init__.py",
        "if self._stacks is None or not same:",
        "if self._stacks is None:",
        ENSEMBLE,
    ),
    Defect(
        "take a changed tensor for the same state",
        "torch/methods/predictive_coding.py",
        "return id(z), z._version",
        "return id(z), 0",
        CODING,
    ),
    Defect(
        "a state for each reader",
        "torch/methods/predictive_coding.py",
        "return self._seen[_key(z)][1]",
        "pass",
        CODING,
    ),
    Defect(
        "move states by the mean",
        "torch/methods/predictive_coding.py",
        "method.step * N",
        "method.step",
        CODING,
    ),
    Defect(
        "add energies of a sum to a mean",
        "torch/methods/predictive_coding.py",
        "loss(run(last=last)) + run.energy / N",
        "loss(run(last=last)) + run.energy",
        CODING,
    ),
    Defect(
        "draw anew in every pass",
        "torch/methods/runs.py",
        "self._random.put(self._start)",
        "pass",
        CODING,
    ),
    Defect(
        "keep the buffers of the last pass",
        "torch/methods/runs.py",
        "buffer.copy_(saved)",
        "pass",
        CODING,
    ),
    Defect(
        "let a unit write over what is compared",
        "torch/methods/equilibrium.py",
        "return h.clone() if",
        "return h if",
        EQUILIBRIUM,
    ),
    Defect(
        "let max pools read states",
        "torch/methods/equilibrium.py",
        "rest[0] if pools else None",
        "None",
        EQUILIBRIUM,
    ),
    Defect(
        "halve the one-sided estimate",
        "torch/methods/equilibrium.py",
        "(2 if method.symmetric else 1)",
        "2",
        EQUILIBRIUM,
    ),
    Defect(
        "nudge by the mean",
        "torch/methods/equilibrium.py",
        "strength * N * loss(output)",
        "strength * loss(output)",
        EQUILIBRIUM,
    ),
    Defect(
        "leave repeated modules out of a chain",
        "torch/methods/chain.py",
        "module._modules.items()",
        "module.named_children()",
        EQUILIBRIUM,
    ),
    Defect(
        "nudge the other way from where the first nudge ended",
        "torch/methods/predictive_coding.py",
        "run.place(forward)",
        "run.place(run.states)",
        CODING,
    ),
    Defect(
        "add the updates of both nudges",
        "torch/methods/predictive_coding.py",
        "F / (nudge * len(nudges))",
        "F / nudge",
        CODING,
    ),
    Defect(
        "targets without the difference",
        "torch/methods/target_propagation.py",
        "y = below - (inverse(z) - inverse(y))",
        "y = inverse(y)",
        TARGETS,
    ),
    Defect(
        "invert strides short",
        "torch/methods/target_propagation.py",
        "_output_padding(layer, shapes[0], shapes[1])",
        "0",
        TARGETS,
    ),
    Defect(
        "learn to invert without noise",
        "torch/methods/target_propagation.py",
        "method.sigma * torch.randn_like(below)",
        "0",
        TARGETS,
    ),
    Defect(
        "difference loss without what keeps inverses small",
        "torch/methods/target_propagation.py",
        "losses.append((size - gain) /",
        "losses.append(-gain /",
        TARGETS,
    ),
    Defect(
        "difference loss with the noise of the samples",
        "torch/methods/target_propagation.py",
        "gain = ((noisy - below) *",
        "gain = (noisy *",
        TARGETS,
    ),
    Defect(
        "let local losses reach lower layers",
        "torch/methods/target_propagation.py",
        "inputs.append(z.detach().requires_grad_())",
        "inputs.append(z)",
        TARGETS,
    ),
    Defect(
        "send the error to the input with the wrong sign",
        "torch/methods/pepita.py",
        "shift = N * d @ F",
        "shift = -N * d @ F",
        CHAINS,
    ),
    Defect(
        "compare the two passes the wrong way round",
        "torch/methods/pepita.py",
        "(z - modulated)",
        "(modulated - z)",
        CHAINS,
    ),
    Defect(
        "push both labels' squares up",
        "torch/methods/forward_forward.py",
        "F.softplus(g[1])",
        "F.softplus(-g[1])",
        CHAINS,
    ),
    Defect(
        "pass squares on to the next layer",
        "torch/methods/forward_forward.py",
        "return z / (z.square()",
        "return z / (0 * z.square()",
        CHAINS,
    ),
    Defect(
        "draw the right label as the wrong one",
        "torch/methods/forward_forward.py",
        "torch.randint_like(labels, 1, classes)",
        "torch.randint_like(labels, 0, classes)",
        CHAINS,
    ),
    Defect(
        "send a local loss to the layer below",
        "torch/methods/forward_forward.py",
        "z = segment(normalise(z.detach()))",
        "z = segment(normalise(z))",
        CHAINS,
    ),
    Defect(
        "project labels with the wrong sign",
        "torch/methods/target_projection.py",
        "total + (z * each[labels])",
        "total - (z * each[labels])",
        CHAINS,
    ),
    Defect(
        "take any loss for the cross-entropy",
        "torch/methods/linear_chain.py",
        "if distance > _ONE_HOT:",
        "if False:",
        CHAINS,
    ),
    Defect(
        "draw projections without their scale",
        "torch/methods/linear_chain.py",
        "scale * drawn",
        "drawn",
        CHAINS,
    ),
    Defect(
        "register an input again in a recomputation",
        "torch/ops/routing.py",
        "if _in_backward_pass():",
        "if False:",
        WIRING,
    ),
    Defect(
        "hear one layer too far",
        "torch/convert/wiring.py",
        "site.level + reach - 1",
        "site.level + reach",
        WIRING,
    ),
    Defect(
        "draw between layers at any size",
        "torch/layers/sampler.py",
        "FeedbackSampler(E, like=W)",
        "FeedbackSampler(E)",
        WIRING,
    ),
    Defect(
        "take the first dimension for the batch",
        "torch/convert/wiring.py",
        "Layout.FIRST in alone",
        "True",
        WIRING,
    ),
    Defect(
        "keep what a failed pass left",
        "torch/ops/routing.py",
        "            self._own().clear()",
        "            pass",
        WIRING,
    ),
    Defect(
        "one E for all positions",
        "torch/convert/wiring.py",
        "z.shape[:-1] == h.shape[:-1]",
        "False",
        WIRING,
    ),
    Defect(
        "errors of tokens in another order",
        "torch/ops/routing.py",
        "*shape[2:]).transpose(0, 1)",
        "*shape[2:]).reshape(shape)",
        WIRING,
    ),
    Defect(
        "report targets as far as the way back",
        "crossing.py",
        "return self._step(d, n, xp)[0] * d",
        "return self._step(d, n, xp)[1] * d",
        DIAGNOSE,
    ),
    Defect(
        "show control characters",
        "display.py",
        "c if c.isprintable() else",
        "c if c else",
        "tests/test_display.py tests/torch/test_reports.py",
    ),
    Defect(
        "leave HTML in a table",
        "display.py",
        "return html.escape(printable(text))",
        "return printable(text)",
        "tests/test_display.py tests/torch/test_reports.py",
    ),
    Defect(
        "mark the last epoch as the best",
        "lab/runs/plots.py",
        'best = result["best_epoch"] if result else None',
        'best = rows[-1]["epoch"] if result else None',
        "tests/lab/test_plots.py",
    ),
    Defect(
        "show updates beyond 90 degrees by colour alone",
        "lab/runs/diagnose_plots.py",
        "AWAY < x < math.inf",
        "x < 0",
        "tests/lab/test_plots.py",
    ),
    Defect(
        "take half of an angle",
        "torch/diagnose/measures.py",
        "math.degrees(2 * math.atan2",
        "math.degrees(math.atan2",
        DIAGNOSE,
    ),
    Defect(
        "draw feedback from the stream of the masks",
        "torch/diagnose/pass_observer.py",
        "self.others = self.states.take()\n            self.states.put(own)",
        "pass",
        DIAGNOSE,
    ),
    Defect(
        "give a gradient where there is none",
        "torch/diagnose/updates.py",
        "torch.full_like(t, torch.nan)",
        "torch.zeros_like(t)",
        DIAGNOSE,
    ),
    Defect(
        "count zeros in the typical size of an update",
        "torch/diagnose/measures.py",
        "t = t[t != 0]",
        "t = t.flatten()",
        SMALL,
    ),
    Defect(
        "square a small update as it is",
        "torch/diagnose/measures.py",
        "largest * (t / largest).square().mean().sqrt()",
        "t.square().mean().sqrt()",
        SMALL,
    ),
    Defect(
        "compare every update with float32's numbers",
        "torch/diagnose/measures.py",
        "torch.finfo(W.dtype).tiny,",
        "torch.finfo(torch.float32).tiny,",
        SMALL,
    ),
    Defect(
        "lose targets that a closed form keeps",
        "torch/diagnose/measures.py",
        "self.target_lost |= subtracts and ",
        "self.target_lost |= ",
        SMALL,
    ),
    Defect(
        "ignore the surrogate in a lost target",
        "torch/diagnose/pass_observer.py",
        "op.phi if surrogate is None else surrogate.phi(torch)",
        "op.phi",
        SMALL,
    ),
    Defect(
        "take the square root of the share of a step",
        "torch/diagnose/update_report.py",
        "self.rms / (self.rms + self.eps)",
        "(self.rms / (self.rms + self.eps)) ** 0.5",
        SMALL,
    ),
    Defect(
        "call an update of zero small",
        "torch/diagnose/update_report.py",
        "and 0 < self.rms < self.eps",
        "and self.rms < self.eps",
        SMALL,
    ),
    Defect(
        "report feedback weights below eps",
        "torch/diagnose/report.py",
        "(update for update in self.updates if not update.feedback), None)",
        "reversed(self.updates), None)",
        SMALL,
    ),
    Defect(
        "use Adam's eps for parameters of no optimizer",
        "torch/diagnose/optimizers.py",
        "ADAM_EPS if optimizers is None else None",
        "ADAM_EPS",
        SMALL,
    ),
    Defect(
        "take Adadelta's eps as it is",
        "torch/diagnose/optimizers.py",
        "math.sqrt(eps) if",
        "eps if",
        SMALL,
    ),
    Defect(
        "use the eps of an optimizer's last group",
        "torch/diagnose/optimizers.py",
        "_eps_of(optimizer, group))",
        "_eps_of(optimizer, optimizer.param_groups[-1]))",
        SMALL,
    ),
    Defect(
        "advise normalized targets to rules that have them",
        "torch/diagnose/__init__.py",
        " and not rule.crossing.normalized",
        "",
        SMALL,
    ),
    Defect(
        "let a diagnosis move the statistics of batch norm",
        "torch/model_state.py",
        "{key: clones.get(id(b)) for key, b in own.items()}",
        "own",
        DIAGNOSE,
    ),
    Defect(
        "let a diagnosis move random states",
        "torch/model_state.py",
        "            random_states.put(states)",
        "            pass",
        DIAGNOSE,
    ),
    Defect(
        "use a recipe after z was changed",
        "torch/ops/ops.py",
        " and found.version == z._version",
        "",
        MEMORY,
    ),
    Defect(
        "let the graph hold itself",
        "torch/functions/calls.py",
        "    leaves[at] = None",
        "    pass",
        MEMORY,
    ),
    Defect(
        "mirror weights that are never used",
        "inits.py",
        "total / (uses + (uses == 0))",
        "total / uses",
        MIRROR,
    ),
    Defect(
        "forget that E - W is stored",
        "torch/mirror.py",
        "if slot.offset and step != decay:",
        "if False:",
        MIRROR,
    ),
    Defect(
        "decay by the step",
        "torch/mirror.py",
        "stored.mul_(1 - decay)",
        "stored.mul_(1 - step)",
        MIRROR,
    ),
    Defect(
        "grow with the rank",
        "torch/layers/sampler.py",
        "scale * rank**-0.5 * Q @ P",
        "scale * Q @ P",
        AXES,
    ),
    Defect(
        "count units without the kernel's size",
        "torch/layers/sampler.py",
        "offsets = math.prod(self.W.shape[2:])",
        "offsets = 1 + 0 * math.prod(self.W.shape[2:])",
        AXES,
    ),
    Defect(
        "divide a logistic loss by the classes",
        "lab/runs/measure.py",
        'total if reduction == "sum" else total / len(y)',
        'total if reduction == "sum" else total / target.numel()',
        RUN_SETTINGS,
    ),
    Defect(
        "reach milestones an epoch late",
        "lab/training/loop.py",
        "step >= end * self.batches.steps",
        "step >= (end + 1) * self.batches.steps",
        RUN_SETTINGS,
    ),
    Defect(
        "mirror after every step",
        "lab/training/loop.py",
        "if config.mirror_every and done % config.mirror_every == 0:",
        "if config.mirror_every:",
        RUN_SETTINGS,
    ),
    Defect(
        "multiply by the deviation",
        "lab/networks/parts.py",
        "(x - self.mean) / self.deviation",
        "(x - self.mean) * self.deviation",
        RUN_SETTINGS,
    ),
    Defect(
        "repeat settings that a rule sets itself",
        "lab/comparison/report.py",
        'if text.partition("=")[0] not in own',
        "if text",
        RUN_SETTINGS,
    ),
    Defect(
        "one standard error",
        "lab/published/setup.py",
        "return 2 * math.sqrt(2 * published",
        "return math.sqrt(2 * published",
        PUBLISHED,
    ),
    Defect(
        "leave milestones where they are",
        "lab/published/setup.py",
        "round(m * epochs / self.epochs)",
        "round(m)",
        PUBLISHED,
    ),
    Defect(
        "report the last accuracy for the highest",
        "lab/published/reproduction.py",
        'return max(row["test_accuracy"] for row in run.curve)',
        'return run.curve[-1]["test_accuracy"]',
        PUBLISHED,
    ),
    Defect(
        "believe every mirror",
        "torch/user_warnings.py",
        "if W > _CHANGED and E <= _ROUNDED else",
        "if False else",
        MIRROR,
    ),
    Defect(
        "take loaded feedback for an old mirror",
        "torch/user_warnings.py",
        " and E <= _ROUNDED",
        "",
        MIRROR,
    ),
    Defect(
        "take a diagnosis for training",
        "torch/user_warnings.py",
        " and observer.current is None",
        "",
        MIRROR,
    ),
    Defect(
        "doubt a mirror in training",
        "torch/user_warnings.py",
        "conversion.untrained = False",
        "pass",
        MIRROR,
    ),
    Defect(
        "keep a mirror of weights that are loaded",
        "torch/layers/base.py",
        "slot.note_mirror(W, slot.stored(self), always=mirrored is not None)",
        "pass",
        MIRROR,
    ),
    Defect(
        "doubt loaded feedback",
        "torch/layers/base.py",
        "mirrored, slot.mirrored = slot.mirrored, None",
        "mirrored = slot.mirrored",
        MIRROR,
    ),
    Defect(
        "check no mirror after a compiled pass",
        "torch/optimizer_hooks.py",
        "begin_training(conversion())",
        "pass",
        MIRROR,
    ),
    Defect(
        "check no mirror of a submodule",
        "torch/layers/slots.py",
        'holder._lra.slots["weight"].check_mirror(holder, W)',
        "pass",
        MIRROR,
    ),
    Defect(
        "mirror the size of the noise",
        "inits.py",
        "uses + used",
        "uses + 1",
        MIRROR,
    ),
    Defect(
        "move one target of two",
        "differences.py",
        "(self.f(h + m) - self.f(h - m)) / 2",
        "(self.f(h + m) - self.f(h)) / 2",
        AXES,
    ),
    Defect(
        "keep close to h where units are flat",
        "crossing.py",
        "relative=self.relative_if_flat",
        "relative=self.relative",
        AXES,
    ),
    Defect(
        "each process keeps its own mirror",
        "torch/mirror.py",
        "            distributed.all_reduce(E, group=group)",
        "            pass",
        "tests/torch/test_parallel.py",
        "test_mirrors_average_over_processes",
    ),
    Defect(
        "mirror what was programmed",
        "torch/layers/sampler.py",
        "            y = f(x, W)",
        "            y = x @ W.T",
        "tests/torch/test_black_box.py",
    ),
    Defect(
        "keep a black box's offset in its mirror",
        "torch/layers/sampler.py",
        "self.run.correlate(y - y.mean(0), x)",
        "self.run.correlate(y, x)",
        "tests/torch/test_black_box.py",
    ),
    Defect(
        "mirror a black box with the noise of training",
        "torch/layers/custom.py",
        "            with _evaluating(layer):",
        "            with contextlib.nullcontext():",
        "tests/torch/test_black_box.py",
        "test_the_mirror_runs_in_eval_mode",
    ),
    Defect(
        "forget the dilation of a black-box convolution",
        "torch/layers/custom.py",
        'return ConvMap(stride, padding, dilation, getattr(layer, "groups", 1))',
        'return ConvMap(stride, padding, (1,) * len(sizes), getattr(layer, "groups", 1))',
        "tests/torch/test_black_box.py",
    ),
    Defect(
        "mirror a convolution by noise that misses a part of its kernel",
        "torch/layers/conv.py",
        "return tuple(k + -p % s for k, s, p in settings)",
        "return tuple(k for k, s, p in settings)",
        "tests/torch/test_black_box.py",
    ),
    Defect(
        "take a user's Function for torch's of the same name",
        "torch/audit/classify.py",
        'elementwise = (elementwise or name == "Clone") and function_of(node) is None',
        'elementwise = elementwise or name == "Clone"',
        "tests/torch/test_simulators.py",
    ),
    Defect(
        "measure a noisy activation twice",
        "torch/layers/activation.py",
        "kind = SavedActivationOp if isinstance(self, BlackBox) else ActivationOp",
        "kind = ActivationOp",
        "tests/torch/test_black_box.py",
    ),
    Defect(
        "ask for feedback where a device sees the input",
        "torch/layers/base.py",
        "if slot is None or slot.route is not None:",
        "if slot is not None and slot.route is not None:",
        "tests/torch/test_black_box.py",
    ),
    Defect(
        "take targets of samples",
        "torch/layers/activation.py",
        "mean = ParametricActivationOp(sigmoid_phi()",
        "mean = ParametricActivationOp(_phi_of_pass(activation)",
        ACTIVATIONS,
        "test_targets_of_bernoulli_are_targets_of_its_mean",
    ),
    Defect(
        "forget the distance",
        "crossing.py",
        "return self.beta / s, gain * s",
        "return self.beta / s, gain",
        AXES,
    ),
    Defect(
        "drop beta",
        "crossing.py",
        "return self.beta * n, gain / n",
        "return n, gain / n",
        AXES,
    ),
    Defect(
        "flip the error",
        "crossing.py",
        "        e *= factor",
        "        e *= -factor",
        AXES,
    ),
    Defect(
        "drop the gain",
        "crossing.py",
        "if self.normalized else self.gain",
        "if self.normalized else 1",
        LAYERS,
    ),
    Defect(
        "forget 1/N",
        "crossing.py",
        "return self.beta * n, gain / n",
        "return self.beta * n, gain",
        AXES,
    ),
    Defect(
        "forget N in the target",
        "crossing.py",
        "return self.beta * n, gain / n",
        "return self.beta, gain / n",
        PSEUDOCODE,
    ),
    Defect(
        "wrong derivative of the local loss",
        "crossing.py",
        "difference / (1 + difference * difference)",
        "difference / (1 + abs(difference))",
        AXES,
    ),
    Defect(
        "ignore gamma",
        "feedback.py",
        "return self.gamma * dW",
        "return dW",
        AXES,
    ),
    Defect(
        "signed magnitudes",
        "feedback.py",
        "abs(M) * xp.sign(W)",
        "M * xp.sign(W)",
        AXES,
    ),
    Defect(
        "transpose E",
        "torch/layers/linear.py",
        "(rows @ E).view",
        "(rows @ E.t()).view",
        LAYERS,
    ),
    Defect(
        "mean for sum in db",
        "torch/layers/linear.py",
        "rows.sum(0)",
        "rows.mean(0)",
        LAYERS,
    ),
    Defect(
        "W for E",
        "torch/layers/base.py",
        "offset=slot.offset), (W, self.bias, E)",
        "offset=slot.offset), (W, self.bias, W)",
        LAYERS,
    ),
    Defect(
        "no feedback in plain states",
        "torch/layers/base.py",
        'state_dict[f"{prefix}{slot.name}"] = slot.stored(self)',
        "pass",
        MACHINERY,
    ),
    Defect(
        "no float32 upcast",
        "torch/ops/ops.py",
        "h, d, z = h.float(), d.float(), None",
        "pass",
        MACHINERY,
    ),
    Defect(
        "in place does not overwrite",
        "torch/ops/autograd.py",
        "        in_place(x)",
        "        in_place(x.clone())",
        LAYERS,
    ),
    Defect(
        "a unit's own parameters do not learn",
        "torch/ops/ops.py",
        "return e, error if needs[1] else None",
        "return e, None",
        LAYERS,
    ),
    Defect(
        "padding on the wrong side",
        "torch/layers/conv.py",
        "(0, b - a)",
        "(b - a, 0)",
        LAYERS,
    ),
    Defect(
        "skip hooked layers' hooks",
        "torch/layers/sequential.py",
        "return not hooked and",
        "return",
        IDENTITY,
    ),
    Defect(
        "refuse nothing",
        "torch/convert/plan.py",
        "    if refused:",
        "    if False:",
        REFUSALS,
    ),
    Defect(
        "take E for a view of W without the view",
        "torch/functions/interceptor.py",
        "stored = None if stored is None else view(stored)",
        "pass",
        FUNCTION,
        "test_every_rule_with_functions",
    ),
    Defect(
        "no feedback in products by function",
        "torch/ops/ops.py",
        "given[self.at] = E",
        "pass",
        FUNCTION,
        "test_products_called_as_functions",
    ),
    Defect(
        "leave activation functions to autograd",
        "torch/functions/interceptor.py",
        "if func in ACTIVATION_FUNCTIONS or func in self.layer._lra.activations:",
        "if False:",
        FUNCTION,
        "test_an_example_may_be_a_named_tuple",
    ),
    Defect(
        "intercept what is skipped",
        "torch/functions/module.py",
        "active.skipped += 1",
        "pass",
        FUNCTION,
    ),
    Defect(
        "a compiled step takes no step",
        "torch/compiled.py",
        "self._optimizer.step()",
        "pass",
        COMPILED,
        "test_the_optimizers_hooks_run",
    ),
    Defect(
        "a compiled step leaves old updates",
        "torch/compiled.py",
        "parameter.grad = None",
        "pass",
        COMPILED,
        "test_weights_can_be_frozen_between_steps",
    ),
    Defect(
        "a compiled step wants all parameters reached",
        "torch/compiled.py",
        "allow_unused=True",
        "allow_unused=False",
        COMPILED,
        "test_updates_replace_grad_and_unreached_parameters_have_none",
    ),
    Defect(
        "a compiled step looks at the model's parameters alone",
        "torch/compiled.py",
        "(*self._model.parameters(), *held)",
        "(*self._model.parameters(),)",
        COMPILED,
        "test_updates_replace_grad_and_unreached_parameters_have_none",
    ),
    Defect(
        "a compiled step misses later hooks",
        "torch/compiled.py",
        '"skip_nnmodule_hook_guards": False',
        '"skip_nnmodule_hook_guards": True',
        COMPILED,
        "test_backward_hooks_that_come_later_are_refused",
    ),
    Defect(
        "a compiled step freezes no feedback",
        "torch/compiled.py",
        "self._freeze_feedback()",
        "pass",
        COMPILED,
        "test_single_weights_can_be_frozen_and_trained_again[frozen0]",
    ),
    Defect(
        "a compiled step runs hooks on the graph",
        "torch/compiled.py",
        "if any(GLOBAL_HOOKS):",
        "if False:",
        COMPILED,
        "test_hooks_on_all_modules_are_refused[register_module_forward_hook]",
    ),
    Defect(
        "a compiled step passes hooks by",
        "torch/compiled.py",
        "parameter._backward_hooks or parameter._post_accumulate_grad_hooks",
        "False",
        COMPILED,
        "test_steps_that_would_be_wrong_are_refused",
    ),
    Defect(
        "compile again after each check of errors",
        "torch/user_warnings.py",
        "torch.compiler.is_compiling() or state.errors_checked >= _PASSES",
        "state.errors_checked >= _PASSES or torch.compiler.is_compiling()",
        COMPILED,
        "test_a_diagnosis_causes_no_compilation",
    ),
    Defect(
        "compile anew after an eager pass of a wiring",
        "torch/ops/routing.py",
        "return self._traced",
        "return self._waiting.setdefault(0, {})",
        COMPILED,
        "test_steps_under_any_rule_equal_eager_ones[direct]",
    ),
    Defect(
        "let an error come to a layer that sees the input",
        "torch/layers/sequential.py",
        "run[0].check_input(x, 1)",
        "pass",
        FLOPS,
    ),
    Defect(
        "multiply anew for the way back of z W",
        "torch/functions/tables.py",
        "_BY_COLUMNS.get(func) == len(args)",
        "False",
        FLOPS,
    ),
    Defect(
        "take W z for z W",
        "torch/functions/tables.py",
        "and args[-1] is W",
        "",
        FUNCTION,
        "test_products_called_as_functions",
    ),
    Defect(
        "sum a bias that each sample has of its own",
        "torch/functions/tables.py",
        "and (bias is None or bias.shape == W.shape[1:])",
        "",
        FUNCTION,
        "test_products_called_as_functions",
    ),
    Defect(
        "sort numbers as text",
        "lab/data/arrays.py",
        "sorted(names, key=int) if digits else names",
        "names",
        DATA,
    ),
    Defect(
        "ignore transparent pixels",
        "lab/data/image_files.py",
        "pixels[:, :, 3].min() < 255",
        "False",
        "tests/lab/test_image_files.py",
    ),
    Defect(
        "convert colours to grey by their red",
        "lab/data/image_files.py",
        "(pixels != pixels[:, :, :1]).any()",
        "False",
        "tests/lab/test_image_files.py",
    ),
    Defect(
        "read infinite cells",
        "lab/data/tables.py",
        "all(map(math.isfinite, numbers))",
        "True",
        "tests/lab/test_tables.py",
    ),
    Defect(
        "compare no columns of tables",
        "lab/data/tables.py",
        "like and header.columns != like[0].columns",
        "False",
        "tests/lab/test_tables.py",
    ),
    Defect(
        "unpack any number of bytes",
        "lab/data/npz.py",
        "sum(member.file_size for member in chosen) > MAX_BYTES",
        "False",
        "tests/lab/test_npz.py",
    ),
    Defect(
        "read images that a saved dataset only points to",
        "lab/data/hugging_face.py",
        'if not row[column] or row[column]["bytes"] is None:',
        "if False:",
        "tests/lab/test_hugging_face.py",
    ),
    Defect(
        "match classes by their order",
        "lab/runs/trained_network.py",
        "order[arrays.y_test]",
        "arrays.y_test",
        "tests/lab/test_runs.py",
    ),
    Defect(
        "fetch before shapes are checked",
        "lab/runs/trained_network.py",
        'entry.reads == trained.reads == "values"',
        "False",
        "tests/lab/test_runs.py",
    ),
    Defect(
        "compile a short run",
        "lab/training/learning.py",
        "steps < _MIN_STEPS",
        "steps < 0",
        COMPILED_RUNS,
        "test_auto_compiles_long_runs",
    ),
    Defect(
        "load code that was not named on this machine",
        "lab/settings/code.py",
        "if where not in known or not _note(reference, known[where]).exists():",
        "if False:",
        CODE,
        "test_naming_one_function_of_a_file_allows_no_other",
    ),
    Defect(
        "load code that has changed",
        "lab/settings/code.py",
        "if digest != known[where]:",
        "if False:",
        CODE,
        "test_a_changed_file_is_accepted_by_name",
    ),
    Defect(
        "reach the modules that a user's file imports",
        "lab/settings/code.py",
        "if isinstance(value, ModuleType):",
        "if False:",
        CODE,
        "test_a_named_file_gives_no_access_to_what_it_imports[os.rmdir]",
    ),
    Defect(
        "trust a note for any name in a file",
        "lab/settings/code.py",
        'key = f"{Path(where).name}:{name} {digest}"',
        'key = f"{Path(where).name} {digest}"',
        CODE,
        "test_naming_one_function_of_a_file_allows_no_other",
    ),
    Defect(
        "keep the sources of code that a run no longer uses",
        "lab/settings/config.py",
        "tuple((place, known[place]) for place in places)",
        "tuple(known.items())",
        CODE,
        "test_a_run_starts_from_a_run_with_own_code",
    ),
    Defect(
        "convert a user's network without an example",
        "lab/training/learning.py",
        "example = samples if own or ",
        "example = samples if ",
        CODE,
    ),
    Defect(
        "accept a network whose output has another shape",
        "lab/networks/model.py",
        "if shape is None or tuple(shape) != expected:",
        "if shape is None:",
        CODE,
    ),
    Defect(
        "write options that have their defaults",
        "lab/networks/model.py",
        "if k not in defaults or defaults[k] != v",
        "if True",
        "tests/lab/test_spec.py",
    ),
    Defect(
        "compile for the last batch",
        "lab/training/loop.py",
        "batch.size < self.config.batch_size",
        "False",
        COMPILED_RUNS,
        "test_a_compiled_run_equals_the_eager_run_up_to_rounding[schedule]",
    ),
    Defect(
        "subtract where a closed form is known",
        "differences.py",
        "        if self.form is not None:",
        "        if False:",
        EXACT,
    ),
    Defect(
        "let targets leave the domain",
        "differences.py",
        "        return xp.minimum(xp.maximum(delta, -limit), limit)",
        "        return delta",
        DIFFERENCES,
        "test_targets_stay_inside_the_domain",
    ),
    Defect(
        "go the whole way to the end of a domain",
        "differences.py",
        "self.room(h, xp) / 2",
        "self.room(h, xp)",
        DIFFERENCES,
        "test_targets_stay_inside_the_domain",
    ),
    Defect(
        "use the closed form where subtraction is cheaper",
        "differences.py",
        "or (far and not self.cheap)",
        "",
        DIFFERENCES,
        "test_far_targets_subtract_where_that_is_cheaper",
    ),
    Defect(
        "lose the sign of a gap",
        "differences.py",
        "xp.tanh(D / 2) * (1 + xp.exp(-abs(D)))",
        "xp.tanh(abs(D) / 2) * (1 + xp.exp(-abs(D)))",
        DIFFERENCES,
        "test_a_closed_form_is_exact[exp-{}-float32]",
    ),
    Defect(
        "take sigmoid's slope at one side",
        "differences.py",
        "_sigmoid(-xp.minimum(h, v), xp) * _gap(delta, xp)",
        "_sigmoid(-xp.maximum(h, v), xp) * _gap(delta, xp)",
        DIFFERENCES,
        "test_far_targets_subtract_where_that_is_cheaper",
    ),
    Defect(
        "round h - delta in a ReLU",
        "differences.py",
        "return xp.minimum(delta - low, h - low)",
        "return h - low - xp.clip(h - delta, 0.0, math.inf)",
        DIFFERENCES,
        "test_a_closed_form_is_exact[relu-{}-float32]",
    ),
    Defect(
        "end the series of the normal distribution early",
        "differences.py",
        'terms = 4 if "32" in str(h.dtype) else 8',
        "terms = 2",
        DIFFERENCES,
        "test_a_closed_form_is_exact[normal-{}-float64]",
    ),
    Defect(
        "forget alpha in an exponential",
        "differences.py",
        "return scale * (up + alpha * exp(",
        "return scale * (up + exp(",
        DIFFERENCES,
        "test_a_closed_form_is_exact[selu-{}-float32]",
    ),
    Defect(
        "drop the product rule's second part",
        "differences.py",
        "(h - delta) * sigmoid(h, delta, xp) + _sigmoid(h, xp) * delta",
        "(h - delta) * sigmoid(h, delta, xp)",
        DIFFERENCES,
        "test_a_closed_form_is_exact[silu-{}-float32]",
    ),
    Defect(
        "round in a fast ReLU",
        "torch/ops/eager.py",
        "delta.add_(torch.sub(z, h))",
        "delta.add_(z).sub_(h)",
        EXACT,
    ),
    Defect(
        "use the near form of a fast tanh anywhere",
        "torch/ops/eager.py",
        "        if largest <= _NEAR:  # D",
        "        if True:  # D",
        EXACT,
    ),
    Defect(
        "use a fast tanh for any distance",
        "torch/ops/eager.py",
        "_MEDIUM = 1.2",
        "_MEDIUM = 99.0",
        EXACT,
    ),
    Defect(
        "integrate a slope over one node",
        "torch/ops/eager.py",
        "    (0.004, ((0.5, 1.0),)),",
        "    (0.4, ((0.5, 1.0),)),",
        EXACT,
    ),
    Defect(
        "use fast forms in a transform",
        "torch/ops/eager.py",
        "        and not transforming()",
        "",
        EXACT,
    ),
    Defect(
        "use fast forms for tensors of users' classes",
        "torch/ops/eager.py",
        "        and type(h) is Tensor",
        "",
        EXACT,
    ),
    Defect(
        "take any approximation of gelu for the exact one",
        "torch/phi.py",
        "FAST[name](**settings)",
        "FAST[name]()",
        EXACT,
    ),
    Defect(
        "ignore an activation's settings",
        "torch/phi.py",
        "if key in _SETTINGS[name]}",
        "if False}",
        EXACT,
    ),
    Defect(
        "take inplace for a setting",
        "torch/phi.py",
        "args[1 : IN_PLACE_AT.get(func, len(args))]",
        "args[1:]",
        EXACT,
    ),
    Defect(
        "ignore a user's difference",
        "torch/phi.py",
        "    if own is not None:",
        "    if False:",
        EXACT,
    ),
    Defect(
        "compute small differences in 16 bits",
        "torch/ops/ops.py",
        "h, d, z = h.float(), d.float(), None",
        "pass",
        MACHINERY,
    ),
    Defect(
        "keep a removed name for restore",
        "torch/layers/slots.py",
        "holder._lra.added.remove(old)",
        "pass",
        SHARE,
        "test_restore_returns_the_plain_model",
    ),
    Defect(
        "take targets with the settings of the backward pass",
        "torch/layers/activation.py",
        "activation if torch.compiler.is_compiling() else _freeze(activation)",
        "activation",
        PASSES,
    ),
    Defect(
        "draw new noise for targets",
        "torch/layers/activation.py",
        "phi = replace(phi, f=_with_noise(activation, phi.f, h))",
        "pass",
        PASSES,
    ),
    Defect(
        "recognise activations in their present mode",
        "torch/layers/trials.py",
        "for training in (True, False):",
        "for training in (module.training,):",
        PASSES,
    ),
    Defect(
        "trace through activations",
        "torch/layers/activation.py",
        "        if is_traced(args, kwargs):",
        "        if False:",
        TOOLS,
    ),
    Defect(
        "convert shared activations in place",
        "torch/convert/sharing.py",
        "= _copy(child) if is_copied else child",
        "= child",
        SHARING,
    ),
    Defect(
        "copy activations that a list holds",
        "torch/convert/sharing.py",
        "id(child) not in named and ",
        "",
        SHARING,
    ),
    Defect(
        "take the feedback of a trunk",
        "torch/layers/base.py",
        "if self._lra.conversion.modules is not None:",
        "if False:",
        SHARING,
    ),
    Defect(
        "undo the conversion of another model",
        "torch/convert/swap.py",
        "if plan is None or module._lra.conversion is plan.shared:",
        "if True:",
        SHARING,
    ),
    Defect(
        "cover what came later",
        "torch/coverage.py",
        "is_new = not is_skipped and (",
        "is_new = False and (",
        COVERAGE,
    ),
    Defect(
        "lose the place of a model in another",
        "torch/coverage.py",
        "prefix = path.removesuffix(state.path)",
        'prefix = ""',
        COVERAGE,
    ),
    Defect(
        "lose the rule of edited code",
        "torch/layers/classes.py",
        '("recompile", "__deepcopy__", "__copy__")',
        "()",
        TOOLS,
    ),
    Defect(
        "forget where feedback of a parametrization went",
        "torch/layers/classes.py",
        "            slot.key = name",
        "            pass",
        TOOLS,
    ),
    Defect(
        "reset weights without feedback",
        "torch/layers/base.py",
        "if slot.weight(self) is not None:",
        "if False:",
        TOOLS,
    ),
    Defect(
        "accept a replaced forward",
        "torch/convert/plan.py",
        "    if replaced and (",
        "    if False and (",
        REFUSALS,
    ),
    Defect(
        "leave a derivative of an update unnamed",
        "torch/convert/__init__.py",
        "if str(error) != SECOND_DERIVATIVE:",
        "if True:",
        REFUSALS,
    ),
    Defect(
        "take a named tuple apart",
        "torch/model_state.py",
        ' and not hasattr(example, "_fields")',
        "",
        FUNCTION,
        "test_an_example_may_be_a_named_tuple",
    ),
    Defect(
        "convert nothing by backprop",
        "torch/convert/plan.py",
        "elif rule == Rule() and _would_be_intercepted(module):",
        "elif False:",
        FUNCTION,
        "test_backprop_converts_what_other_rules_intercept",
    ),
    Defect(
        "count the terms of a step of packed sequences by its rows",
        "torch/functions/interceptor.py",
        "sequence.terms.get(state.terms, state.terms)",
        "state.terms",
        RECURRENT,
        "test_updates_are_those_of_a_cell_over_time[LSTM-time first-tokens]",
    ),
    Defect(
        "count layers and directions as the batch",
        "torch/functions/recurrent.py",
        "LossTerms.BATCH: states[0].shape[1]",
        "LossTerms.BATCH: states[0].shape[0]",
        RECURRENT,
        "test_updates_are_those_of_torchs_cell_step_by_step[LSTM-None]",
    ),
    Defect(
        "count no time steps as tokens",
        "torch/functions/recurrent.py",
        "LossTerms.TOKENS: N",
        "LossTerms.TOKENS: states[0].shape[1]",
        RECURRENT,
        "test_updates_are_those_of_a_cell_over_time[LSTM-time first-tokens]",
    ),
    Defect(
        "run no direction backward",
        "torch/functions/recurrent.py",
        "-1 if at % directions else 1",
        "1",
        RECURRENT,
        "test_updates_are_those_of_a_cell_over_time[LSTM-time first-batch]",
    ),
    Defect(
        "drop nothing between recurrent layers",
        "torch/functions/recurrent.py",
        "F.dropout(x, dropout, train)",
        "x",
        RECURRENT,
        "test_dropout_between_layers_is_that_of_the_plain_model",
    ),
    Defect(
        "overlook the scale of a smoothed cross-entropy",
        "torch/user_warnings.py",
        "return 1 / float(slope)",
        "return None",
        SURROUNDINGS,
        "test_a_wrong_scale_is_recognised_by_the_errors_of_usual_losses",
    ),
    Defect(
        "take soft targets of two classes for labels",
        "torch/user_warnings.py",
        ".all() and ((c - of_class).abs() <= 1e-3 * c)",
        "",
        SURROUNDINGS,
        "test_usual_losses_cause_no_warning",
    ),
    Defect(
        "take a squared error for half of one",
        "torch/user_warnings.py",
        "return 2 * divisor, outputs",
        "return divisor / 2, outputs",
        SURROUNDINGS,
        "test_a_wrong_scale_is_recognised_by_the_errors_of_usual_losses",
    ),
    Defect(
        "let states diverge",
        "torch/methods/runs.py",
        "if not all(map(math.isfinite, (scale, last, *F))):",
        "if False:",
        DIVERGENCE,
    ),
    Defect(
        "let states move on",
        "torch/methods/runs.py",
        "growing = len(moves) > 1 and",
        "growing = False and",
        DIVERGENCE,
    ),
    Defect(
        "let the energy rise",
        "torch/methods/runs.py",
        "(F and F[1] > F[0] +",
        "(F and F[1] < 0 *",
        DIVERGENCE,
    ),
    Defect(
        "take any configuration for a run's",
        "lab/runs/files.py",
        "plain.keys() >= _JSON_KEYS[path.name]",
        "True",
        FOLDERS,
    ),
    Defect(
        "let fits in threads mix",
        "lab/estimator.py",
        "with _turn, preserve_threads(), torch",
        "with preserve_threads(), torch",
        ESTIMATOR,
    ),
    Defect(
        "leave torch's random state changed",
        "lab/estimator.py",
        "fork_rng(devices,",
        "fork_rng(devices, enabled=False,",
        ESTIMATOR,
    ),
    Defect(
        "catch Ctrl-C in a fit",
        "lab/estimator.py",
        "self.stop = _Unstopped()",
        "pass",
        ESTIMATOR,
    ),
    Defect(
        "count held-out samples in a batch",
        "lab/estimator.py",
        "samples - (config.validation or 0)",
        "samples",
        ESTIMATOR,
    ),
    Defect(
        "note the code of a fit in the cache",
        "lab/estimator.py",
        'tuple((name, "") for name in code_files),',
        "(),",
        ESTIMATOR,
    ),
    Defect(
        "pickle the first weights",
        "lab/estimator.py",
        "(*self._builds, self.network.state_dict())",
        "(*self._builds, {k: v * 0 for k, v in self.network.state_dict().items()})",
        ESTIMATOR,
    ),
    Defect(
        "keep the labels of a failed fit",
        "lab/estimator.py",
        "classes, indices = np.unique(",
        "classes, indices = self.classes_, _ = np.unique(",
        ESTIMATOR,
    ),
    Defect(
        "draw the points of a search by the dataset's path",
        "lab/comparison/search.py",
        "np.random.default_rng(number)",
        'np.random.default_rng([number, *self.name.encode("utf-8")])',
        SEARCH,
    ),
    Defect(
        "score a diverged trial like any other",
        "lab/comparison/search.py",
        "            return WORST",
        "            return 0.0, 0.0",
        SEARCH,
    ),
    Defect(
        "stop trials below the largest score",
        "lab/comparison/search.py",
        "max(scores) < statistics.median(best)",
        "max(scores) < max(best)",
        SEARCH,
    ),
    Defect(
        "draw more settings than trials",
        "lab/comparison/search.py",
        "if len(known) < self.experiment.trials:",
        "if True:",
        SEARCH,
    ),
    Defect(
        "stop no trial early",
        "lab/comparison/job.py",
        "if self.stop and self.done < self.total",
        "if not self.stop and self.done < self.total",
        SEARCH,
    ),
    Defect(
        "report every best trial at an end as one at the edge",
        "lab/comparison/space.py",
        "if sum(a > b for a, b in pairs) > sum(a < b for a, b in pairs):",
        "if pairs:",
        SEARCH,
    ),
    Defect(
        "accept depths that no network uses",
        "lab/comparison/grid.py",
        "if self.depths and all(",
        "if False and all(",
        GRID,
    ),
    Defect(
        "accept a learning rate that no rule uses",
        "lab/comparison/grid.py",
        "for name in (changed(self).keys() | self.other_settings.keys()) & set(STEP):",
        "for name in set[str]():",
        GRID,
    ),
    Defect(
        "accept options of a search without trials",
        "lab/comparison/grid.py",
        "idle = dict.fromkeys(changed(self.options),",
        "idle = dict.fromkeys((),",
        GRID,
    ),
    Defect(
        "choose settings although a trial was refused",
        "lab/comparison/schedule.py",
        "if refused or len(ended)",
        "if len(ended)",
        COMPARE,
    ),
    Defect(
        "report another grid than the folder's",
        "lab/cli/compare.py",
        "        if given:",
        "        if False:",
        COMPARE,
    ),
    Defect(
        "succeed although every run failed",
        "lab/cli/compare.py",
        "if comparison.failure:",
        "if False:",
        COMPARE,
    ),
    Defect(
        "forget the earlier comparisons of a folder",
        "lab/comparison/api.py",
        "for one in grids if one != grid]",
        "for one in ()]",
        COMPARE,
    ),
    Defect(
        "let new processes import the caller's main module",
        "lab/comparison/pool.py",
        'sys.modules["__main__"] = types.ModuleType("__main__")',
        'assert types.ModuleType("__main__")',
        COMPARE,
    ),
    Defect(
        "take any file for a run's",
        "lab/runs/files.py",
        "any(mark in head for mark in (*_MARKS, checkpoint.MAGIC))",
        "True",
        FOLDERS,
    ),
    Defect(
        "train with more threads than are recorded",
        "lab/training/session.py",
        "torch.set_num_threads(threads)",
        "torch.set_num_threads(available)",
        THREADS,
    ),
    Defect(
        "leave a run's threads to the caller",
        "lab/training/threads.py",
        "        torch.set_num_threads(before)",
        "        pass",
        THREADS,
    ),
    Defect(
        "lengthen a run whose schedule depends on its length",
        "lab/training/lengthen.py",
        'config.schedule != "constant"',
        "False",
        LENGTHS,
    ),
    Defect(
        "send a resumed run's metrics to a new run of the tracker",
        "lab/runs/trackers.py",
        "id=self.run, resume",
        "id=None, resume",
        TRACKED,
    ),
    Defect(
        "let a name control the terminal",
        "lab/cli/terminal.py",
        'c in "\\n\\t" else',
        "True else",
        CONTROLS,
    ),
)


OPTIONS = ["-x", "-q", "-m", "not slow", "-p", "no:cacheprovider", "--tb=no"]
FORKS = sys.platform == "linux"  # elsewhere a library may not survive a fork
LOADED = """import hypothesis, lightning_fabric, matplotlib.pyplot, optuna, scipy.stats, sklearn
import tensorboardX, torch._dynamo, transformers, tyro"""
"""What a process loads once for all tests: what takes long, but nothing that loads the package."""

package: Path
"""The copy of the package that this process breaks and tests."""

options: list[str]
"""The options with which this process runs pytest."""


def set_up(folder: Path, loaded: str, more: Sequence[str]) -> None:
    """Copy the package for this process, and load what the tests need besides."""
    global package, options
    options = [*OPTIONS, *more]
    sys.path[0] = str(ROOT)  # as for `python -m pytest`; the folder of this file has a `torch`
    package = folder / str(os.getpid()) / "lra"
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "src" / "lra", package, ignore=ignored)
    # Byte code with a hash of its source, as stale byte code might hide a defect.
    hashed = py_compile.PycInvalidationMode.CHECKED_HASH
    compileall.compile_dir(package, quiet=1, invalidation_mode=hashed)
    os.chdir(ROOT)
    sys.path.insert(1, str(package.parent))
    # conftest.py checks that `lra` is the copy under test.
    os.environ |= dict.fromkeys(("PYTHONPATH", "LRA_UNDER_TEST"), str(package.parent))
    if FORKS:
        imports = package.parent / "test_nothing.py"
        imports.write_text(loaded)
        with contextlib.redirect_stdout(io.StringIO()):  # pytest loads its plugins, too
            pytest.main([*options, "--collect-only", str(imports)])
        assert "lra" not in sys.modules


def run_tests(tests: list[str]) -> tuple[int, str]:
    """Run tests in a new process, and return pytest's exit status and output."""
    with tempfile.TemporaryFile("w+") as output:
        if FORKS:
            child = os.fork()
            if not child:
                status = int(pytest.ExitCode.INTERNAL_ERROR)
                try:
                    os.dup2(output.fileno(), 1)
                    os.dup2(output.fileno(), 2)
                    status = pytest.main([*options, *tests])
                    sys.stdout.flush()
                finally:
                    os._exit(status)
            status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        else:
            command = [sys.executable, "-m", "pytest", *options, *tests]
            status = subprocess.run(command, stdout=output, stderr=output, check=False).returncode
        output.seek(0)
        return status, output.read()


def attempt(defect: Defect) -> tuple[bool, str]:
    """Apply a defect, run the tests, and undo it; return whether it was caught, and details."""
    path = package / defect.file
    text = path.read_text()
    if text.count(defect.right) != 1:
        return False, f"{defect.right!r} is {text.count(defect.right)} times in {path.name}"
    mutated = text.replace(defect.right, defect.wrong)
    compile(mutated, str(path), "exec")
    path.write_text(mutated)
    try:
        status, output = run_tests(defect.nodes)
    finally:
        path.write_text(text)
    if status == pytest.ExitCode.OK:
        return False, f"no test of {' '.join(defect.nodes)} noticed"
    if status != pytest.ExitCode.TESTS_FAILED:
        return False, f"the tests did not run:\n{output}"
    failed = re.search(r"^(?:FAILED|ERROR) ([^\s\[]+)", output, re.MULTILINE)
    return True, failed[1] if failed else output


def timed(function: Callable[[T], tuple[R, str]], argument: T) -> tuple[R, str, float]:
    """Return what a function returns, and the seconds that it took."""
    started = time.perf_counter()
    return *function(argument), time.perf_counter() - started


def main(
    defects: Sequence[Defect] = DEFECTS, loaded: str = LOADED, more: Sequence[str] = ()
) -> int:
    """Try every defect that was asked for, with some modules loaded and more options of pytest."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", nargs="+", metavar="WORD", help="defects with such a word")
    parser.add_argument(
        "--part",
        nargs=2,
        type=int,
        metavar=("K", "N"),
        default=(0, 1),
        help="every Nth defect, from the Kth on, counted from 0",
    )
    parser.add_argument("--list", action="store_true", help="list the defects and stop")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="tries at once")
    arguments = parser.parse_args()
    chosen = [
        defect
        for defect in defects
        if not arguments.only or any(word in defect.name for word in arguments.only)
    ][arguments.part[0] :: arguments.part[1]]
    if arguments.list or not chosen:
        print("\n".join(f"{d.file}: {d.name}" for d in defects))
        return 0 if arguments.list else 1
    files: dict[str, set[str]] = {}
    for defect in chosen:
        files.setdefault(defect.tests, set()).update(defect.nodes)
    with (
        tempfile.TemporaryDirectory() as folder,
        concurrent.futures.ProcessPoolExecutor(
            arguments.jobs,
            multiprocessing.get_context("spawn"),
            set_up,
            (Path(folder), loaded, more),
        ) as pool,
    ):
        os.environ |= {  # of the pool's processes
            "HYPOTHESIS_PROFILE": "brief",
            "OMP_NUM_THREADS": "1",
            "PYTHONDONTWRITEBYTECODE": "1",
            "TMPDIR": folder,
        }
        sound = pool.map(functools.partial(timed, run_tests), map(sorted, files.values()))
        for tests, (status, output, took) in zip(files, sound, strict=True):
            if status:
                pool.shutdown(cancel_futures=True)
                print(f"{tests} fails without any defect:\n{output}")
                return 1
            print(f"{tests:65} {took:5.1f} s  passes without a defect", flush=True)
        amiss = 0
        tries = pool.map(functools.partial(timed, attempt), chosen)
        for defect, (caught, what, took) in zip(chosen, tries, strict=True):
            amiss += not caught
            by = "" if defect.test else f" by {what}"
            verdict = f"caught{by}" if caught else f"SURVIVED: {what}"
            print(f"{defect.file:28} {defect.name:36} {took:5.1f} s  {verdict}", flush=True)
    print(f"{len(chosen) - amiss} of {len(chosen)} defects caught")
    return 1 if amiss else 0


if __name__ == "__main__":
    sys.exit(main())

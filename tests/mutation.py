"""Break a copy of the core, one line at a time, and see that the tests notice each defect.

    python tests/mutation.py            # all defects, about two minutes
    python tests/mutation.py --only beta padding
    python tests/mutation.py --list

The checkout itself is never touched. Exits 1 where a defect goes unnoticed, where the line that it
replaces is no longer there, or where the tests fail without any defect.
"""

import argparse
import concurrent.futures
import os
import queue
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")

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
PSEUDOCODE = "tests/torch/test_against_pseudocode.py"
CODING = "tests/torch/test_predictive_coding.py"
EQUILIBRIUM = "tests/torch/test_equilibrium_propagation.py"
COMPILED = "tests/torch/test_compile_step.py"
COMPILED_RUNS = "tests/lab/test_compiled_runs.py"
TARGETS = "tests/torch/test_target_propagation.py"
CHECKS = "tests/torch/test_check_methods.py"
BIOTORCH = "tests/torch/test_biotorch.py"
TOGETHER = "tests/torch/test_ensemble.py"
UNITS = "tests/torch/test_activations.py"
PRODUCTS = "tests/torch/test_flops.py"


@dataclass(frozen=True)
class Defect:
    """A part of one line of a file of the package, what to put there, and which tests must fail."""

    name: str
    file: str
    right: str
    wrong: str
    tests: str


DEFECTS = (
    Defect(
        "believe tensors under vmap that nothing comes back to them",
        "torch/ops/ops.py",
        "while transforming() and torch._C._functorch.is_batchedtensor(x):",
        "while False:",
        MACHINERY,
    ),
    Defect(
        "half of a two-sided difference, whole",
        "crossing.py",
        "scale /= 2",
        "pass",
        AXES,
    ),
    Defect(
        "forget that a swift function is half of tanh",
        "torch/swift.py",
        "(_sigmoid, _sigmoid_, 2.0)",
        "(_sigmoid, _sigmoid_, 1.0)",
        UNITS,
    ),
    Defect(
        "forget half of tanh where the local loss bends",
        "crossing.py",
        "self.local_loss.derivative(scale * e, xp)",
        "self.local_loss.derivative(e, xp)",
        AXES,
    ),
    Defect(
        "compare the target of a swift function with an output of tanh",
        "torch/ops/ops.py",
        "z = f(h) if crossing.compares_output else None",
        "z = z if crossing.compares_output else None",
        UNITS,
    ),
    Defect(
        "write over an output that is compared with a target",
        "crossing.py",
        "xp)), False",
        "xp)), over",
        AXES,
    ),
    Defect(
        "turn a difference about and forget its sign",
        "crossing.py",
        "z, -factor",
        "z, factor",
        AXES,
    ),
    Defect(
        "have users' crossings write over what they read",
        "torch/ops/ops.py",
        "e = crossing.error(unit.phi, h,",
        "e = crossing.error(unit.over or unit.phi, h,",
        UNITS,
    ),
    Defect(
        "write over an error that came from elsewhere",
        "torch/ops/autograd.py",
        "not (last or observer.watcher)",
        "not observer.watcher",
        UNITS,
    ),
    Defect(
        "forget how far a spare error is taken",
        "crossing.py",
        "d *= step",
        "pass",
        AXES,
    ),
    Defect(
        "write over tensors of users' classes",
        "torch/ops/ops.py",
        "here = type(h) is Tensor and not",
        "here = not",
        UNITS,
    ),
    Defect(
        "take any approximation of gelu for the exact one",
        "torch/swift.py",
        "approximate=module.approximate",
        'approximate="none"',
        UNITS,
    ),
    Defect(
        "take a target the other way in one operation",
        "crossing.py",
        "else h.sub(d, alpha=step)",
        "else h.add(d, alpha=step)",
        AXES,
    ),
    Defect(
        "send errors through what E differs from W by",
        "torch/ops/ops.py",
        "E = kept[2] + E",
        "E = E + 0 * kept[2]",
        SHARE,
    ),
    Defect(
        "share what a parameter's own layer alone does not move",
        "torch/share.py",
        "if uses[id(W)] > 1:",
        "if False:",
        SHARE,
    ),
    Defect(
        "forget decay in shared feedback",
        "torch/share.py",
        'torch._foreach_mul_([D for _, D in pairs], 1 - group["lr"] * group["weight_decay"])',
        "pass",
        SHARE,
    ),
    Defect(
        "forget the momentum of decay",
        "torch/share.py",
        'v = decay if v is None else momentum * v + (1 - group["dampening"]) * decay',
        "v = decay",
        SHARE,
    ),
    Defect(
        "forget that D has shrunk",
        "torch/share.py",
        "state[MOMENTUM] = v / by",
        "state[MOMENTUM] = v",
        SHARE,
    ),
    Defect(
        "load E for what it differs from W by",
        "torch/layers/state.py",
        "sign = -1 if kept == offset else 1",
        "sign = 0",
        SHARE,
    ),
    Defect(
        "mirror onto the offset",
        "torch/mirror.py",
        "kept.lerp_(E - draw.W if offset else E, float(step))",
        "kept.lerp_(E, float(step))",
        SHARE,
    ),
    Defect(
        "let attaching inverses move the statistics of batch norm",
        "torch/methods/target_propagation.py",
        "with untouched(model):",
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
        "return gap(taken(net), {key: 2 * update",
        "return gap(once, {key: 1 * update",
        CHECKS,
    ),
    Defect(
        "check a limit where states have not settled",
        "torch/testing/methods.py",
        '"free_steps": 100, "nudged_steps": 100',
        '"free_steps": 5, "nudged_steps": 5',
        CHECKS,
    ),
    Defect(
        "direct errors the wrong way",
        "torch/ops/routing.py",
        "link.layout.back(e @ known[E],",
        "link.layout.back(-e @ known[E],",
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
        "_put_into(self.place, given).backward",
        "self.place.backward",
        TOGETHER,
    ),
    Defect(
        "forget that a number is one",
        "torch/ensemble/compatibility.py",
        "found[path] = torch.tensor",
        "found[path + '_'] = torch.tensor",
        TOGETHER,
    ),
    Defect(
        "hand out the last updates only",
        "torch/ensemble/stack.py",
        "update if member.grad is None else member.grad + update",
        "update",
        TOGETHER,
    ),
    Defect(
        "hand out updates in another order",
        "torch/ensemble/stack.py",
        "stack.grad.unbind(0), strict=True",
        "stack.grad.flip(0).unbind(0), strict=True",
        TOGETHER,
    ),
    Defect(
        "leave moved parameters where they are",
        "torch/ensemble/stack.py",
        "if not self._lies():",
        "if not len(self.tensor):",
        TOGETHER,
    ),
    Defect(
        "send errors of plain layers nowhere",
        "torch/ensemble/linear.py",
        "W.detach())",
        "W.detach() * 0)",
        TOGETHER,
    ),
    Defect(
        "let computed feedback differ",
        "torch/ensemble/compatibility.py",
        '(axis == "feedback" and not computes)',
        'axis == "feedback"',
        TOGETHER,
    ),
    Defect(
        "take no look at classes again",
        "torch/ensemble/__init__.py",
        "if self._stacks is None or not same:",
        "if self._stacks is None:",
        TOGETHER,
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
        "(value + run.energy / N).backward",
        "(value + run.energy).backward",
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
        "buffer.copy_(kept)",
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
        "targets without the difference",
        "torch/methods/target_propagation.py",
        "y = below - (inverse(z) - inverse(y))",
        "y = inverse(y)",
        TARGETS,
    ),
    Defect(
        "invert strides short",
        "torch/methods/target_propagation.py",
        "_left_over(layer, shapes[0], shapes[1])",
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
        "let local losses reach lower layers",
        "torch/methods/target_propagation.py",
        "read.append(z.detach().requires_grad_())",
        "read.append(z)",
        TARGETS,
    ),
    Defect(
        "hear again what is computed again",
        "torch/ops/routing.py",
        "if _backward_runs():",
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
        "torch/layers/state.py",
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
        "use what was changed since",
        "torch/ops/ops.py",
        " and origin.version == z._version",
        "",
        MEMORY,
    ),
    Defect(
        "let the graph hold itself",
        "torch/functions/interceptor.py",
        "    leaves[at] = None",
        "    pass",
        MEMORY,
    ),
    Defect(
        "mirror what is never used",
        "inits.py",
        "told / (uses + (uses == 0))",
        "told / uses",
        "tests/torch/test_mirror.py",
    ),
    Defect(
        "mirror the size of the noise",
        "inits.py",
        "uses + used",
        "uses + 1",
        "tests/torch/test_mirror.py",
    ),
    Defect(
        "one side for two",
        "crossing.py",
        "e, less = phi(h + move), phi(h - move)",
        "e, less = phi(h + move), z",
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
    ),
    Defect(
        "mirror what was programmed",
        "torch/layers/state.py",
        "            y = f(x, W)",
        "            y = x @ W.T",
        "tests/torch/test_black_box.py",
    ),
    Defect(
        "mirror what a line gives for nothing",
        "torch/layers/state.py",
        "(y - y.mean(0)).T @ x",
        "y.T @ x",
        "tests/torch/test_black_box.py",
    ),
    Defect(
        "measure a noisy unit anew",
        "torch/layers/activation.py",
        "kind = Measured if isinstance(self, Evaluated) else Nonlinearity",
        "kind = Nonlinearity",
        "tests/torch/test_black_box.py",
    ),
    Defect(
        "ask for feedback where a device sees the input",
        "torch/layers/base.py",
        "if self.sees_input or self._lra.link_of()",
        "if self._lra.link_of()",
        "tests/torch/test_black_box.py",
    ),
    Defect(
        "targets of what was drawn",
        "torch/layers/activation.py",
        "mean = Taught(torch.sigmoid",
        "mean = Taught(self.phi",
        "tests/torch/test_activations.py",
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
        "e, less, over = z, phi(_less(h, step, d, spare, xp)), False",
        "e, less, over = phi(_less(h, step, d, spare, xp)), z, False",
        AXES,
    ),
    Defect(
        "drop the gain",
        "crossing.py",
        "if self.normalized else self.gain)",
        "if self.normalized else 1)",
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
        "multiply(rows, E).view",
        "multiply(rows, E.t()).view",
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
        "offset=offset), (W, self.bias, E)",
        "offset=offset), (W, self.bias, W)",
        LAYERS,
    ),
    Defect(
        "no feedback in plain states",
        "torch/layers/base.py",
        "state_dict.setdefault(name, kept)",
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
        "place.over(x)",
        "place.over(x.clone())",
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
        "E is not seen as W is",
        "torch/functions/interceptor.py",
        "kept = None if kept is None else view(kept)",
        "pass",
        FUNCTION,
    ),
    Defect(
        "no feedback in products by function",
        "torch/ops/ops.py",
        "given[self.at] = E",
        "pass",
        FUNCTION,
    ),
    Defect(
        "functions bend by their derivative",
        "torch/functions/interceptor.py",
        "if func in UNITS or func in self.layer.units:",
        "if False:",
        FUNCTION,
    ),
    Defect(
        "what is skipped is followed",
        "torch/functions/module.py",
        "left.depth += 1",
        "pass",
        FUNCTION,
    ),
    Defect(
        "a compiled step takes no step",
        "torch/compiled.py",
        "self._optimizer.step()",
        "pass",
        COMPILED,
    ),
    Defect(
        "a compiled step leaves old updates",
        "torch/compiled.py",
        "parameter.grad = None",
        "pass",
        COMPILED,
    ),
    Defect(
        "a compiled step wants all parameters reached",
        "torch/compiled.py",
        "allow_unused=True",
        "allow_unused=False",
        COMPILED,
    ),
    Defect(
        "a compiled step looks at the model's parameters alone",
        "torch/compiled.py",
        "(*self._model.parameters(), *held)",
        "(*self._model.parameters(),)",
        COMPILED,
    ),
    Defect(
        "a compiled step passes hooks by",
        "torch/compiled.py",
        "parameter._backward_hooks or parameter._post_accumulate_grad_hooks",
        "False",
        COMPILED,
    ),
    Defect(
        "compile anew after each look at errors",
        "torch/user_warnings.py",
        "torch.compiler.is_compiling() or record.looked >= _PASSES",
        "record.looked >= _PASSES or torch.compiler.is_compiling()",
        COMPILED,
    ),
    Defect(
        "compile anew after an eager pass of a wiring",
        "torch/ops/routing.py",
        "return self._traced",
        "return self._waiting.setdefault(0, {})",
        COMPILED,
    ),
    Defect(
        "make small products by oneDNN too",
        "torch/products.py",
        "m * k * n >= LEAST",
        "m * k * n > 0",
        COMPILED,
    ),
    Defect(
        "make products of tensors in a transform by oneDNN",
        "torch/products.py",
        "and not transforming()",
        "",
        PRODUCTS,
    ),
    Defect(
        "keep products from who counts them",
        "torch/products.py",
        "and not torch._C._len_torch_dispatch_stack()",
        "",
        PRODUCTS,
    ),
    Defect(
        "have one thread copy what many multiply",
        "torch/products.py",
        "COLUMNS * threads",
        "COLUMNS",
        PRODUCTS,
    ),
    Defect(
        "share out products among threads that are too small for them",
        "torch/products.py",
        "EAGER * threads",
        "EAGER",
        PRODUCTS,
    ),
    Defect(
        "leave the first layer's update to torch",
        "torch/layers/sequential.py",
        "(inside_run or not _sees_input(layer))",
        "True",
        PRODUCTS,
    ),
    Defect(
        "let an error come to a layer that sees the input",
        "torch/layers/sequential.py",
        "run[0].check_input(x, 1)",
        "pass",
        PRODUCTS,
    ),
    Defect(
        "multiply anew for the way back of z W",
        "torch/functions/tables.py",
        "_BY_COLUMNS.get(func) == len(args)",
        "False",
        PRODUCTS,
    ),
    Defect(
        "take W z for z W",
        "torch/functions/tables.py",
        "and args[-1] is W",
        "",
        FUNCTION,
    ),
    Defect(
        "sum a bias that each sample has of its own",
        "torch/functions/tables.py",
        "and (bias is None or bias.shape == W.shape[1:])",
        "",
        FUNCTION,
    ),
    Defect(
        "forget the bias of a product by oneDNN",
        "torch/products.py",
        "a, b.t(), bias,",
        "a, b.t(), None,",
        COMPILED,
    ),
    Defect(
        "leave products with a bias to torch",
        "torch/products.py",
        "elif node.target is _aten.addmm.default:",
        "elif False:",
        COMPILED,
    ),
    Defect(
        "evaluate tanh of an output anew for its target",
        "torch/rational.py",
        "if h not in found:",
        "if True:",
        COMPILED,
    ),
    Defect(
        "take tanh in double precision for a rational function too",
        "torch/rational.py",
        "value.dtype != torch.float32 or",
        "",
        COMPILED,
    ),
    Defect(
        "take targets of sigmoid in compiled steps",
        "torch/ops/ops.py",
        " and not compiling:",
        ":",
        COMPILED,
    ),
    Defect(
        "compile a short run",
        "lab/learning.py",
        "steps < _WORTH",
        "steps < 0",
        COMPILED_RUNS,
    ),
    Defect(
        "compile for the last batch",
        "lab/training.py",
        "batch.size < self.config.batch_size",
        "False",
        COMPILED_RUNS,
    ),
)


def run_tests(package: Path, *tests: str) -> subprocess.CompletedProcess[str]:
    """Run tests against a copy of the package; conftest.py checks that it is this one."""
    environment = os.environ | {
        "PYTHONPATH": str(package.parent),
        "PYTHONDONTWRITEBYTECODE": "1",  # or a stale byte code might hide a defect
        "LRA_UNDER_TEST": str(package.parent),
        "OMP_NUM_THREADS": "1",
        "HYPOTHESIS_PROFILE": "brief",
    }
    options = ["-x", "-q", "-m", "not slow", "-p", "no:cacheprovider", "--tb=no"]
    return subprocess.run(
        [sys.executable, "-m", "pytest", *options, *tests],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


def attempt(defect: Defect, package: Path) -> str:
    """Apply a defect, run the tests, and undo it; say what is amiss, or nothing."""
    path = package / defect.file
    text = path.read_text()
    if text.count(defect.right) != 1:
        return f"{defect.right!r} is {text.count(defect.right)} times in {defect.file}, not once"
    mutated = text.replace(defect.right, defect.wrong)
    compile(mutated, str(path), "exec")
    path.write_text(mutated)
    try:
        ran = run_tests(package, defect.tests)
    finally:
        path.write_text(text)
    if ran.returncode == 0:
        return f"no test of {defect.tests} noticed"
    if ran.returncode != 1:
        return f"the tests did not run:\n{ran.stdout}{ran.stderr}"
    return ""


def main() -> int:
    """Try every defect that was asked for."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", nargs="+", metavar="WORD", help="defects with such a word")
    parser.add_argument("--list", action="store_true", help="list the defects and stop")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="tries at once")
    arguments = parser.parse_args()
    chosen = [
        defect
        for defect in DEFECTS
        if not arguments.only or any(word in defect.name for word in arguments.only)
    ]
    if arguments.list or not chosen:
        print("\n".join(f"{d.file}: {d.name}" for d in DEFECTS))
        return 0 if arguments.list else 1
    with (
        tempfile.TemporaryDirectory() as folder,
        concurrent.futures.ThreadPoolExecutor(arguments.jobs) as pool,
    ):
        copies: queue.SimpleQueue[Path] = queue.SimpleQueue()  # who tries takes one for the time
        for job in range(arguments.jobs):
            copies.put(Path(folder) / str(job) / "lra")
            shutil.copytree(
                *(ROOT / "src" / "lra", Path(folder) / str(job) / "lra"),
                ignore=shutil.ignore_patterns("__pycache__"),
            )

        def alone(run: Callable[[Path], T]) -> tuple[T, str]:
            package, started = copies.get(), time.perf_counter()
            try:
                return run(package), f"{time.perf_counter() - started:5.1f} s"
            finally:
                copies.put(package)

        files = sorted({defect.tests for defect in chosen})
        sound = [pool.submit(alone, lambda p, tests=tests: run_tests(p, tests)) for tests in files]
        for tests, future in zip(files, sound, strict=True):
            ran, took = future.result()
            if ran.returncode:
                pool.shutdown(cancel_futures=True)
                print(f"{tests} fails without any defect:\n{ran.stdout}{ran.stderr}")
                return 1
            print(f"{tests:65} {took}  passes without a defect", flush=True)
        amiss = 0
        tries = [pool.submit(alone, lambda p, defect=d: attempt(defect, p)) for d in chosen]
        for defect, found in zip(chosen, tries, strict=True):
            trouble, took = found.result()
            amiss += bool(trouble)
            verdict = f"SURVIVED: {trouble}" if trouble else "caught"
            print(f"{defect.file:28} {defect.name:36} {took}  {verdict}", flush=True)
    print(f"{len(chosen) - amiss} of {len(chosen)} defects caught")
    return 1 if amiss else 0


if __name__ == "__main__":
    sys.exit(main())

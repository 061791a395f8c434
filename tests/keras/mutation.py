"""Break lra.keras in a few ways and check that its tests fail: python tests/keras/mutation.py

KERAS_BACKEND names the backend. Every mutant is a copy of the package in a temporary folder.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

TESTS = Path(__file__).parent
ROOT = TESTS.parent.parent
UPDATES, LAYERS = "test_keras_updates.py", "test_keras_layers.py"
MACHINERY, CONVERT = "test_keras_machinery.py", "test_keras_convert.py"
DIFFERENCES, FEEDBACK = "test_keras_differences.py", "test_keras_feedback.py"
LOSSES, STEPS = "test_keras_losses.py", "test_keras_steps.py"
COVERAGE = "test_keras_coverage.py"

MUTANTS = [  # what breaks, file, old text, new text, the tests that have to fail
    (
        "drop N",
        "gradients.py",
        "n = count_terms(self.loss_terms, tuple(ops.shape(h)))",
        "n = 1",
        [UPDATES, "-k", "fit_descends or millionth"],
    ),
    (
        "send errors through W, not E",
        "gradients.py",
        "down = W if E is None else rest[-1]",
        "down = W",
        [UPDATES, "-k", "fit_descends or millionth"],
    ),
    (
        "ignore gamma",
        "gradients.py",
        "feedback.update(dW) if learned",
        "dW if learned",
        [UPDATES, "-k", "fit_descends or compiled"],
    ),
    (
        "ignore the activation",
        "gradients.py",
        "            e = activation.error(h, z, e)\n",
        "            del h, z\n",
        [UPDATES, "-k", "fit_descends or millionth"],
    ),
    (
        "cross in 16 bits",
        "gradients.py",
        'SIXTEEN_BITS = ("float16", "bfloat16")',
        "SIXTEEN_BITS = ()",
        [DIFFERENCES, "-k", "sixteen_bits"],
    ),
    (
        "pass no output to a crossing of the user in 16 bits",
        "gradients.py",
        "z = self.phi(h) if self._needs_output else None",
        "z = None",
        [DIFFERENCES, "-k", "gets_the_output"],
    ),
    (
        "subtract where a closed form is known",
        "closed_forms.py",
        "    return build(f, **settings)\n",
        "    return Phi(f)\n",
        [DIFFERENCES, "-k", "deep_network and run_eagerly"],
    ),
    (
        "take the settings of torch, not of Keras",
        "closed_forms.py",
        "settings = defaults | given",
        "settings = given",
        [DIFFERENCES, "-k", "exact_and and leaky_relu"],
    ),
    (
        "take the settings of keras.activations for keras.ops",
        "closed_forms.py",
        '"tanh" if approximate else "none"',
        '"none"',
        [DIFFERENCES, "-k", "exact_and and gelu"],
    ),
    (
        "ignore the settings of activation layers",
        "closed_forms.py",
        "given = {setting: getattr(layer, setting) for setting in settings}",
        "given = {}",
        [DIFFERENCES, "-k", "exact_and and (ReLU or ELU)"],
    ),
    (
        "ignore the threshold of ReLU",
        "closed_forms.py",
        "    if threshold != 0:\n",
        "    if False:\n",
        [DIFFERENCES, "-k", "exact_and and threshold"],
    ),
    (
        "ignore the largest value of ReLU",
        "closed_forms.py",
        "    if max_value is not None:\n",
        "    if False:\n",
        [DIFFERENCES, "-k", "exact_and and most"],
    ),
    (
        "ignore the user's difference",
        "closed_forms.py",
        "    return found if callable(found) else None\n",
        "    return None\n",
        [DIFFERENCES, "-k", "users_difference"],
    ),
    (
        "cross PReLU with another slope",
        "layers/activation.py",
        "differences.leaky_relu(h, delta, xp, ops.cast(a, h.dtype))",
        "differences.leaky_relu(h, delta, xp, 2 * ops.cast(a, h.dtype))",
        [LAYERS, "-k", "prelu"],
    ),
    (
        "let custom layers stay on backprop inside another layer",
        "reasons.py",
        "return _OWN_ACTIVATION if hidden and not own_difference(phi) else",
        "return _OWN_ACTIVATION if False else",
        [DIFFERENCES, "-k", "without_a_difference"],
    ),
    (
        "turn the error that a convolution sends down",
        "layers/conv.py",
        "return adjoint(self.convolve, z, E, e, needs)",
        "return adjoint(self.convolve, z, -E, e, needs)",
        [LAYERS, "-k", "convolution_has"],
    ),
    (
        "save no feedback",
        "layers/base.py",
        "            store[str(i)] = variable.value\n",
        "            pass\n",
        [MACHINERY, "-k", "saved_model"],
    ),
    (
        "leave the feedback as it is where plain weights are loaded",
        "layers/base.py",
        "            self.redraw()\n            return\n",
        "            return\n",
        [FEEDBACK, "-k", "drawn_for_weights"],
    ),
    (
        "save weights under another name than the plain layer's",
        "layers/base.py",
        "            cls.__name__ = cls.plain.__name__\n",
        "            pass\n",
        [FEEDBACK, "-k", "load_from_plain and fa"],
    ),
    (
        "draw feedback before the weights are copied",
        "convert.py",
        "layer.feedback_slot.redraw()",
        "pass",
        [FEEDBACK, "-k", "unbiased"],
    ),
    (
        "ignore the size of the kernel",
        "layers/base.py",
        'return float(np.sqrt(np.mean(np.square(ops.convert_to_numpy(self.W), dtype="float64"))))',
        "return math.nan",
        [FEEDBACK, "-k", "as_large"],
    ),
    (
        "correlate noise with itself",
        "layers/base.py",
        "ops.matmul(ops.transpose(x), ops.matmul(x, rows))",
        "ops.matmul(ops.transpose(x), ops.matmul(x, 0 * rows + 1))",
        [FEEDBACK, "-k", "unbiased"],
    ),
    (
        "mirror at once, whatever the step",
        "mirror.py",
        "(1 - decay) * old + step * new",
        "new",
        [FEEDBACK, "-k", "towards"],
    ),
    (
        "grow with the rank",
        "layers/base.py",
        'self._draw("normal", scale * rank**-0.5, (inputs, rank), dtype)',
        'self._draw("normal", scale, (inputs, rank), dtype)',
        [FEEDBACK, "-k", "low_rank"],
    ),
    (
        "forget what was mirrored before",
        "mirror.py",
        "(1 - decay) * old + step * new",
        "(1 - step) * old + step * new",
        [FEEDBACK, "-k", "add_up"],
    ),
    (
        "count units without the kernel's size",
        "layers/base.py",
        "return units * int(math.prod(shape[:-2]))",
        "return units",
        [FEEDBACK, "-k", "glorots"],
    ),
    (
        "look at single operations only",
        "graph.py",
        "        while len(start) > 1 or not",
        "        while len(start) > 99 or not",
        [CONVERT, "-k", "nonlinear"],
    ),
    (
        "cross linear functions by the rule",
        "layers/elementwise.py",
        "        return not np.all(np.abs(z - line) <= 1e-5 * np.abs(z).max(0))\n",
        "        return bool(line.size)\n",
        [LAYERS, "-k", "linear_functions"],
    ),
    (
        "take functions that mix units for elementwise ones",
        "layers/elementwise.py",
        "    if not np.allclose(mixed, expected",
        "    if False and not np.allclose(mixed, expected",
        [LAYERS, "-k", "mix_elements"],
    ),
    (
        "take step functions for others",
        "layers/elementwise.py",
        "return at_steps if flat else",
        "return rule.crossing if flat else",
        [STEPS, "-k", "step_of_its_own"],
    ),
    (
        "drop the derivative of the surrogate",
        "activations.py",
        "ops.stop_gradient(z) + (s - ops.stop_gradient(s))",
        "ops.stop_gradient(z + (s - s))",
        [STEPS, "-k", "derivative_of_the_surrogate"],
    ),
    (
        "double nothing",
        "loss_checks.py",
        "np.concatenate([x, x], axis) if axis < x.ndim else x",
        "x",
        [LOSSES, "-k", "no_mean"],
    ),
    (
        "ignore weights of samples",
        "loss_checks.py",
        "        if weighted or any(",
        "        if any(",
        [LOSSES, "-k", "weights_are"],
    ),
    (
        "count skipped layers as covered",
        "coverage.py",
        "(weights if followed else left)[kind]",
        "weights[kind]",
        [COVERAGE, "-k", "skipped"],
    ),
    (
        "give the first layer feedback",
        "plan.py",
        "return frozenset(map(id, weights.values())) - fed",
        "return frozenset()",
        [CONVERT, "-k", "functional_model_is"],
    ),
    (
        "convert the output's activation",
        "plan.py",
        "return frozenset(id(call.layer) for _, call in calls) - hidden",
        "return frozenset()",
        [CONVERT, "-k", "activation_layers"],
    ),
]


def notices(folder: Path, tests: list[str]) -> bool:
    """Run tests on a copy of the package, and return whether they fail."""
    command = [sys.executable, "-m", "pytest", "-m", "", "-x", "-p", "no:cacheprovider"]
    done = subprocess.run(
        [*command, f"--confcutdir={TESTS}", str(TESTS / tests[0]), *tests[1:]],
        env={**os.environ, "PYTHONPATH": str(folder)},
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    if done.returncode not in (0, 1):
        raise SystemExit(f"pytest did not run: {done.stdout}{done.stderr}")
    return done.returncode == 1


def main() -> int:
    missed = []
    for what, file, old, new, tests in MUTANTS:
        with tempfile.TemporaryDirectory() as folder:
            shutil.copytree(ROOT / "src", folder, dirs_exist_ok=True)
            path = Path(folder) / "lra" / "keras" / file
            source = path.read_text()
            if source.count(old) != 1:
                raise SystemExit(f"{what}: {old!r} is not in {file} once")
            path.write_text(source.replace(old, new))
            noticed = notices(Path(folder), tests)
        print(f"{'noticed' if noticed else 'MISSED '}  {what}", flush=True)
        if not noticed:
            missed.append(what)
    return len(missed)


if __name__ == "__main__":
    sys.exit(main())

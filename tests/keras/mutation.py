"""Break lra.keras in a few ways, and see that its tests notice each: python tests/keras/mutation.py

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

MUTANTS = [  # what breaks, where, from, to, the tests that have to notice
    (
        "drop N",
        "backward.py",
        "n = count_terms(self.terms, tuple(ops.shape(h)))",
        "n = 1",
        [UPDATES, "-k", "fit_descends or millionth"],
    ),
    (
        "send errors through W, not E",
        "backward.py",
        "down = W if E is None else rest[-1]",
        "down = W",
        [UPDATES, "-k", "fit_descends or millionth"],
    ),
    (
        "ignore gamma",
        "backward.py",
        "feedback.update(dW) if learned",
        "dW if learned",
        [UPDATES, "-k", "fit_descends or compiled"],
    ),
    (
        "ignore the nonlinearity",
        "backward.py",
        "            e = nonlinearity.error(h, z, e)\n",
        "            del h, z\n",
        [UPDATES, "-k", "fit_descends or millionth"],
    ),
    (
        "cross in 16 bits",
        "backward.py",
        'SIXTEEN_BITS = ("float16", "bfloat16")',
        "SIXTEEN_BITS = ()",
        [MACHINERY, "-k", "bfloat16"],
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
        "            store[FEEDBACK] = self.feedback\n",
        "            pass\n",
        [MACHINERY, "-k", "saved_model"],
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
    """Run tests on a copy of the package, and tell whether they fail."""
    command = [sys.executable, "-m", "pytest", "-x", "-p", "no:cacheprovider"]
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

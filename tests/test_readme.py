"""The README's commands and code, the examples, and `import lra` work as described."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text("utf-8")


def run(
    *arguments: str, cwd: Path = ROOT, warnings: str = "error"
) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, "-W", warnings, *arguments],
        capture_output=True,
        text=True,
        cwd=cwd,
        env=environment,
        check=False,
    )


def test_ten_lines_of_the_readme_learn(tmp_path: Path) -> None:
    (first,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    done = run("-c", first, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout.split()[-1]) < 0.1


def test_tables_of_the_docs_match_the_code() -> None:
    done = run("docs/tables.py", "--check")
    assert done.returncode == 0, done.stderr


def test_accuracies_of_the_readme_are_the_studys() -> None:
    done = run("docs/front.py", "--check")
    assert done.returncode == 0, done.stderr


def test_readme_is_short() -> None:
    assert len(README.split()) <= 900


def test_readme_has_exactly_two_commands() -> None:
    (block,) = re.findall(r"^## Two commands.*?```sh\n(.*?)```", README, re.DOTALL | re.MULTILINE)
    first, second = block.strip().splitlines()
    assert first == 'pip install -c constraints.txt ".[lab]" && lra train mnist'
    assert second == 'pip install -c constraints.txt ".[dev]" && pytest'


def test_constraints_pin_exact_versions() -> None:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = [line for line in lines if line and not line.startswith("#")]
    assert all(re.fullmatch(r"[A-Za-z0-9_.-]+==[\w.]+", pin) for pin in pins)
    assert "torch==2.13.0" in pins


EXAMPLES = sorted(
    p.stem for p in ROOT.glob("examples/*.py") if not p.stem.startswith(("jax", "keras"))
)


PACKAGES = {
    "analog_simulator": "aihwkit_lightning",
    "spiking_digits": "snntorch",
    "spiking_events": "snntorch",
}
"""Packages that are no dependencies; .ci/run has them in a stage of its own."""

COUNTS = {
    "lightning_module": 1,
    "analog_drift": 9,
    "analog_simulator": 10,
    "spiking_digits": 6,
    "spiking_events": 6,
}
"""How many accuracies an example prints, if that is not two."""


@pytest.mark.slow
@pytest.mark.parametrize("example", EXAMPLES)
def test_examples_learn(example: str) -> None:
    if example in PACKAGES:
        pytest.importorskip(PACKAGES[example])
    warns = example in ("hugging_face_trainer", "lightning_module", *PACKAGES)  # libraries warn
    done = run(f"examples/{example}.py", warnings="default" if warns else "error")
    assert done.returncode == 0, done.stderr
    accuracies = [float(found) for found in re.findall(r"test accuracy ([\d.]+)%", done.stdout)]
    assert len(accuracies) == COUNTS.get(example, 2)
    unable = 2 if example == "analog_simulator" else 0  # autograd finds no slope in 8 levels
    assert min(sorted(accuracies)[unable:]) > 75.0


def test_without_torch_lra_imports_and_names_torch_as_missing() -> None:
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "import lra, lra.pseudocode\n"
        "assert lra.LRAE().feedback.gamma == 1.0\n"
        "try: lra.convert\n"
        "except ImportError as error: print(error)\n"
    )
    done = run("-c", code)
    assert done.returncode == 0, done.stderr
    assert "lra.convert needs PyTorch" in done.stdout
    assert "pip install 'lra-e[torch]'" in done.stdout


def test_importing_lra_loads_no_framework_and_no_workbench() -> None:
    code = "print([m for m in sys.modules if {*m.split('.')} & {'torch', 'keras', 'jax', 'lab'}])"
    done = run("-c", f"import lra, sys; {code}")
    assert done.stdout.strip() == "[]"


def test_every_public_name_loads_without_warnings() -> None:
    code = (
        "import lra\n"
        "for name in {*dir(lra)} - {'jax', 'keras'}: getattr(lra, name)\n"
        "try: lra.convrt\n"
        "except AttributeError as error: print(error)\n"
    )
    done = run("-c", code)
    assert done.returncode == 0, done.stderr
    assert "no attribute 'convrt'" in done.stdout

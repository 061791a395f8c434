"""The README, the examples and the bare import do what they say."""

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


def test_the_code_in_the_readme_learns(tmp_path: Path) -> None:
    first, _ = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    done = run("-c", first, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout.split()[-1]) < 0.1


def test_the_code_in_the_readme_converts_any_module(tmp_path: Path) -> None:
    _, second = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    script = tmp_path / "any.py"
    script.write_text(second)
    done = run(str(script))
    assert done.returncode == 0, done.stderr
    assert "100.0% of the weights follow the rule" in done.stdout


def test_the_tables_are_those_of_the_code() -> None:
    done = run("docs/tables.py", "--check")
    assert done.returncode == 0, done.stderr


def test_the_readme_has_exactly_two_commands() -> None:
    (block,) = re.findall(r"^## Two commands.*?```sh\n(.*?)```", README, re.DOTALL | re.MULTILINE)
    first, second = block.strip().splitlines()
    assert first == 'pip install -c constraints.txt ".[lab]" && lra train mnist'
    assert second == 'pip install -c constraints.txt ".[dev]" && pytest'


def test_every_pin_of_the_constraints_is_exact() -> None:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = [line for line in lines if line and not line.startswith("#")]
    assert all(re.fullmatch(r"[A-Za-z0-9_.-]+==[\w.]+", pin) for pin in pins)
    assert "torch==2.13.0" in pins


EXAMPLES = sorted(p.stem for p in ROOT.glob("examples/*.py") if not p.stem.startswith("keras"))


@pytest.mark.slow
@pytest.mark.parametrize("example", EXAMPLES)
def test_the_examples_learn(example: str) -> None:
    ours = example not in ("hugging_face_trainer", "lightning_module")  # they warn of their own
    done = run(f"examples/{example}.py", warnings="error" if ours else "default")
    assert done.returncode == 0, done.stderr
    accuracies = [float(found) for found in re.findall(r"test accuracy ([\d.]+)%", done.stdout)]
    assert len(accuracies) == (1 if example == "lightning_module" else 2)
    assert min(accuracies) > 75.0


def test_lra_imports_without_torch_and_says_what_is_missing() -> None:
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


def test_importing_lra_loads_neither_torch_nor_the_workbench() -> None:
    done = run(
        "-c", "import lra, sys; print([m for m in sys.modules if 'torch' in m or 'lab' in m])"
    )
    assert done.stdout.strip() == "[]"


def test_every_public_name_is_there_and_no_other_is_found() -> None:
    code = (
        "import lra\n"
        "for name in lra.__all__: getattr(lra, name)\n"
        "try: lra.convrt\n"
        "except AttributeError as error: print(error)\n"
    )
    done = run("-c", code)
    assert done.returncode == 0, done.stderr
    assert "no attribute 'convrt'" in done.stdout

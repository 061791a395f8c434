"""Small runs of the attacks in `benchmarks/attack.py`."""

import subprocess
import sys
from pathlib import Path

import pytest
from workbench import ENVIRONMENT

ATTACK = Path(__file__).parents[2] / "benchmarks" / "attack.py"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("files --count 140 --seed 7", "140 files, 0 faults (seed 7)"),
        ("kills --count 5 --seed 12", " runs, 0 faults (seed 12)"),
        ("compare --count 3 --seed 2", " each, 0 faults (seed 2)"),
    ],
    ids=["files", "kills", "compare"],
)
def test_an_attack_finds_nothing(words: str, expected: str) -> None:
    command = [sys.executable, str(ATTACK), *words.split()]
    done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert expected in done.stdout

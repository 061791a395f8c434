"""Small attacks by `benchmarks/attack.py`, as anyone may run large ones."""

import subprocess
import sys
from pathlib import Path

import pytest
from workbench import ENVIRONMENT

ATTACK = Path(__file__).parents[2] / "benchmarks" / "attack.py"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("files --count 140 --seed 7", "140 files, 0 faults (seed 7)"),
        ("kills --count 5 --seed 12", " runs, 0 faults (seed 12)"),
    ],
    ids=["files", "kills"],
)
def test_an_attack_finds_nothing(words: str, said: str) -> None:
    command = [sys.executable, str(ATTACK), *words.split()]
    done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert said in done.stdout

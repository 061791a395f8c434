"""The code on every page works as it stands: Python blocks run, commands parse, links exist."""

import contextlib
import importlib.util
import os
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from pages import PAGES, ROOT, commands, links, script

from lra.lab.cli.main import parse

NAMES = [str(path.relative_to(ROOT)) for path in PAGES]
WITH_CODE = [name for name in NAMES if script((ROOT / name).read_text("utf-8")).strip()]
WITH_COMMANDS = [name for name in NAMES if commands((ROOT / name).read_text("utf-8"))]
EXTRAS = set(
    tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
)


def run_page(name: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run a page's Python blocks, as one script, in an empty folder."""
    path = folder / f"{Path(name).stem.replace('-', '_')}_page.py"
    path.write_text(script((ROOT / name).read_text("utf-8")), "utf-8")
    environment = os.environ | {"OMP_NUM_THREADS": "1", "KERAS_BACKEND": "torch"}
    environment |= {"MPLBACKEND": "agg", "PYTHONWARNINGS": "error"}
    return subprocess.run(
        [sys.executable, str(path)],
        cwd=folder, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", WITH_CODE)
def test_python_blocks_run(name: str, tmp_path: Path) -> None:
    code = script((ROOT / name).read_text("utf-8"))
    for package in re.findall(r"^(?:import|from) (equinox|flax|jax|keras|optax)\b", code, re.M):
        spec = importlib.util.find_spec(package)
        if spec is None or spec.origin is None:  # it may find a folder of tests
            pytest.skip(f"{package} is not installed")
    done = run_page(name, tmp_path)
    assert done.returncode == 0, done.stderr


def _without_own_code(words: list[str]) -> list[str]:
    """Replace a reader's own rules and networks, whose files are not here, by the library's."""
    found, option = [], ""
    for word in words:
        option = word if word.startswith("--") else option
        known = "mlp" if option in ("--model", "--models") else "lra-e:gamma=0.5"
        found.append(re.sub(r"^[\w/]+\.py:\w+(:\S+)?$", known, word))
    return found


def check_command(line: str) -> None:
    """Check what a command of a page names: options, scripts, modules, files, extras."""
    for part in re.split(r"&&|\||;", line.partition(" #")[0]):
        words = shlex.split(part)
        while words and re.fullmatch(r"[A-Z_]+=\S*|nice|time", words[0]):
            words = words[1:]
        if not words:
            continue
        if words[0] == "lra":
            with contextlib.suppress(SystemExit):  # help
                parse(_without_own_code(words[1:]))
        elif words[0] in ("python", "python3", "pytest", "torchrun", "accelerate"):
            scripts = [word for word in words[1:] if word.endswith(".py") and "/" in word]
            assert all((ROOT / script).is_file() for script in scripts), part
        elif words[:2] == ["pip", "install"]:
            for word in words[2:]:
                if extras := re.fullmatch(r"(?:\.|lra-e|dist/\S*?)\[(.*)\].*", word):
                    assert set(extras[1].split(",")) <= EXTRAS, word
                if word.startswith("constraints"):
                    assert (ROOT / word).is_file()


@pytest.mark.parametrize("name", WITH_COMMANDS)
def test_commands_parse(name: str) -> None:
    for line in commands((ROOT / name).read_text("utf-8")):
        check_command(line)


@pytest.mark.parametrize(
    "line",
    [
        "lra train mnist --epoch 3",
        "lra compare digits --rules lra-x",
        "FOO=1 python benchmarks/none.py",
        'pip install -c constraints.txt ".[labb]"',
        "pip install -c constraints-none.txt .",
    ],
)
def test_wrong_commands_are_noticed(line: str) -> None:
    with pytest.raises((AssertionError, ValueError)):
        check_command(line)


@pytest.mark.parametrize("name", NAMES)
def test_links_lead_to_files(name: str) -> None:
    page = ROOT / name
    for link in links(page.read_text("utf-8")):
        target, _, anchor = link.partition("#")
        if re.match(r"[a-z]+:", link):
            continue
        if target:
            assert (page.parent / target).exists(), f"{name}: {link}"
        other = page.parent / target if target else page
        if anchor and other.suffix == ".md":
            assert anchor in anchors(other.read_text("utf-8")), f"{name}: {link}"


def anchors(text: str) -> set[str]:
    """Return the anchors of a page's headings, as GitHub and MyST build them."""
    plain = re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)
    heads = re.findall(r"^#+ (.*)$", plain, re.MULTILINE)
    slugs = {
        re.sub(r"[^\w\- ]", "", head.lower().replace("`", "")).replace(" ", "-") for head in heads
    }
    return slugs | set(re.findall(r"^\(([\w-]+)\)=$", plain, re.MULTILINE))

"""The project's files agree with each other; with LRA_DIST, also the built sdist and wheel."""

import email
import os
import re
import shutil
import subprocess
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest
import yaml
from markdown_it import MarkdownIt
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

import lra

ROOT = Path(__file__).resolve().parent.parent
SETTINGS = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
PROJECT = SETTINGS["project"]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
PYTHONS = [
    found[1]
    for text in PROJECT["classifiers"]
    if (found := re.fullmatch(r"Programming Language :: Python :: (3\.\d+)", text))
]
OTHERS = ("constraints-jax.txt", "constraints-keras.txt")


def read_yaml(path):
    return yaml.safe_load(path.read_text("utf-8"))


def requirements():
    """Return pyproject's requirements of other packages, by the name of the package."""
    extras = PROJECT["optional-dependencies"].values()
    lines = [*PROJECT["dependencies"], *(line for extra in extras for line in extra)]
    return {canonicalize_name(r.name): r for r in map(Requirement, lines) if r.name != "lra-e"}


def pins(name):
    lines = (ROOT / name).read_text("utf-8").splitlines()
    pairs = (line.split("==") for line in lines if line and not line.startswith("#"))
    return {canonicalize_name(package): version for package, version in pairs}


def test_workflows_test_each_python_that_the_package_names():
    assert PROJECT["requires-python"] == f">={PYTHONS[0]}"
    matrix = read_yaml(ROOT / ".github" / "workflows" / "tests.yml")["jobs"]["tests"]["strategy"]
    assert matrix["matrix"]["python"] == PYTHONS
    resolved = re.search(r"for version in (.*);", (ROOT / ".ci" / "package").read_text("utf-8"))[1]
    assert [".".join(version.split(".")[:2]) for version in resolved.split()] == PYTHONS


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_commands_and_actions_of_workflows_exist(path):
    jobs = read_yaml(path)["jobs"].values()
    steps = [step for job in jobs for step in job.get("steps", ())]
    assert steps
    for words in (step["run"].split() for step in steps if "run" in step):
        files = [word for word in words if re.match(r"(tests|src|benchmarks|\.ci)/|.*\.txt$", word)]
        assert not [file for file in files if not (ROOT / file).exists()]
    for action in (step["uses"] for step in steps if "uses" in step):
        assert re.fullmatch(r"[\w-]+/[\w-]+@(v\d+|release/v\d+)", action)


def test_hooks_run_tools_of_the_extra_dev():
    hooks = read_yaml(ROOT / ".pre-commit-config.yaml")["repos"][0]["hooks"]
    dev = {Requirement(line).name for line in PROJECT["optional-dependencies"]["dev"]}
    assert {hook["entry"].split()[0] for hook in hooks} == {"ruff", "mypy"} <= dev


def test_citation_names_the_version_and_licence_of_the_package():
    citation = read_yaml(ROOT / "CITATION.cff")
    assert citation["version"] == lra.__version__
    assert citation["license"] == PROJECT["license"]
    assert citation["repository-code"] == PROJECT["urls"]["Repository"]
    assert citation["url"] == PROJECT["urls"]["Documentation"]


def test_addresses_of_the_project_are_the_same_everywhere():
    ours = re.compile(
        r"https://(?:(?:raw\.githubusercontent|github)\.com/lra-e|lra-e\.[\w.]+)/?\w*"
    )
    repository = PROJECT["urls"]["Repository"]
    site = PROJECT["urls"]["Documentation"].rstrip("/")
    raw = repository.replace("github.com", "raw.githubusercontent.com")
    files = [
        *(ROOT / name for name in ("pyproject.toml", "CITATION.cff", "SECURITY.md", "README.md")),
        ROOT / "docs" / "conf.py",
        *(ROOT / ".github").rglob("*.yml"),
    ]
    found = {address for file in files for address in ours.findall(file.read_text("utf-8"))}
    assert found == {repository, site, raw}


def test_extras_that_texts_name_exist():
    texts = [*ROOT.glob("*.md"), *ROOT.glob(".ci/*"), *WORKFLOWS]
    texts += [p for top in ("docs", "src") for s in ("*.md", "*.py") for p in (ROOT / top).rglob(s)]
    named = {
        extra
        for path in texts
        for names in re.findall(r"(?:lra-e|\"\.)\[([a-z,]+)\]", path.read_text("utf-8"))
        for extra in names.split(",")
    }
    assert {"torch", "lab", "dev"} <= named
    assert named <= set(PROJECT["optional-dependencies"])


def test_pinned_versions_are_allowed():
    needed = requirements()
    constraints = pins("constraints.txt")
    assert needed.keys() <= constraints.keys()
    for name in ("constraints.txt", *OTHERS, "constraints-lowest.txt"):
        for package, version in pins(name).items():
            assert package not in needed or needed[package].specifier.contains(version), package


@pytest.mark.parametrize("name", OTHERS)
def test_constraints_of_a_framework_agree_with_those_of_the_project(name):
    all_pins, own = pins("constraints.txt"), pins(name)
    assert {p: v for p, v in own.items() if all_pins.get(p, v) != v} == {}


def test_the_oldest_jax_that_is_tested_is_the_lowest_allowed():
    needed, script = requirements(), (ROOT / ".ci" / "jax").read_text("utf-8")
    tested = {
        r: dict(p.split("==") for p in line.split())
        for r, line in re.findall(r'\[(\w+)\]="(.*)"', script)
    }
    assert tested["newest"] == {}
    for package in ("jax", "optax", "flax", "equinox"):
        assert str(needed[package].specifier) == f">={tested['oldest'][package]}"
        between = Version(tested["between"][package])
        assert (
            Version(tested["oldest"][package])
            < between
            < Version(pins("constraints-jax.txt")[package])
        )


def test_lowest_versions_are_those_that_pyproject_allows():
    needed, lowest = requirements(), pins("constraints-lowest.txt")
    extras = PROJECT["optional-dependencies"]
    lines = [*PROJECT["dependencies"], *extras["lab"], *extras["sklearn"]]
    users = {canonicalize_name(Requirement(line).name) for line in lines} - {"lra-e"}
    assert users <= lowest.keys()
    users -= {"torch"}  # PyPI's torch 2.6 for Linux needs gigabytes of CUDA libraries
    for package in users:
        least = next(s.version for s in needed[package].specifier if s.operator == ">=")
        assert Version(lowest[package]).release[: len(Version(least).release)] == (
            Version(least).release
        ), package


@pytest.fixture(scope="module")
def dist():
    """The folder with the sdist and the wheel, which .ci/package builds."""
    folder = os.environ.get("LRA_DIST")
    if not folder:
        pytest.skip(
            "LRA_DIST names no folder with an sdist and a wheel; bash .ci/package makes them"
        )
    return Path(folder)


@pytest.fixture(scope="module")
def wheel(dist):
    with zipfile.ZipFile(next(dist.glob("*.whl"))) as archive:
        yield archive


def listed_by_git(*options):
    git = ["git", "-C", str(ROOT), *options]
    done = subprocess.run(git, check=True, capture_output=True, text=True, encoding="utf-8")
    return set(done.stdout.split("\0")) - {""}


def test_sdist_holds_every_file_of_the_project(dist, tmp_path):
    with tarfile.open(next(dist.glob("*.tar.gz"))) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    if (ROOT / ".git").exists():
        assert names == listed_by_git("ls-files", "-z") | {"PKG-INFO"}
    else:  # an unpacked sdist: what .gitignore does not name
        if not shutil.which("git"):
            pytest.skip("needs git")
        subprocess.run(["git", "init", "-q", "--bare", str(tmp_path)], check=True)
        place = [f"--git-dir={tmp_path}", f"--work-tree={ROOT}"]
        listing = ("ls-files", "-z", "--others", "--exclude-standard")
        assert names == listed_by_git(*place, *listing) | {"PKG-INFO"}


def test_wheel_holds_the_package_only(wheel):
    names = set(wheel.namelist())
    about = f"lra_e-{lra.__version__}.dist-info"
    source = ROOT / "src"
    files = (path for path in source.rglob("*") if path.is_file())
    package = {p.relative_to(source).as_posix() for p in files if "__pycache__" not in p.parts}
    package = {name for name in package if ".egg-info/" not in name}
    meta = {"METADATA", "WHEEL", "RECORD", "entry_points.txt", "licenses/LICENSE"}
    assert names == package | {f"{about}/{name}" for name in meta}
    assert "lra/py.typed" in names
    assert any(name.startswith("lra/lab/comparison/templates/") for name in names)


def test_links_of_the_readme_on_pypi_are_absolute(wheel):
    text = wheel.read(f"lra_e-{lra.__version__}.dist-info/METADATA").decode()
    shown = email.message_from_string(text).get_payload()
    here = (ROOT / "README.md").read_text("utf-8")
    parse = MarkdownIt("commonmark").enable("table").parse

    def targets(text):
        children = (child for token in parse(text) for child in token.children or ())
        return [u for c in children if (u := c.attrGet("href") or c.attrGet("src"))]

    assert len(targets(shown)) == len(targets(here)) > 10
    assert not [u for u in targets(shown) if not re.match(r"https://|#", u)]
    assert not re.search(r'\b(?:src|srcset|href)="(?!https://|#)', shown)
    code = [token.content for token in parse(here) if token.type == "fence"]
    assert [token.content for token in parse(shown) if token.type == "fence"] == code

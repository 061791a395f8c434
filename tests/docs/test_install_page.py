"""The page on installing names the extras, their packages and the versions of pyproject.toml."""

import re
import tomllib

from pages import ROOT

PAGE = (ROOT / "docs" / "start" / "install.md").read_text("utf-8")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
EXTRAS = PROJECT["optional-dependencies"]


def names(requirements: list[str]) -> set[str]:
    """Return the packages, or the extras of this project, that requirements name."""
    found = set()
    for requirement in requirements:
        name, extras = re.match(r"([\w.-]+)(?:\[([\w,-]+)\])?", requirement).groups()
        found |= set(extras.split(",")) if extras else {name}
    return found


def rows(header: str) -> list[list[str]]:
    """Return the cells of the table that has this header."""
    lines = PAGE[PAGE.index(header) :].split("\n\n")[0].splitlines()[2:]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def test_the_table_of_extras_is_that_of_the_project() -> None:
    table = {row[0].strip("`"): set(re.findall(r"`([^`]+)`", row[2])) for row in rows("| extra |")}
    assert table.keys() == EXTRAS.keys()
    for extra, packages in table.items():
        required = names(EXTRAS[extra])
        if extra in ("dev", "docs"):  # their many packages are summed up in words
            required &= EXTRAS.keys()
        assert packages == required, extra


def test_the_lowest_versions_are_those_of_the_project() -> None:
    lowest = {row[0]: row[1] for row in rows("| | at least |")}
    assert lowest["Python"] == PROJECT["requires-python"].removeprefix(">=")
    assert f"numpy>={lowest['NumPy']}" in PROJECT["dependencies"]
    assert f"torch>={lowest['PyTorch']}" in EXTRAS["torch"]
    assert f"keras>={lowest['Keras']}" in EXTRAS["keras"]
    assert f"jax>={lowest['JAX']}" in EXTRAS["jax"]


def test_the_pinned_torch_is_that_of_the_constraints() -> None:
    (pin,) = re.findall(r"^torch==\S+", (ROOT / "constraints.txt").read_text("utf-8"), re.M)
    assert set(re.findall(r"torch==[\d.]+\d", PAGE)) == {pin}

"""Refusals: the import graph of `src/lra` has no cycles, and no arrow points up."""

import ast
from pathlib import Path

import pytest

SOURCE = Path(__file__).resolve().parent.parent / "src"

AXES = {
    *("lra.axis", "lra.crossing", "lra.differences", "lra.errors", "lra.feedback", "lra.inits"),
    *(
        "lra.identities",
        "lra.loss_terms",
        "lra.methods",
        "lra.pseudocode",
        "lra.rules",
        "lra.wiring",
    ),
}
"""The rule language: no framework, and nothing of ours but itself."""

ROOMS = ("audit", "diagnose", "ensemble", "lightning", "methods", "testing")
"""The optional parts of `lra.torch`, which nothing that runs in a training step imports."""

STEP = (
    *("activations", "black_box", "compiled", "functions", "layers", "ops", "phi", "registry"),
    "user_warnings",
)
"""The parts of `lra.torch` that run in a training step."""

FORBIDDEN = [
    *((axis, ["lra.torch", "lra.keras", "lra.jax", "lra.lab"]) for axis in sorted(AXES)),
    ("lra.torch", ["lra.keras", "lra.jax", "lra.lab"]),
    ("lra.keras", ["lra.torch", "lra.jax", "lra.lab"]),
    ("lra.jax", ["lra.torch", "lra.keras", "lra.lab"]),
    *((f"lra.torch.{name}", [f"lra.torch.{room}" for room in ROOMS]) for name in STEP),
    ("lra.torch.ops", [f"lra.torch.{name}" for name in ("layers", "functions", "convert", "phi")]),
    ("lra.torch.layers", ["lra.torch.functions", "lra.torch.convert"]),
    ("lra.torch.functions", ["lra.torch.convert"]),
    ("lra.torch.registry", [f"lra.torch.{name}" for name in ("ops", "layers", "functions")]),
]
"""Modules, and what neither they nor anything below them imports."""


def modules(source: Path) -> dict[str, Path]:
    """List the modules under a folder by their dotted names."""
    found = {}
    for path in source.rglob("*.py"):
        parts = path.relative_to(source).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def graph(source: Path) -> dict[str, set[str]]:
    """Read which module imports which: in functions and for type checkers too."""
    paths = modules(source)
    arrows: dict[str, set[str]] = {}
    for name, path in paths.items():
        arrows[name] = set()
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Import):
                arrows[name] |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                for alias in node.names:
                    below = f"{node.module}.{alias.name}"
                    arrows[name].add(below if below in paths else node.module)
        arrows[name] &= paths.keys() - {name}
    del arrows["lra"]  # the face names everything
    return arrows


def cycle(arrows: dict[str, set[str]]) -> list[str]:
    """Return the modules that are left when those without imports are taken away repeatedly."""
    left = {name: below & arrows.keys() for name, below in arrows.items()}
    while done := {name for name, below in left.items() if not below}:
        left = {name: below - done for name, below in left.items() if name not in done}
    return sorted(left)


def upward(arrows: dict[str, set[str]]) -> list[str]:
    """List the imports that `FORBIDDEN` rules out."""
    found = []
    for module, targets in FORBIDDEN:
        for name, below in arrows.items():
            if f"{name}.".startswith(f"{module}."):
                found += [
                    f"{name} -> {other}"
                    for other in sorted(below)
                    if any(f"{other}.".startswith(f"{target}.") for target in targets)
                ]
    return found


def test_imports_have_no_cycles():
    assert cycle(graph(SOURCE)) == []


def test_imports_point_down():
    assert upward(graph(SOURCE)) == []


def test_the_names_above_are_modules():
    known = modules(SOURCE)
    assert {*AXES, *(name for name, _ in FORBIDDEN)} <= known.keys()
    assert {target for _, targets in FORBIDDEN for target in targets} <= known.keys()


@pytest.mark.parametrize(
    ("wrong", "cyclic", "pointing"),
    [
        ("from lra.axis import Axis", False, []),
        ("def f():\n    from lra.rules import Rule", True, []),
        ("if TYPE_CHECKING:\n    import lra.rules", True, []),
        ("import lra.torch.convert", False, ["lra.crossing -> lra.torch.convert"]),
    ],
)
def test_the_test_sees_wrong_imports(tmp_path, wrong, cyclic, pointing):
    package = tmp_path / "lra"
    (package / "torch").mkdir(parents=True)
    for name in ("__init__", "axis", "torch/__init__", "torch/convert"):
        (package / f"{name}.py").write_text("")
    (package / "rules.py").write_text("from lra import crossing\n")
    (package / "crossing.py").write_text(wrong)
    arrows = graph(tmp_path)
    assert bool(cycle(arrows)) == cyclic
    assert upward(arrows) == pointing

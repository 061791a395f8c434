"""Write the README's tables of rules, methods and layers from the code's own tables.

python docs/tables.py           rewrites README.md
python docs/tables.py --check   fails if README.md differs from the code
"""

import functools
import re
import sys
from pathlib import Path

from torch import nn

import lra
from lra.torch.registry import INTERCEPTED, TORCH_ACTIVATIONS, WEIGHT_LAYERS

README = Path(__file__).parent.parent / "README.md"


def rules() -> str:
    """Return a line for each rule of `lra.RULES` with its three axes."""
    lines = ["| rule | for scripts | feedback | crossing | wiring |", "|---|---|---|---|---|"]
    for name, build in lra.RULES.items():
        rule = build()
        axes = (rule.feedback, rule.crossing, rule.wiring)
        kinds = " | ".join(f"`{type(axis).__name__}`" for axis in axes)
        lines.append(f"| `lra.{_call(build)}` | `{name}` | {kinds} |")
    return "\n".join(lines)


def _call(build: object) -> str:
    """Return how a rule of the table is built in Python."""
    if isinstance(build, functools.partial):
        options = ", ".join(f"{key}={value}" for key, value in build.keywords.items())
        return f"{build.func.__name__}({options})"
    return build.__name__  # type: ignore[attr-defined, no-any-return]


def methods() -> str:
    """Return a line for each method of `lra.methods.METHODS`, from its docstring."""
    lines = ["| method | for scripts | what it does |", "|---|---|---|"]
    for name, cls in lra.methods.METHODS.items():
        first = (cls.__doc__ or "").partition("\n")[0]
        lines.append(f"| `lra.methods.{cls.__name__}` | `{name}` | {first} |")
    return "\n".join(lines)


def layers() -> str:
    """Return the layers by what `convert` does with them."""

    def names(classes: list[type[nn.Module]]) -> str:
        return ", ".join(sorted((cls.__name__.lstrip("_") for cls in classes), key=str.lower))

    others = [cls for cls in INTERCEPTED if cls not in WEIGHT_LAYERS]
    return "\n".join(
        (
            "| torch.nn layers | an error crosses them by |",
            "|---|---|",
            f"| {names(list(WEIGHT_LAYERS))} | the rule's feedback |",
            f"| {names(list(TORCH_ACTIVATIONS))} | the rule's crossing |",
            "| normalisation, pooling, dropout, embedding, softmax, attention's products, sums, "
            "reshaping | autograd's own derivative |",
            f"| {names(others)}, and all subclasses; parametrized, weight-normed and pruned "
            "weights | the rule's feedback and crossing, function by function |",
            "| products with weights and activations in a forward of your own | the same, found "
            "by `example=` |",
        )
    )


def with_tables(text: str) -> str:
    """Return the README's text with the tables of the code."""
    for name, table in (("rules", rules()), ("methods", methods()), ("layers", layers())):
        block = f"<!-- table: {name} -->\n{table}\n<!-- end -->"
        text, found = re.subn(
            rf"<!-- table: {name} -->.*?<!-- end -->", lambda _, b=block: b, text, flags=re.DOTALL
        )
        if found != 1:
            raise SystemExit(f"README.md: expected one marked table {name!r}, found {found}")
    return text


def main() -> None:
    """Rewrite or check the README."""
    text = README.read_text("utf-8")
    new = with_tables(text)
    if "--check" in sys.argv[1:]:
        if new != text:
            raise SystemExit("README.md differs from the code: run python docs/tables.py")
    else:
        README.write_text(new, "utf-8")


if __name__ == "__main__":
    main()

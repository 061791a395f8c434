"""Write the README's tables of rules, methods and layers from the code's own tables.

python docs/tables.py           rewrites README.md
python docs/tables.py --check   fails where README.md is behind the code
"""

import re
import sys
from pathlib import Path

from torch import nn

import lra
from lra.torch.layers import FOLLOWED, WEIGHT_LAYERS

README = Path(__file__).parent.parent / "README.md"


def rules() -> str:
    """One line for each rule of `lra.RULES`: its axes and its source."""
    lines = ["| rule | for scripts | feedback | crossing | wiring |", "|---|---|---|---|---|"]
    for name, build in lra.RULES.items():
        rule = build()
        axes = (rule.feedback, rule.crossing, rule.wiring)
        kinds = " | ".join(f"`{type(axis).__name__}`" for axis in axes)
        lines.append(f"| `lra.{build.__name__}` | `{name}` | {kinds} |")
    return "\n".join(lines)


def methods() -> str:
    """One line for each method of `lra.methods.METHODS`: the first of its docstring."""
    lines = ["| method | for scripts | what it does |", "|---|---|---|"]
    for name, cls in lra.methods.METHODS.items():
        first = (cls.__doc__ or "").partition("\n")[0]
        lines.append(f"| `lra.{cls.__name__}` | `{name}` | {first} |")
    return "\n".join(lines)


def layers() -> str:
    """The layers by what `convert` does with them."""

    def names(classes: list[type[nn.Module]]) -> str:
        return ", ".join(sorted((cls.__name__.lstrip("_") for cls in classes), key=str.lower))

    return "\n".join(
        (
            "| torch.nn layers | an error crosses them by |",
            "|---|---|",
            f"| {names(list(WEIGHT_LAYERS))} | the rule's feedback |",
            f"| {names(list(NONLINEARITIES))} | the rule's crossing |",
            "| normalisation, pooling, dropout, embedding, softmax, attention's products, sums, "
            "reshaping | autograd's own derivative |",
            f"| {names([cls for cls in FOLLOWED if cls not in WEIGHT_LAYERS])}, and all subclasses; "
            "parametrized, weight-normed and pruned weights | the rule's feedback and crossing, "
            "function by function |",
            "| what a forward of your own calls: products with weights, nonlinear functions | the "
            "same, found by `example=` |",
        )
    )


def written(text: str) -> str:
    """Give the README's text with the tables of now."""
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
    new = written(text)
    if "--check" in sys.argv[1:]:
        if new != text:
            raise SystemExit("README.md is behind the code: run python docs/tables.py")
    else:
        README.write_text(new, "utf-8")


if __name__ == "__main__":
    main()

"""Write the tables of rules, methods, options and layers into docs/rules/*.md, from the code.

python docs/tables.py           rewrites the pages
python docs/tables.py --check   fails if one of them differs from the code
"""

import enum
import inspect
import re
import sys
from collections.abc import Callable
from pathlib import Path

from torch import nn

import lra
from lra.axis import Axis
from lra.torch.registry import INTERCEPTED, TORCH_ACTIVATIONS, WEIGHT_LAYERS

RULES = Path(__file__).parent / "rules"
COMPARISON = Path(__file__).parent / "evidence" / "comparison.md"


def rules() -> str:
    """Return a line for each rule of `lra.RULES`, with its page and its axes."""
    lines = ["| rule | feedback | crossing | wiring |", "|---|---|---|---|"]
    for name, build in lra.RULES.items():
        rule = build()
        kinds = (type(axis).__name__ for axis in (rule.feedback, rule.crossing, rule.wiring))
        lines.append(f"| [{name}]({name}.md) | " + " | ".join(kinds) + " |")
    return "\n".join(lines)


def methods() -> str:
    """Return a line for each method of `lra.methods.METHODS`, with its page and its docstring."""
    lines = ["| method | what it does |", "|---|---|"]
    for name, cls in lra.methods.METHODS.items():
        what = (cls.__doc__ or "").partition("\n")[0].partition(": ")[2]
        lines.append(f"| [{name}]({name}.md) | {what} |")
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


def options(name: str) -> str:
    """Return a line for each option of a rule or method, from its signature and docstring."""
    build = {**lra.RULES, **lra.methods.METHODS}[name]
    lines = ["| option | default | meaning |", "|---|---|---|"]
    meanings = _meanings(inspect.getdoc(getattr(build, "func", build)) or "")
    for option, parameter in inspect.signature(build).parameters.items():
        default = parameter.default
        shown = str(default) if isinstance(default, Axis) else repr(default)
        if isinstance(default, enum.StrEnum):
            shown = f'"{default}"'
        lines.append(f"| `{option}` | `{shown}` | {meanings[option]} |")
    return "\n".join(lines) if len(lines) > 2 else "There are no options."


def _meanings(docstring: str) -> dict[str, str]:
    """Return what a docstring says of each argument, fit for a cell of a table."""
    block = re.search(r"^Args:\n(.*?)(?:^\S|\Z)", docstring, re.DOTALL | re.MULTILINE)
    found = re.findall(r"^    (\w+): (.*(?:\n {8}.*)*)", block[1] if block else "", re.MULTILINE)
    return {name: re.sub(r"\s+", " ", text).replace("|", "\\|") for name, text in found}


def measured(name: str) -> str:
    """Return the results of a rule or method in the comparison, network by network."""
    lines = ["| network | test accuracy (%) | minus backprop, paired (95 %) |", "|---|---|---|"]
    for heading, section in re.findall(
        r"^## (.*?)\n(.*?)(?=^## )", COMPARISON.read_text("utf-8"), re.DOTALL | re.MULTILINE
    ):
        row = re.search(rf"^\| {re.escape(name)} \|(.*?)\|(.*?)\|", section, re.MULTILINE)
        if row is not None and "minus backprop" in section:
            accuracy, difference = row[1].strip(), row[2].strip()
            accuracy = "not measured" if accuracy == "not yet" else accuracy
            anchor = re.sub(r"[^\w -]", "", heading).replace(" ", "-")
            link = f"[{_network(heading)}](../evidence/comparison.md#{anchor})"
            lines.append(f"| {link} | {accuracy} | {difference or '-'} |")
    return "\n".join(lines)


def _network(heading: str) -> str:
    """Return the name of a network of the comparison, in words."""
    dataset, _, network = heading.partition(", ")
    dataset = {"mnist": "MNIST", "fashion-mnist": "Fashion-MNIST"}[dataset]
    depth = re.search(r"depth=(\d+)", network)
    return f"{dataset}, {f'{depth[1]} layers' if depth else 'LeNet'}"


TABLES: dict[str, Callable[..., str]] = {
    "rules": rules,
    "methods": methods,
    "layers": layers,
    "options": options,
    "measured": measured,
}


def with_tables(text: str) -> str:
    """Return a page's text with the tables of the code."""

    def table(match: re.Match[str]) -> str:
        marker, kind, argument = match.group(1, 2, 3)
        made = TABLES[kind](argument) if argument else TABLES[kind]()
        return f"{marker}\n{made}\n<!-- end -->"

    return re.sub(
        r"(<!-- table: (\w+)(?: (\S+))? -->).*?<!-- end -->", table, text, flags=re.DOTALL
    )


def main() -> None:
    """Rewrite or check the pages."""
    for page in sorted(RULES.glob("*.md")):
        text = page.read_text("utf-8")
        new = with_tables(text)
        if "--check" not in sys.argv[1:]:
            page.write_text(new, "utf-8", newline="\n")
        elif new != text:
            raise SystemExit(f"{page.name} differs from the code: run python docs/tables.py")


if __name__ == "__main__":
    main()

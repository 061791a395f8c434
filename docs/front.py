"""Write the README's table of accuracies and its picture from the rows of the study.

python docs/front.py            rewrites README.md and docs/_static/depth.png
python docs/front.py --check    fails if the table differs from the rows
"""

import csv
import re
import statistics
import sys
from collections import defaultdict
from pathlib import Path

from lra.figures import Figure

DOCS = Path(__file__).parent
README = DOCS.parent / "README.md"
ROWS = DOCS / "evidence" / "study" / "rows.csv"
PICTURE = DOCS / "_static" / "depth.png"

RULES = {
    "backprop": ("backprop", "black", "o"),
    "mirrored LRA": ("`MirroredLRA`", "#d62728", "s"),
    "LRA-E": ("`LRAE`", "#1f77b4", "D"),
    "feedback alignment": ("`FeedbackAlignment`", "#888888", "X"),
}
"""By the study's name of a rule: its heading, color and marker."""

NETWORKS = ("tanh, 4 layers", "tanh, 16 layers", "tanh, 64 layers")
NETWORKS += ("residual tanh, 128 layers", "ReLU, 16 layers")

Accuracies = dict[tuple[str, str], list[float]]


def accuracies() -> Accuracies:
    """Load the test accuracies of all seeds, by network and rule."""
    found: Accuracies = defaultdict(list)
    with ROWS.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            if row["part"] == "depth":
                found[row["network"], row["rule"]].append(float(row["test_accuracy"]))
    return found


def table(found: Accuracies) -> str:
    """Return mean and standard deviation of each network and rule, as a Markdown table."""
    heads = [heading for heading, _, _ in RULES.values()]
    lines = [f"| network | {' | '.join(heads)} |", "|---" * (1 + len(heads)) + "|"]
    for network in NETWORKS:
        groups = [found[network, rule] for rule in RULES]
        cells = [f"{statistics.mean(g):.1f} ± {statistics.stdev(g):.1f}" for g in groups]
        lines.append(f"| {network} | {' | '.join(cells)} |")
    return "\n".join(lines)


def draw(found: Accuracies) -> None:
    """Plot the accuracy of each rule against the depth of the tanh network."""
    figure = Figure(7.2, 3.6)
    axes = figure.subplots()
    depths = sorted(
        int(n.split()[1]) for n, rule in found if n[:4] == "tanh" and rule == "backprop"
    )
    for rule, (heading, color, marker) in RULES.items():
        groups = [found[f"tanh, {depth} layers", rule] for depth in depths]
        means = [statistics.mean(group) for group in groups]
        low = [mean - min(group) for mean, group in zip(means, groups, strict=True)]
        high = [max(group) - mean for mean, group in zip(means, groups, strict=True)]
        label = heading.strip("`")
        axes.errorbar(
            depths, means, (low, high),
            color=color, marker=marker, markersize=5, capsize=3, clip_on=False,
        )  # fmt: skip
        above = rule == "mirrored LRA"
        axes.annotate(
            label, (depths[-1], means[-1]), (10, 5 if above else -5 if rule == "backprop" else 0),
            textcoords="offset points", color=color, va="center",
        )  # fmt: skip
    axes.set_xscale("log", base=2)
    axes.set_xticks(depths, [str(depth) for depth in depths])
    axes.minorticks_off()
    axes.set(xlabel="weight layers (tanh, 128 wide)", ylabel="MNIST test accuracy (%)")
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(PICTURE, dpi=150)


def main() -> None:
    """Write or check the table, and draw the picture."""
    found = accuracies()
    text = README.read_text("utf-8")
    block = f"<!-- table: accuracy -->\n{table(found)}\n<!-- end -->"
    new = re.sub("<!-- table: accuracy -->.*?<!-- end -->", lambda _: block, text, flags=re.DOTALL)
    if "--check" not in sys.argv:
        README.write_text(new, "utf-8")
        draw(found)
    elif block not in text:
        raise SystemExit("README.md differs from the study: run python docs/front.py")


if __name__ == "__main__":
    main()

"""The page's tables, and its picture of time against depth and width."""

import re
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from speed.steps import Row


def table(rows: "list[Row]") -> str:
    """Write rows as Markdown."""
    names = [
        name for name in dict.fromkeys(n for _, row in rows for n in row) if name != "backprop"
    ]
    lines = [f"| | backprop | {' | '.join(names)} |", "|---" * (len(names) + 2) + "|"]
    for title, row in rows:
        figures = [str(row[name]) if name in row else "" for name in names]
        lines.append(f"| {title} | {row['backprop'].ms:.2f} ms | {' | '.join(figures)} |")
    return "\n".join(lines)


def draw(rows: "list[Row]", path: Path) -> None:
    """Draw time against depth and width."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    found = {tuple(map(int, re.findall(r"\d+", name))): row for name, row in rows}
    for axis, (what, pairs) in zip(
        axes,
        (
            ("weight layers of 128", [(d, (d, w)) for d, w in found if w == 128]),
            ("units a layer, 4 layers", [(w, (d, w)) for d, w in found if d == 4]),
        ),
        strict=True,
    ):
        for name in ("backprop", "LRA-E", "MirroredLRA"):
            line = sorted((at, found[key][name].ms) for at, key in pairs)
            axis.loglog(*zip(*line, strict=True), marker="o", label=name)
        last = line[-1]
        power = 1 if "layers of" in what else 2
        ends = (last[0] / 4, last[0])
        axis.loglog(
            ends, [last[1] * 0.6 * (n / last[0]) ** power for n in ends], "k:",
            label="linear" if power == 1 else "quadratic",
        )  # fmt: skip
        axis.set_xlabel(what)
        axis.set_ylabel("ms a step, batch 50")
        axis.set_xticks([at for at, _ in line], [str(at) for at, _ in line], minor=False)
        ticks = [0.2, 0.5, 1, 2, 5, 10, 20, 50, 100]
        axis.set_yticks(ticks, [str(tick) for tick in ticks])
        axis.minorticks_off()
        axis.legend()
    figure.savefig(path, dpi=130)


def put(page: Path, part: str, written: str) -> None:
    """Put a part's table between its marks on a page."""
    block = f"<!-- table: {part} -->\n{written}\n<!-- end -->"
    text, found = re.subn(
        rf"<!-- table: {part} -->.*?<!-- end -->", lambda _: block, page.read_text("utf-8"),
        flags=re.DOTALL,
    )  # fmt: skip
    if not found:
        raise SystemExit(f"{page} has no <!-- table: {part} --> ... <!-- end -->")
    page.write_text(text, "utf-8")

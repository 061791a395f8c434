"""The study behind docs/evidence/study.md: does one rule, with one setting, train every network?

    python benchmarks/study.py                       # all parts: hours on two cores
    python benchmarks/study.py depth units           # some parts
    python benchmarks/study.py --report              # only tables and plots, from the .csv files

Each rule of a contest tries the same number of learning rates, each in a short run judged on the
validation split. The best one then trains all seeds, from the same weights and on the same batches
as the other rules. Only these last runs use the test split. Every run is a folder of `lra train`
under OUT: finished runs are not repeated, and stopped runs are resumed. Results go to
docs/evidence/study/rows.csv, plots beside it, and tables into docs/evidence/study.md. A probe
(angles, distances, locality, finetune, rounding) is skipped if its .csv is there; delete the file
to measure again.
"""

import argparse
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from trials import contests, probes, report, rounding
from trials.run import Contest, compete

PROBES = {
    "angles": probes.angles,
    "distances": probes.distances,
    "locality": probes.locality,
    "finetune": probes.finetune,
    "rounding": rounding.rounding,
}
"""The parts that are not contests."""

PAGE = Path(__file__).parent.parent / "docs" / "evidence" / "study.md"
DOCS = PAGE.with_suffix("")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parts: dict[str, Callable[[argparse.Namespace], list[Contest]]] = {
        "depth": lambda _: contests.depth(),
        "ingredients": lambda _: contests.ingredients(),
        "networks": lambda options: contests.networks(options.out, options.cifar),
        "units": lambda _: contests.units(),
        "beta": lambda _: contests.beta(),
    }
    names = [*parts, *PROBES]
    parser.add_argument(
        "parts", nargs="*", help=f"parts to run, from {', '.join(names)}; default: all"
    )
    parser.add_argument("--only", default="", help="run only contests whose name contains this")
    parser.add_argument("--out", type=Path, default=Path("runs/study"))
    parser.add_argument("--jobs", type=int, default=2, help="parallel runs, one thread each")
    parser.add_argument(
        "--cifar", type=Path, default=Path("cifar-jpeg.npz"), help="file written by cifar_jpeg.py"
    )
    parser.add_argument(
        "--report", action="store_true", help="train nothing, only rebuild tables and plots"
    )
    options = parser.parse_args()
    if unknown := set(options.parts) - set(names):
        parser.error(f"unknown part {', '.join(sorted(unknown))}; known: {', '.join(names)}")
    chosen = options.parts or names
    DOCS.mkdir(parents=True, exist_ok=True)
    path = DOCS / "rows.csv"
    if not options.report:
        asked = [c for name in parts if name in chosen for c in parts[name](options)]
        for rows in compete(
            options.out, [c for c in asked if options.only in c.name], options.jobs
        ):
            keys = {_key(row) for row in rows}
            known = [row for row in report.read_rows(path) if _key(row) not in keys]
            report.write_rows(path, known + rows)
        for name in PROBES:
            if name in chosen and not (DOCS / f"{name}.csv").exists():
                report.write_plain(DOCS / f"{name}.csv", PROBES[name]())
    rows = report.read_rows(path)
    tables = {}
    for name in parts:
        own = _ordered([row for row in rows if row["part"] == name], parts[name](options))
        if own:
            tables[name] = report.table(own)
            tables[f"{name}, in short"] = report.wide(own)
            draw(name, own)
    # Also networks whose data are missing here; their results are in rows.csv.
    if trained := [row for row in rows if row["part"] == "networks"]:
        report.plot_networks(trained, DOCS / "networks.png")
    for name in PROBES:
        if (DOCS / f"{name}.csv").exists():
            found = report.read_plain(DOCS / f"{name}.csv")
            tables[name] = report.table(found) if name == "finetune" else report.plain_table(found)
            if name == "distances":
                report.plot_distances(found, DOCS / "distances.png")
    if PAGE.exists():
        PAGE.write_text(_filled(PAGE.read_text("utf-8"), tables), "utf-8")


def _filled(text: str, tables: dict[str, str]) -> str:
    """Replace the marked tables of a page."""
    for name, table in tables.items():
        block = f"<!-- table: {name} -->\n{table}\n<!-- end -->"
        text = re.sub(
            rf"<!-- table: {name} -->.*?<!-- end -->", lambda _, b=block: b, text, flags=re.DOTALL
        )
    return text


def _key(row: dict[str, Any]) -> tuple[Any, ...]:
    return row["part"], row["network"], row["rule"], row["seed"]


def _ordered(rows: list[dict[str, Any]], contests: list[Contest]) -> list[dict[str, Any]]:
    """Sort rows in the order of the contests, and drop rows of contests that no longer exist."""
    positions = {
        (c.name, e.name): (i, j) for i, c in enumerate(contests) for j, e in enumerate(c.entrants)
    }
    known = [row for row in rows if (row["network"], row["rule"]) in positions]
    return sorted(known, key=lambda r: (*positions[r["network"], r["rule"]], r["seed"]))


def draw(part: str, rows: list[dict[str, Any]]) -> None:
    """Plot a part, if it has a plot."""
    if part == "depth":
        report.plot_depth(rows, DOCS / "depth.png")
    if part == "ingredients":
        report.plot_bars(rows, DOCS / "ingredients.png", rows[0]["network"])


if __name__ == "__main__":
    main()

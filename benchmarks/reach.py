"""How far `lra.convert` reaches: convert every model of the zoo and compare it with backprop.

    python benchmarks/reach.py [--only LIST] [--model NAME] [--markdown docs/evidence/reach.md]

Every model is built several times from one seed, in float64, without dropout. Casts to float32 in
a model's code give float64 (`zoo.precision`). The plain model has backprop's gradients. Converted
with E = W and the normalised target difference, its updates must approach backprop's as beta falls:
the distance at 1e-4 is about a tenth of that at 1e-3, or rounding. Converted with random E, the
update of every parameter below a weight layer must differ from backprop's.

A parameter's distance is its largest difference over its largest gradient, and a row shows the
largest distance of all parameters. `zoo.measure.FLOOR` states how gradients near zero are treated.
Each model runs in its own process, under a time limit.

Some models are refused. Where the zoo has a remedy for one, it is measured with that. The libraries
of the lists `vision`, `sequences` and `dynamics` are those of `zoo/requirements.txt`. `--markdown`
replaces the rows that a run measures and keeps the others.
"""

import argparse
import dataclasses
import json
import math
import sys
import time
import traceback
import warnings
from pathlib import Path
from typing import Any

import zoo
from zoo import isolated

BETAS = (1e-3, 1e-4)

ROUNDING = 1e-6
"""A distance below this is rounding: two updates this close are equal."""

FALL = 0.3
"""The largest ratio of the distances at beta / 10 and beta: 0.1 and a margin for kinks."""

NEAR = 0.02
"""The largest distance at the smaller beta that counts as close to backprop."""

LENGTHS = (1.0, 10.0, 100.0, 1e-1, 1e-2, 1e-3, 1e-4, 1e-6, 1e-9)
"""The lengths of the loss's gradient that are tried until the distance falls."""

TITLES = {
    "timm": "timm: a small model of every family",
    "hf": "transformers: architectures from tiny configs",
    "pyg": "PyTorch Geometric: two layers on a graph",
    "torch": "torch.nn: its own layers, between others",
    "vision": "Images: diffusers, MONAI, vit-pytorch and others",
    "sequences": "Sequences and tables: peft, x-transformers, recommenders and others",
    "dynamics": "Dynamics: spiking and Fourier networks, flows, differential equations and others",
}

COLUMNS = (
    "model",
    "converted",
    "weights",
    "activations",
    "beta 1e-3",
    "beta 1e-4",
    "ratio",
    "unchanged",
    "below",
    "verdict",
)


def same() -> Any:
    """Build the feedback E = W as a class that is not part of `lra`."""
    import lra

    @dataclasses.dataclass(frozen=True)
    class Same(lra.feedback.Feedback):
        """E = W, used like any other E."""

        @property
        def stored(self) -> Any:
            return type(lra.feedback.Transpose().stored).NOTHING

        def effective(self, W: Any, *others: Any, **named: Any) -> Any:
            return W

    return Same()


def refusals(error: Exception) -> list[dict[str, str]]:
    """List the modules that a ConversionError refuses, with the reasons."""
    refused = getattr(error, "refused", ())
    return [
        {key: str(getattr(each, key, "")) for key in ("name", "type", "reason")} for each in refused
    ] or [{"name": "", "type": "", "reason": str(error)}]


def reason_without_remedy(entry: Any) -> str:
    """Return why an entry is refused as it is, or "" if it converts and trains."""
    import lra
    from zoo.measure import build, gradients

    model, example = build(entry)
    try:
        lra.convert(model, lra.LRAE(), example=example)
        gradients(model, example)
    except lra.errors.LraError as error:
        return refusals(error)[0]["reason"]
    return ""


def measure(entry: Any, reason: str, scale: float, partial: bool) -> dict[str, Any]:
    """Measure one model in this process.

    Args:
        entry: the model.
        reason: why it is refused without its remedy.
        scale: the length of the loss's gradient.
        partial: skip refused modules and convert the rest.
    """
    import lra
    from zoo import graph
    from zoo.measure import FLOOR, build, distances, gradients, largest, silent

    exact = lra.Rule(same(), lra.crossing.Derivative())
    started = time.perf_counter()
    row: dict[str, Any] = {"refused": [], "converted": True, "remedy": None}
    arguments: dict[str, Any] = {}
    if entry.remedy is not None:
        row["remedy"] = {"text": entry.remedy.text, "reason": reason}
        remedy, entry = entry.remedy, entry.remedied()
        arguments = dict(remedy.follow())
    model, example = build(entry)
    value, wanted = gradients(model, example, scale)
    left = [
        model.get_submodule(path) for path in arguments.get("skip", ()) if isinstance(path, str)
    ]
    below = graph.below(model, example, left)
    size = largest(wanted)
    faint = {k for k, g in wanted.items() if g is None or g.abs().max().item() <= FLOOR * size}
    row |= {
        "parameters": sum(p.numel() for p in model.parameters()),
        "silent": silent(wanted),
        "faint": len(faint),
    }
    del model

    def converted(rule: Any) -> tuple[float, dict[str, Any], Any]:
        model, example = build(entry)
        lra.convert(model, rule, example=example, **arguments)
        found, got = gradients(model, example, scale)
        return found, got, model

    try:
        found, got, model = converted(exact)
    except lra.errors.ConversionError as error:
        row["refused"] = refusals(error)
        row["converted"] = False
        arguments["skip"] = [each["name"] for each in row["refused"] if each["name"]]
        if not (partial and arguments["skip"]):
            return row | {"seconds": time.perf_counter() - started}
        found, got, model = converted(exact)
    coverage = lra.coverage(model)
    row |= {
        "table": str(coverage),
        "share": float(coverage.share),
        "activations": float(coverage.activation_share),
        "full": bool(coverage.full) or bool(left and coverage.verified),
        "forward": math.isclose(found, value, rel_tol=1e-12),  # recurrent kernels run step by step
        "exact": max(distances(got, wanted).values()),
    }
    del model
    for beta in BETAS:
        rule = lra.Rule(same(), lra.crossing.TargetDifference(beta, gain=1 / beta))
        _, got, _ = converted(rule)
        distance = distances(got, wanted)
        row[f"{beta:g}"] = max(distance.values())
        row[f"worst {beta:g}"] = max(distance, key=lambda k: distance[k])
    torch_seed()
    _, got, _ = converted(lra.Rule(lra.feedback.Random(), lra.crossing.Derivative()))
    distance = distances(got, wanted)
    checked = sorted(k for k in below if k in distance and k not in faint)
    row |= {
        "below": len(checked),
        "stay": [k for k in checked if not distance[k] > ROUNDING],
        "seconds": time.perf_counter() - started,
    }
    return row


def scaled(which: str, name: str, scale: float, partial: bool) -> dict[str, Any]:
    """Measure one model, and try other lengths of the gradient if the distance does not fall.

    A target moves by beta times the error. Where errors are tiny (the bias of attention's keys has
    a gradient of zero except for rounding), rounding hides the move, and a longer gradient makes it
    visible. Where errors grow on their way down a deep network, the move is large at both betas
    and crosses kinks of many activations, and a shorter gradient makes it small.
    """
    entry, rows, reason = zoo.entry(which, name), [], ""
    if entry.remedy is not None and entry.remedy.refused:
        reason = reason_without_remedy(entry)
        if not reason:
            entry = dataclasses.replace(entry, remedy=None)
    for longer in LENGTHS:
        rows.append(measure(entry, reason, longer * scale, partial) | {"scale": longer * scale})
        if "share" not in rows[-1] or falls(rows[-1]):
            return rows[-1]
    return rows[0]


def torch_seed() -> None:
    """Set the seed from which the random E of every model is drawn."""
    import torch

    torch.manual_seed(3)


def falls(row: dict[str, Any]) -> bool:
    """Return whether the distance to backprop falls like beta, down to rounding."""
    high, low = (row[f"{beta:g}"] for beta in BETAS)
    return math.isfinite(high) and low <= max(min(FALL * high, NEAR), ROUNDING)


def verdict(row: dict[str, Any]) -> str:
    """Describe in a few words what is wrong with a row, or return "reached"."""
    if "error" in row:
        return f"fails: {row['error']}"
    wrong = []
    if row["refused"]:
        first, more = row["refused"][0], len(row["refused"]) - 1
        label = " ".join(part for part in (first["name"], first["type"]) if part)
        wrong.append(
            "refused: "
            + (f"{label}: " if label else "")
            + first["reason"]
            + (f", and {more} more" if more else "")
        )
    if "share" in row:
        if not row["full"]:
            wrong.append("not all errors follow the rule")
        if not row["forward"]:
            wrong.append("the forward pass changes")
        if not row["exact"] <= ROUNDING:
            wrong.append(f"not backprop with E = W and derivatives: {row['exact']:.1e}")
        if not falls(row):
            wrong.append(f"does not fall: {row[f'worst {BETAS[-1]:g}']}")
        if row["stay"]:
            wrong.append(f"random E does not change {row['stay'][0]}")
    if wrong:
        return "; ".join(wrong)
    longer = row.get("scale", 1.0)
    size = f" (gradient x {longer:g})" if longer != 1 else ""
    remedy = row["remedy"]
    if not remedy:
        return f"reached{size}"
    cause = " ".join(remedy["reason"].partition(";")[0].split())
    reason = f"; refused without: {cause}" if cause else ""
    return f"reached{size} with {remedy['text']}{reason}"


def cells(name: str, row: dict[str, Any]) -> list[str]:
    """Build one row of the table."""
    if "share" not in row:
        return [name, "no", *[""] * (len(COLUMNS) - 3), verdict(row)]
    high, low = (row[f"{beta:g}"] for beta in BETAS)
    remedied = row["remedy"] and row["remedy"]["reason"]
    answer = "in part" if not row["converted"] else "after a remedy" if remedied else "yes"
    return [
        name,
        answer,
        f"{100 * row['share']:.1f}%",
        f"{100 * row['activations']:.1f}%",
        f"{high:.1e}",
        f"{low:.1e}",
        f"{high / low:.1f}" if low else "",
        str(len(row["stay"])),
        str(row["below"]),
        verdict(row),
    ]


def summary(rows: list[list[str]]) -> str:
    """Summarise the rows of one list."""
    named = [dict(zip(COLUMNS, row, strict=True)) for row in rows]
    done = [row for row in named if row["converted"] in ("yes", "after a remedy")]
    remedied = sum(row["converted"] == "after a remedy" for row in done)
    full = sum(row["weights"] == row["activations"] == "100.0%" for row in done)
    fall = sum("does not fall" not in row["verdict"] for row in done)
    changed = sum(row["unchanged"] == "0" for row in done)
    reached = sum(row["verdict"].startswith("reached") for row in named)
    after = f" ({remedied} after a remedy)" if remedied else ""
    return (
        f"{len(done)} of {len(named)} models convert{after}, {full} with full coverage. With "
        f"E = W, the distance to backprop falls like beta in {fall}. Random E changes every "
        f"parameter below a weight layer in {changed}. {reached} of {len(named)} pass all checks."
    )


def markdown(tables: dict[str, list[list[str]]]) -> str:
    """Write all lists as a Markdown page."""
    lines = [
        "# How far convert reaches",
        "",
        "Written by `python benchmarks/reach.py --markdown docs/evidence/reach.md`, with",
        f"{versions()} and the versions of `benchmarks/zoo/requirements.txt`.",
        "",
        "Each row is one model in float64. A distance is relative to backprop's gradient, and the",
        "row shows the largest over the parameters.",
        "",
        "- **weights**, **activations**: the share whose errors follow the rule.",
        "- **beta**: the distance with E = W and the normalised target difference. It must fall",
        "  like beta, down to rounding.",
        "- **unchanged**, **below**: of the parameters below a weight layer, how many have the",
        "  same update with random E. It must be none.",
        "- **after a remedy**: `lra.convert` [refuses](../guides/modules.md) the model as it is.",
        "  The verdict says what was done then, and the row measures the model after that. With",
        "  `skip=`, the shares are below 100%, and parameters count as below only under weights",
        "  that are not skipped.",
        "- **gradient x s**: the loss was multiplied by s. A target moves by beta times the error.",
        "  Where errors grow on their way down, as in the Inceptions and UnivNet, it crosses kinks",
        "  of ReLU at both betas, and the distance falls only from a smaller s on. Where an error",
        "  is nearly zero, rounding hides it, and s is larger.",
        "",
        "Casts to float32 in a model's code give float64 (`benchmarks/zoo/precision.py`): rounding",
        "would hide the effect of beta in models that compute a recurrence in float32.",
    ]
    for which, rows in tables.items():
        lines += ["", f"## {TITLES[which]}", "", summary(rows), ""]
        lines += [f"| {' | '.join(COLUMNS)} |", f"|{'---|' * len(COLUMNS)}"]
        for row in rows:
            inside = [cell.replace("|", "\\|").replace("\n", " ") for cell in row]
            lines.append(f"| {' | '.join(inside)} |")
    return "\n".join(lines) + "\n"


def read_page(page: Path) -> dict[str, dict[str, list[str]]]:
    """Read the rows of a page that `markdown` has written, by list and by model."""
    found: dict[str, dict[str, list[str]]] = {which: {} for which in TITLES}
    named = {title: which for which, title in TITLES.items()}
    which = ""
    for line in page.read_text(encoding="utf-8").splitlines() if page.exists() else ():
        if line.startswith("## "):
            which = named.get(line.removeprefix("## "), "")
        elif which and line.startswith("| ") and not line.startswith(f"| {COLUMNS[0]} |"):
            row = [cell.replace("\\|", "|") for cell in line[2:-2].split(" | ")]
            found[which][row[0]] = row
    return found


def versions() -> str:
    """List the versions that the figures depend on."""
    from importlib import metadata

    names = ("torch", "timm", "transformers", "torch_geometric")
    return ", ".join(f"{n} {metadata.version(n)}" for n in names)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--only", action="append", choices=list(zoo.LISTS), help="only this list")
    parser.add_argument("--model", action="append", help="only the models of this name")
    parser.add_argument("--markdown", type=Path, help="also write the tables to this page")
    parser.add_argument("--jobs", type=int, default=2, help="models to run at a time")
    parser.add_argument("--seconds", type=float, default=300, help="time limit for a model")
    parser.add_argument("--scale", type=float, default=1.0, help="length of the loss's gradient")
    parser.add_argument(
        "--partial", action="store_true", help="skip refused modules and convert the rest"
    )
    parser.add_argument("--table", action="store_true", help="print each model's coverage")
    parser.add_argument("--json", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.json:
        import lra
        from zoo import precision

        warnings.simplefilter("ignore")
        try:
            with precision.Float64() as mode:
                row = scaled(options.only[0], options.model[0], options.scale, options.partial)
            row["casts"] = mode.replaced
        except lra.errors.ConversionError as error:  # under targets alone
            row = {"refused": refusals(error), "converted": False, "remedy": None}
        except Exception as error:
            frame = traceback.extract_tb(error.__traceback__)[-1]
            reason = " ".join(str(error).split())[:300]
            where = f"{Path(frame.filename).name}:{frame.lineno}"
            row = {"error": f"{type(error).__name__}: {reason} ({where})"}
        print(json.dumps(row))
        return
    print(versions())
    common = ["--scale", str(options.scale), *(["--partial"] if options.partial else [])]
    results: dict[str, dict[str, list[str]]] = {}
    for which in options.only or list(zoo.LISTS):
        names = [e.name for e in zoo.entries(which) if e.name in (options.model or [e.name])]
        if not names:
            continue
        width = max(map(len, names)) + 2
        print(f"\n{TITLES[which]}\n{COLUMNS[0]:<{width}}", *[f"{c:<11}" for c in COLUMNS[1:]])
        rows = results.setdefault(which, {})
        command = ["reach.py", *common, "--json", "--only", which, "--model"]
        for name, row in isolated.measure_all(
            names, lambda n, c=command: [*c, n], options.jobs, options.seconds
        ):
            rows[name] = cells(name, row)
            print(f"{name:<{width}}", *[f"{cell:<11}" for cell in rows[name][1:]], flush=True)
            if options.table and "table" in row:
                print(row["table"])
        print(summary(list(rows.values())))
    missing = set(options.model or ()) - {name for rows in results.values() for name in rows}
    if missing:
        sys.exit(f"no such model: {', '.join(sorted(missing))}")
    if options.markdown:
        kept = read_page(options.markdown)
        tables = {}
        for which in zoo.LISTS:
            measured = kept[which] | results.get(which, {})
            tables[which] = [measured[e.name] for e in zoo.entries(which) if e.name in measured]
        options.markdown.write_text(markdown(tables))


if __name__ == "__main__":
    main()

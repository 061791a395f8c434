"""Check that every entry of the zoo runs under plain backprop, reproducibly to the bit.

    python -m zoo [LIST ...] [--model NAME] [--jobs 2]

Run it in `benchmarks/`. It prints a row per entry: the number of parameters, the seconds of a
forward and backward pass in float64, the largest gradient, and the parameters without a gradient.
"""

import argparse
import json
import time
import warnings
from typing import Any

import zoo
from zoo import isolated


def check(which: str, name: str) -> dict[str, Any]:
    """Compute an entry's gradients twice, and once more after building it again."""
    import resource

    from zoo import graph, measure

    warnings.simplefilter("ignore")
    started = time.perf_counter()
    model, example = measure.build(zoo.entry(which, name))
    built = time.perf_counter() - started
    started = time.perf_counter()
    value, first = measure.gradients(model, example)
    seconds = time.perf_counter() - started
    again, second = measure.gradients(model, example)
    other, third = measure.gradients(*measure.build(zoo.entry(which, name)))
    for found in (second, third):
        for key, g in first.items():
            h = found[key]
            assert (g is None) == (h is None), f"{key}: has a gradient in only one run"
            assert g is None or g.equal(h), f"{key}: gradients differ by {(g - h).abs().max():.2g}"
    assert value == again == other, "the loss differs between runs"
    bad = [k for k, g in first.items() if g is not None and not g.isfinite().all()]
    assert not bad, f"gradients are not finite: {bad[:3]}"
    largest = measure.largest(first)
    assert largest > 0, "all gradients are zero"
    sizes = [0.0 if g is None else g.abs().max().item() / largest for g in first.values()]
    return {
        "parameters": sum(p.numel() for p in model.parameters()),
        "built": built,
        "seconds": seconds,
        "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
        "loss": value,
        "largest": largest,
        "faint": sum(0 < s < measure.FLOOR for s in sizes),
        "count": len(sizes),
        "below": len(graph.below(model, example)),
        "silent": measure.silent(first),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("lists", nargs="*", choices=[[], *zoo.LISTS], default=[])
    parser.add_argument("--model", action="append", help="check only the entry of this name")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=120, help="time limit for an entry")
    parser.add_argument("--json", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.json:
        from zoo import precision

        with precision.Float64():
            print(json.dumps(check(options.lists[0], options.model[0])))
        return
    for which in options.lists or list(zoo.LISTS):
        names = [e.name for e in zoo.entries(which) if e.name in (options.model or [e.name])]
        failed = []
        command = ["-m", "zoo", which, "--json", "--model"]
        rows = isolated.measure_all(
            names, lambda n, c=command: [*c, n], options.jobs, options.seconds
        )
        for name, row in rows:
            if "error" in row:
                failed.append(name)
                print(f"{which} {name}: FAILS {row['error']}", flush=True)
                continue
            silent = row["silent"]
            print(
                f"{which} {name}: {row['parameters']:,} weights, {row['below']} of "
                f"{row['count']} parameters below a weight, built in {row['built']:.1f} s, "
                f"step {row['seconds']:.2f} s, {row['peak']:.1f} GiB, "
                f"largest {row['largest']:.1e}, faint {row['faint']}"
                + (f", no gradient ({len(silent)}): {' '.join(silent[:4])}" if silent else ""),
                flush=True,
            )
        print(f"{which}: {len(names) - len(failed)} of {len(names)} run; failed: {failed}\n")


if __name__ == "__main__":
    main()

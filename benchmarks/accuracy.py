"""Compare LRA-E with backprop on the recipes of the authors' scripts, over several seeds.

    python benchmarks/accuracy.py --epochs 20 --seeds 0 1 2 --out runs/accuracy

Every run is `lra train DATASET --recipe RECIPE --rule RULE --epochs E --seed S`; runs that are
there already are not repeated. Test accuracy is that of the weights with the best validation
accuracy. Prints a Markdown table, and writes it and all results to OUT/accuracy.md and
OUT/accuracy.json.
"""

import argparse
import concurrent.futures
import itertools
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

RECIPES = {"seed-mnist": "mnist", "seed-fashion-mnist": "fashion-mnist"}
RULES = ("lra-e", "backprop")


def train(recipe: str, rule: str, seed: int, epochs: int, out: Path) -> dict:
    """Train one network in a separate process with one thread, and return its result."""
    folder = out / f"{recipe}-{rule}-{seed}"
    result = folder / "result.json"
    if not result.exists():
        command = [sys.executable, "-m", "lra", "train", RECIPES[recipe], "--recipe", recipe]
        command += ["--rule", rule, "--epochs", str(epochs), "--seed", str(seed)]
        command += ["--out", str(folder), "--overwrite"]
        with (out / f"{folder.name}.log").open("w") as log:
            environment = os.environ | {"OMP_NUM_THREADS": "1"}
            subprocess.run(command, stdout=log, stderr=log, check=True, env=environment)
    return json.loads(result.read_text())


def spread(values: list[float]) -> str:
    """Format the mean and the sample standard deviation."""
    deviation = statistics.stdev(values) if len(values) > 1 else 0.0
    return f"{statistics.mean(values):.2f} ± {deviation:.2f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path("runs/accuracy"))
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    cases = list(itertools.product(RECIPES, RULES))
    with concurrent.futures.ThreadPoolExecutor(options.jobs) as pool:
        futures = {
            (case, seed): pool.submit(train, *case, seed, options.epochs, options.out)
            for seed in options.seeds
            for case in cases
        }
        results = {key: future.result() for key, future in futures.items()}
    table = {case: [results[case, seed] for seed in options.seeds] for case in cases}
    lines = [
        "| recipe | rule | validation % | test % | test % of the last weights |",
        "|---|---|---|---|---|",
    ]
    for (recipe, rule), runs in table.items():
        columns = ("validation_accuracy", "test_accuracy", "test_accuracy_last")
        figures = " | ".join(spread([run[column] for run in runs]) for column in columns)
        lines.append(f"| `{recipe}` | {rule} | {figures} |")
    for recipe in RECIPES:
        gaps = [
            b["test_accuracy"] - a["test_accuracy"]
            for a, b in zip(table[recipe, "lra-e"], table[recipe, "backprop"], strict=True)
        ]
        lines.append(f"| `{recipe}` | backprop minus lra-e | | {spread(gaps)} points | |")
    text = "\n".join(lines) + "\n"
    (options.out / "accuracy.md").write_text(text)
    plain = [{"recipe": c[0], "seed": s} | r for (c, s), r in results.items()]
    (options.out / "accuracy.json").write_text(json.dumps(plain, indent=1) + "\n")
    print(text)


if __name__ == "__main__":
    main()

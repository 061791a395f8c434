"""Training steps of the rules against backprop's, eager: what docs/performance.md tells.

    python benchmarks/speed.py                                   # all, some minutes
    python benchmarks/speed.py perceptrons                       # one part of it
    python benchmarks/speed.py --markdown docs/performance.md    # puts the tables into the page

A step is the forward pass, the updates and the optimizer's step. Contestants take turns within
each row; a figure is the median of the rounds' ratios to backprop's time, with quartiles. Run it
with nothing else running; --cpu counts the thread's own time, which others on the machine disturb
less, and is right for one thread alone.
"""

import argparse
import itertools
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import lra
from lra.lab.config import TrainConfig
from lra.lab.models import build_network
from memory import MODELS, measure
from turns import Timed, take_turns

Step = Callable[[], object]
RULES: dict[str, tuple[lra.Rule | None, bool]] = {
    "backprop": (None, False),
    "LRA-E": (lra.LRAE(), True),
    "LRA-E, E apart": (lra.LRAE(), False),
    "MirroredLRA": (lra.MirroredLRA(), True),
    "Kolen-Pollack": (lra.KolenPollack(), True),
    "feedback alignment": (lra.FeedbackAlignment(), False),
}
"""The rules, and whether their feedback is shared."""
OPTIMIZERS: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    # Steps too small to learn anything: where errors fade away, averages become subnormal numbers,
    # which are slow, and the time would tell how well a rule fits noise.
    "fused AdamW": lambda p: torch.optim.AdamW(p, lr=1e-9, fused=True),
    "AdamW": lambda p: torch.optim.AdamW(p, lr=1e-9),
    "SGD": lambda p: torch.optim.SGD(p, lr=1e-9, fused=True),
}


def perceptron(width: int, depth: int, inputs: int = 784) -> nn.Sequential:
    """Tanh, as many weight layers as depth says, ten classes."""
    sizes = (inputs, *(width,) * (depth - 1), 10)
    layers: list[nn.Module] = []
    for below, above in itertools.pairwise(sizes):
        layers += [nn.Linear(below, above), nn.Tanh()]
    return nn.Sequential(*layers[:-1])


def step_of(
    model: nn.Module, x: Tensor, t: Tensor, optimizer: str, rule: lra.Rule | None, shared: bool
) -> Step:
    """Give a training step of a model by a rule."""
    if rule is not None:
        lra.convert(model, rule, example=x[:2], loss_terms="tokens" if t.dim() > 1 else "batch")
    moves = OPTIMIZERS[optimizer](model.parameters())
    if shared:
        lra.share_feedback(model, moves)

    def step() -> None:
        moves.zero_grad(set_to_none=True)
        F.cross_entropy(model(x).flatten(0, -2), t.flatten()).backward()
        moves.step()

    return step


def products(width: int, depth: int, batch: int) -> Step:
    """Give the matrix products of a perceptron's step alone, each into a new tensor as there."""
    sizes = (784, *(width,) * (depth - 1), 10)
    z = [torch.rand(batch, size) for size in sizes]
    e = [torch.rand(batch, size) for size in sizes[1:]]
    W = [torch.rand(above, below) for below, above in itertools.pairwise(sizes)]

    def multiply() -> None:
        for below, weights in zip(z[:-1], W, strict=True):
            torch.mm(below, weights.t())
        for error, weights in zip(e[1:], W[1:], strict=True):
            torch.mm(error, weights)
        for error, below in zip(e, z[:-1], strict=True):
            torch.mm(error.t(), below)

    return multiply


def compare(
    build: Callable[[], nn.Module], x: Tensor, t: Tensor, options: Any, optimizer: str, **more: Step
) -> dict[str, Timed]:
    """Time the rules on one network."""
    steps = {}
    for name, (rule, shared) in RULES.items():
        torch.manual_seed(0)
        steps[name] = step_of(build(), x, t, optimizer, rule, shared)
    steps |= more
    start = time.perf_counter()
    for step in steps.values():
        step()
    once = (time.perf_counter() - start) / len(steps)
    return take_turns(steps, options.rounds, max(1, min(30, round(0.04 / once))), options.clock)


Row = tuple[str, dict[str, Timed]]


def perceptrons(options: Any) -> list[Row]:
    """Perceptrons of several sizes and optimizers."""
    found = []
    for width, depth, batch, optimizer in (
        (256, 5, 50, "fused AdamW"),
        (256, 5, 256, "fused AdamW"),
        (256, 5, 1024, "fused AdamW"),
        (256, 5, 50, "SGD"),
        (256, 5, 256, "SGD"),
        (256, 5, 50, "AdamW"),
        (256, 3, 50, "fused AdamW"),
        (256, 8, 50, "fused AdamW"),
        (256, 32, 50, "fused AdamW"),
        (1024, 5, 50, "fused AdamW"),
        (1024, 5, 256, "fused AdamW"),
    ):
        name = f"{depth} layers of {width}, batch {batch}, {optimizer}"
        print(f"\n{name}", flush=True)
        x, t = torch.rand(batch, 784), torch.randint(10, (batch,))
        floor = {"matrix products": products(width, depth, batch)}
        found.append(
            (
                name,
                compare(
                    lambda w=width, d=depth: perceptron(w, d), x, t, options, optimizer, **floor
                ),
            )
        )
    return found


def networks(options: Any) -> list[Row]:
    """The workbench's other networks."""
    found = []
    for name, settings, shape, classes in (
        ("ResNet-20, 64 images of 32 x 32", {"model": "resnet", "depth": 20}, (64, 3, 32, 32), 10),
        ("ViT, 64 images of 8 x 8", {"model": "vit"}, (64, 8, 8), 10),
        ("ViT, 64 images of 28 x 28", {"model": "vit", "patch": 4}, (64, 28, 28), 10),
        ("GPT, 16 texts of 128", {"model": "gpt"}, (16, 128), 96),
        ("LeNet, 64 images of 28 x 28", {"model": "lenet"}, (64, 28, 28), 10),
    ):
        print(f"\n{name}", flush=True)
        config = TrainConfig("digits", **settings)
        text = settings["model"] == "gpt"
        x = torch.randint(classes, shape) if text else torch.rand(shape)
        t = torch.randint(classes, shape if text else shape[:1])
        found.append(
            (
                name,
                compare(
                    lambda c=config, s=shape[1:], n=classes: build_network(c, s, n),
                    *(x, t, options, "fused AdamW"),
                ),
            )
        )
    return found


def scaling(options: Any) -> list[Row]:
    """Time against depth and width, one batch of 50."""
    found = []
    for width, depth in (
        *((128, d) for d in (2, 4, 8, 16, 32, 64, 128)),
        *((w, 4) for w in (64, 256, 512, 1024, 2048)),
    ):
        name = f"{depth} layers of {width}"
        print(f"\n{name}", flush=True)
        x, t = torch.rand(50, 784), torch.randint(10, (50,))
        found.append(
            (
                name,
                compare(lambda w=width, d=depth: perceptron(w, d), x, t, options, "fused AdamW"),
            )
        )
    return found


def optimizers(options: Any) -> list[Row]:
    """The optimizer's step alone, with the updates there."""
    found = []
    for optimizer in OPTIMIZERS:
        steps = {}
        for name in ("backprop", "LRA-E", "LRA-E, E apart"):
            rule, shared = RULES[name]
            model = perceptron(256, 5)
            if rule is not None:
                lra.convert(model, rule)
            moves = OPTIMIZERS[optimizer](model.parameters())
            if shared:
                lra.share_feedback(model, moves)
            F.cross_entropy(model(torch.rand(50, 784)), torch.randint(10, (50,))).backward()
            steps[name] = moves.step
        print(f"\n{optimizer}, its step alone", flush=True)
        found.append((optimizer, take_turns(steps, options.rounds, 30, options.clock)))
    return found


def table(rows: list[Row]) -> str:
    """Write rows as Markdown."""
    names = [
        name for name in dict.fromkeys(n for _, row in rows for n in row) if name != "backprop"
    ]
    lines = [f"| | backprop | {' | '.join(names)} |", "|---" * (len(names) + 2) + "|"]
    for title, row in rows:
        figures = [str(row[name]) if name in row else "" for name in names]
        lines.append(f"| {title} | {row['backprop'].ms:.2f} ms | {' | '.join(figures)} |")
    return "\n".join(lines)


def memory(options: Any) -> str:
    """Peak memory of a step, weights, feedback and the optimizer's state included."""
    lines = [
        "| network | backprop | LRA-E | LRA-E, E apart | MirroredLRA |",
        "|---|---|---|---|---|",
    ]
    for name, (build, shape) in MODELS.items():
        base = measure(build, shape, None)[1]
        ratios = [
            measure(build, shape, *RULES[rule])[1] / base
            for rule in ("LRA-E", "LRA-E, E apart", "MirroredLRA")
        ]
        figures = " | ".join(f"{ratio:.2f}" for ratio in ratios)
        lines.append(f"| {name} | {base / 2**20:.1f} MiB | {figures} |")
    print("\n".join(lines))
    return "\n".join(lines)


def draw(rows: list[Row], path: Path) -> None:
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
        ticks = [1, 2, 5, 10, 20, 50, 100, 200]
        axis.set_yticks(ticks, [str(tick) for tick in ticks])
        axis.minorticks_off()
        axis.legend()
    figure.savefig(path, dpi=130)


PARTS: dict[str, Callable[[Any], Any]] = {
    "perceptrons": perceptrons,
    "networks": networks,
    "optimizers": optimizers,
    "scaling": scaling,
    "memory": memory,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("parts", nargs="*", help=f"some of {', '.join(PARTS)}; by default all")
    parser.add_argument("--rounds", type=int, default=25)
    parser.add_argument("--cpu", action="store_true", help="count the thread's own time")
    parser.add_argument("--markdown", type=Path, help="a page with <!-- table: PART --> marks")
    options = parser.parse_args()
    if unknown := set(options.parts) - set(PARTS):
        parser.error(f"unknown part {', '.join(sorted(unknown))}; known: {', '.join(PARTS)}")
    options.clock = time.thread_time if options.cpu else time.perf_counter
    threads = torch.get_num_threads()
    print(f"torch {torch.__version__}, {threads} threads")
    for part in options.parts or PARTS:
        found = PARTS[part](options)
        written = found if isinstance(found, str) else table(found)
        if options.markdown is None:
            continue
        if part == "scaling":
            draw(found, options.markdown.parent / "performance.png")
        page = options.markdown.read_text("utf-8")
        block = f"<!-- table: {part} -->\n{written}\n<!-- end -->"
        page = re.sub(
            rf"<!-- table: {part} -->.*?<!-- end -->", lambda _, b=block: b, page, flags=re.DOTALL
        )
        options.markdown.write_text(page, "utf-8")


if __name__ == "__main__":
    main()

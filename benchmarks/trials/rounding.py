"""What rounding does to the published rule: subtraction against closed forms, and AdamW's eps."""

import itertools
import statistics
from dataclasses import dataclass
from typing import Any

import torch

import lra
from lra.differences import Phi
from lra.lab import data
from trials.probes import Pair, Row, accuracy, perceptron, train

DEPTHS = (4, 8, 16)
SEEDS = (0, 1, 2)
RATES = (3e-4, 1e-3, 3e-3, 1e-2)
IMAGES, VALIDATION, EPOCHS = 30_000, 10_000, 2


@dataclass(frozen=True)
class BySubtraction(lra.crossing.TargetDifference):
    """The published crossing, with z - phi(h - beta N d) by subtraction in float32."""

    def error(self, phi: Any, h: Any, z: Any, d: Any, n: float, xp: Any) -> Any:
        """Compute the error without closed forms."""
        return super().error(Phi(Phi.of(phi).f), h, z, d, n, xp)


def rounding() -> list[Row]:
    """Train tanh networks of several depths, three seeds each, by every combination."""
    arrays = data.load("mnist")
    x, t = torch.from_numpy(arrays.x_train), torch.from_numpy(arrays.y_train)
    parts = (
        (x[:IMAGES], t[:IMAGES]),
        (x[-VALIDATION:], t[-VALIDATION:]),
        (torch.from_numpy(arrays.x_test), torch.from_numpy(arrays.y_test)),
    )
    rows = []
    for depth in DEPTHS:
        rows.append(_row(depth, lra.Backprop(), 1e-8, parts, "-", "-"))
        for init, crossing, eps in itertools.product(
            (lra.inits.LikeWeights(), lra.inits.Mirror()),
            (BySubtraction(), lra.crossing.TargetDifference()),
            (1e-8, 1e-18),
        ):
            rule = lra.Rule(lra.feedback.Learned(init=init), crossing)
            feedback = "mirrored" if isinstance(init, lra.inits.Mirror) else "random"
            kind = "subtraction" if isinstance(crossing, BySubtraction) else "closed form"
            rows.append(_row(depth, rule, eps, parts, feedback, kind))
    return rows


def _row(
    depth: int,
    rule: lra.Rule,
    eps: float,
    parts: tuple[Pair, Pair, Pair],
    feedback: str,
    difference: str,
) -> Row:
    """Choose the learning rate on validation images, then test three other seeds."""
    images, validation, test = parts

    def result(rate: float, seed: int, pair: Pair) -> float:
        model = lra.convert(perceptron(depth, seed), rule)
        optimizer = torch.optim.AdamW(model.parameters(), lr=rate, eps=eps)
        train(model, optimizer, images, EPOCHS, seed)
        return accuracy(model, pair)

    rate = max(RATES, key=lambda rate: result(rate, 100, validation))
    found = [result(rate, seed, test) for seed in SEEDS]
    row = {
        "layers": depth,
        "rule": "backprop" if rule == lra.Backprop() else "LRA-E, published",
        "feedback": feedback,
        "difference": difference,
        "eps": f"{eps:.0e}",
        "learning rate": rate,
        "test accuracy (%)": f"{statistics.mean(found):.1f} ± {statistics.stdev(found):.1f}",
    }
    print(*row.values(), flush=True)
    return row

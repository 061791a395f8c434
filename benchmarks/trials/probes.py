"""The probes of the study: feedback angles, target distances, locality, fine-tuning."""

import copy
import math
import statistics
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import lra
from lra.lab import data
from lra.lab.networks.build import build_network
from lra.lab.settings.config import TrainConfig
from lra.lab.settings.schedule import factor
from lra.lab.settings.spec import format_spec
from lra.torch.diagnose import angle_between
from trials.contests import LECUN

Row = dict[str, Any]
Pair = tuple[Tensor, Tensor]


def load(name: str, train: int, measured: int) -> tuple[Pair, Pair]:
    """Return the first training images to train on, and the last ones to measure on."""
    arrays = data.load(name)
    x, t = torch.from_numpy(arrays.x_train), torch.from_numpy(arrays.y_train)
    return (x[:train], t[:train]), (x[-measured:], t[-measured:])


def perceptron(depth: int, seed: int, **settings: Any) -> nn.Module:
    """Build a tanh multilayer perceptron of width 128."""
    torch.manual_seed(seed)
    options = {"width": 128, "depth": depth, "activation": "tanh", "init": LECUN} | settings
    config = TrainConfig("mnist", model=format_spec("mlp", options))
    return build_network(config, (28, 28), 10)


def train(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    pair: Pair,
    epochs: int,
    seed: int,
    schedule: str = "constant",
    each: Callable[[int], None] | None = None,
) -> None:
    """Train in batches of 100, or of 50 if there are at most 10,000 images.

    Args:
        model: the model.
        optimizer: its optimizer.
        pair: images and labels.
        epochs: the number of epochs.
        seed: the seed of the order of the images.
        schedule: the learning rate schedule.
        each: called after each step with the number of finished steps.
    """
    x, t = pair
    size = 100 if len(t) > 10_000 else 50
    order = torch.Generator().manual_seed(seed)
    steps, done = epochs * math.ceil(len(t) / size), 0
    rate = optimizer.param_groups[0]["lr"]
    model.train()
    for _ in range(epochs):
        for batch in torch.randperm(len(t), generator=order).split(size):
            for group in optimizer.param_groups:
                group["lr"] = rate * factor(schedule, None, done, steps)
            optimizer.zero_grad()
            F.cross_entropy(model(x[batch]), t[batch]).backward()
            optimizer.step()
            done += 1
            if each:
                each(done)


@torch.no_grad()
def accuracy(model: nn.Module, pair: Pair) -> float:
    """Return the accuracy in percent."""
    model.eval()
    x, t = pair
    correct = sum(
        int((model(a).argmax(1) == b).sum())
        for a, b in zip(x.split(1000), t.split(1000), strict=True)
    )
    return 100 * correct / len(t)


def layers(model: nn.Module) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the feedback weights and the weights of each layer."""
    for module in model.modules():
        if isinstance(getattr(module, "feedback", None), Tensor):
            yield module.feedback.detach(), module.weight.detach()


# ---------------------------------------------------------------- the angle of E to W

OPTIMIZERS: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    "SGD": lambda p: torch.optim.SGD(p, lr=0.1),
    "SGD, decay 1e-3": lambda p: torch.optim.SGD(p, lr=0.1, weight_decay=1e-3),
    "momentum 0.9": lambda p: torch.optim.SGD(p, lr=0.03, momentum=0.9),
    "AdamW, no decay": lambda p: torch.optim.AdamW(p, lr=1e-3, weight_decay=0.0),
    "AdamW, decay 0.01": lambda p: torch.optim.AdamW(p, lr=1e-3, weight_decay=0.01),
    "AdamW, decay 1": lambda p: torch.optim.AdamW(p, lr=1e-3, weight_decay=1.0),
    "Adam, L2 1e-3": lambda p: torch.optim.Adam(p, lr=1e-3, weight_decay=1e-3),
}


def angles() -> list[Row]:
    """Measure the mean angle of E to W over the layers, during two epochs of 20,000 images."""
    pair, measured = load("mnist", 20_000, 5_000)
    rows = []
    for name, build in OPTIMIZERS.items():
        for gamma, every in ((1.0, 0), (0.1, 0), (0.1, 50)):
            rows.append(_angles_of(name, build, gamma, every, pair, measured))
    adam = "AdamW, decay 0.01"
    rows.append(_angles_of(adam, OPTIMIZERS[adam], 1.0, 0, pair, measured, frozen=True))
    rows.append(_angles_of(adam, OPTIMIZERS[adam], 0.0, 0, pair, measured))
    return rows


def _angles_of(
    name: str,
    build: Any,
    gamma: float,
    every: int,
    pair: Pair,
    measured: Pair,
    frozen: bool = False,
) -> Row:
    model = perceptron(8, 0)
    torch.manual_seed(0)
    lra.convert(model, lra.MirroredLRA(gamma=gamma))
    optimizer = build(model.parameters())
    angles = [statistics.mean(angle_between(E, W) for E, W in layers(model))]
    half = 200

    def each(step: int) -> None:
        if frozen and step in (1, half):  # the middle layers are frozen for the first half
            for module in list(model)[6:12]:
                module.requires_grad_(step == half)
        if every and step % every == 0:
            lra.mirror(model)
        if step % 100 == 0:
            angles.append(statistics.mean(angle_between(E, W) for E, W in layers(model)))

    train(model, optimizer, pair, 2, 0, each=each)
    how = "frozen, then not" if frozen else f"mirrored every {every} steps" if every else ""
    return {
        "optimizer": name, "gamma": gamma, "how": how, "start": angles[0], "largest": max(angles),
        "end": angles[-1], "validation": accuracy(model, measured),
    }  # fmt: skip


# ---------------------------------------------------------------- the effect of beta


def distances(
    betas: Sequence[float] = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0),
) -> list[Row]:
    """Measure how far targets are from outputs, and the angle of updates to the gradient.

    The network is a tanh perceptron of 8 layers, at initialization and after an epoch of backprop
    on 20,000 images. E = W, so that only beta matters. The distance is that of the unit with the
    largest move, as a share of the range -1 to 1, averaged over samples and layers.
    """
    pair, _ = load("mnist", 20_000, 1)
    x, t = pair[0][:500].double(), pair[1][:500]
    rows = []
    for when in ("drawn", "trained"):
        plain = perceptron(8, 0)
        if when == "trained":
            train(plain, torch.optim.AdamW(plain.parameters(), lr=1e-3), pair, 1, 0)
        plain.double()
        for beta in betas:
            model = copy.deepcopy(plain)
            moved: list[float] = []
            crossing = _RecordedTargets(
                beta,
                normalized=True,
                two_sided=True,
                relative=lra.crossing.Relative.BATCH,
                moved=moved,
            )
            lra.convert(model, lra.Rule(lra.feedback.Transpose(), crossing))
            angles = [layer.angle for layer in lra.diagnose(model, x, t).weights]
            rows.append(
                {
                    "weights": when, "beta": beta, "distance": statistics.mean(moved),
                    "angle, mean of layers": statistics.mean(angles),
                    "angle, first layer": angles[0],
                }
            )  # fmt: skip
    return rows


class _RecordedTargets(lra.crossing.TargetDifference):
    """Records the distance of the target from the output, for the unit with the largest move.

    It is half the gap between the two targets, averaged over samples, as a share of the range -1
    to 1.
    """

    def __init__(self, beta: float, moved: list[float], **options: Any) -> None:
        super().__init__(beta, **options)
        object.__setattr__(self, "moved", moved)

    def error(self, phi: Any, h: Tensor, z: Tensor, d: Tensor, n: float, xp: Any) -> Tensor:
        m = self.move(d, n, xp)
        gap = (phi(h + m) - phi(h - m)).abs().amax(1) / 2
        self.moved.append(float(gap.mean()) / 2)
        return super().error(phi, h, z, d, n, xp)


# ---------------------------------------------------------------- operations left to autograd


def locality() -> list[Row]:
    """Return the operations of each network that errors cross by autograd's derivative."""
    cases = {
        "mlp": ((28, 28), None), "residual-mlp": ((28, 28), None), "lenet": ((28, 28), None),
        "resnet": ((3, 32, 32), None), "vit": ((3, 32, 32), None), "gpt": ((32,), 90),
    }  # fmt: skip
    rows = []
    for name, (shape, characters) in cases.items():
        config = TrainConfig("python" if characters else "mnist", model=name)
        torch.manual_seed(0)
        model = build_network(config, shape, characters or 10)
        x = torch.randint(0, 90, (2, *shape)) if characters else torch.rand(2, *shape)
        lra.convert(model, lra.MirroredLRA(samples=1), example=x)
        coverage = lra.coverage(model)
        rows.append(
            {
                "network": name, "weights by the rule": f"{coverage.share:.0%}",
                "activations by the rule": f"{coverage.activation_share:.0%}",
                "autograd's derivative of": ", ".join(coverage.passes) or "nothing",
            }
        )  # fmt: skip
    return rows


# ---------------------------------------------------------------- fine-tuning


def finetune(seeds: Sequence[int] = (0, 1, 2), rates: Sequence[float] = (1e-3, 3e-3)) -> list[Row]:
    """Fine-tune LeNet, trained on Fashion-MNIST by backprop, on 5,000 images of MNIST."""
    config = TrainConfig("mnist", model="lenet")
    fashion, _ = load("fashion-mnist", 20_000, 1)
    digits, validation = load("mnist", 5_000, 5_000)
    arrays = data.load("mnist")
    assert arrays.x_test is not None
    assert arrays.y_test is not None
    test = torch.from_numpy(arrays.x_test), torch.from_numpy(arrays.y_test)
    rules = {
        "backprop": lra.Backprop(), "mirrored LRA": lra.MirroredLRA(), "LRA-E": lra.LRAE(),
        "feedback alignment": lra.FeedbackAlignment(),
    }  # fmt: skip
    rows = []
    for seed in seeds:
        torch.manual_seed(seed)
        start = build_network(config, (28, 28), 10)
        train(start, torch.optim.AdamW(start.parameters(), lr=1e-3), fashion, 2, seed, "one-cycle")
        for name, rule in rules.items():
            tried = []
            for rate in rates:
                model = copy.deepcopy(start)
                torch.manual_seed(seed)
                lra.convert(model, rule)
                optimizer = torch.optim.AdamW(model.parameters(), lr=rate)
                train(model, optimizer, digits, 4, seed, "one-cycle")
                tried.append((accuracy(model, validation), rate, model))
            best, rate, model = max(tried, key=lambda each: each[0])
            rows.append(
                {
                    "part": "finetune", "network": "LeNet, Fashion-MNIST, then 5,000 of MNIST",
                    "rule": name, "seed": seed, "lr": rate, "validation_accuracy": best,
                    "test_accuracy": accuracy(model, test), "failed": False,
                }
            )  # fmt: skip
    return rows

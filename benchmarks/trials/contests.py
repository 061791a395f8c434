"""The contests of the study: their networks, rules and learning rates."""

import math
from pathlib import Path
from typing import Any

import lra
from trials.run import Contest, Entrant
from trials.subsets import characters, pictures

LECUN, KAIMING = lra.inits.FanIn(math.sqrt(3)), lra.inits.FanIn(math.sqrt(6))

BACKPROP = Entrant("backprop", lra.Backprop())
MIRRORED = Entrant("mirrored LRA", lra.MirroredLRA())
PUBLISHED = Entrant("LRA-E", lra.LRAE())
NORMALIZED = Entrant("LRA-E, normalised", lra.LRAE(normalized=True))
ONE_SIDED = Entrant("mirror, one-sided", lra.LRAE(init=lra.inits.Mirror(), normalized=True))
KOLEN_POLLACK = Entrant("Kolen-Pollack, mirror", lra.KolenPollack(init=lra.inits.Mirror()))
ALIGNMENT = Entrant("feedback alignment", lra.FeedbackAlignment())
MAIN = (BACKPROP, MIRRORED, ONE_SIDED, PUBLISHED)
FOUR = (BACKPROP, MIRRORED, PUBLISHED, ALIGNMENT)
ALL = (*MAIN, NORMALIZED, KOLEN_POLLACK, ALIGNMENT)

MNIST: dict[str, Any] = {
    "dataset": "mnist", "batch_size": 100, "schedule": "one-cycle", "epochs": 3, "validation": 2000,
}  # fmt: skip
SHORT = {"epochs": 1, "validation": 38_000}
"""A trial trains on 22,000 images and validates on the other 38,000."""


def depth() -> list[Contest]:
    """Return the contests on accuracy against depth."""
    tanh = {"model": "mlp", "activation": "tanh", "init": LECUN}
    found = []
    for kind, settings, depths, entrants in (
        ("tanh", tanh, (4, 8, 16), ALL),
        ("tanh", tanh, (32,), (*MAIN, KOLEN_POLLACK, ALIGNMENT)),
        (
            "residual tanh",
            tanh | {"model": "residual-mlp"},
            (64, 128),
            FOUR,
        ),
        ("ReLU", tanh | {"activation": "relu", "init": KAIMING}, (4, 8, 16), (*MAIN, ALIGNMENT)),
        ("tanh", tanh, (64,), FOUR),
    ):
        for layers in depths:
            shallow = layers <= 16
            found.append(
                Contest(
                    "depth",
                    f"{kind}, {layers} layers",
                    MNIST
                    | settings
                    | {"width": 128, "depth": layers, "epochs": 3 if shallow else 2},
                    entrants,
                    (3e-4, 1e-3, 3e-3) if shallow else (1e-4, 3e-4, 1e-3),
                    SHORT,
                )
            )  # fmt: skip
    return found


def ingredients() -> list[Contest]:
    """Return the contest between variants of the rule, on a network of 16 layers."""
    network = MNIST | {"model": "mlp", "width": 128, "depth": 16, "activation": "tanh", "epochs": 2}

    def rule(
        beta: float = 1.0,
        relative: str | None = "batch",
        init: Any = None,
        gamma: float = 1.0,
        two_sided: bool = True,
    ) -> lra.Rule:
        init = lra.inits.Mirror() if init is None else init
        return lra.LRAE(
            beta, gamma, init=init, normalized=True, two_sided=two_sided, relative=relative
        )

    variants = {
        "mirrored LRA": rule(),
        "random E": rule(init=lra.inits.LikeWeights()),
        "random E, beta 10": rule(10.0, init=lra.inits.LikeWeights()),
        "one-sided": rule(two_sided=False),
        "one-sided, beta 0.1": rule(0.1, two_sided=False),
        "beta N d": rule(relative=None),
        "beta N d, beta 10": rule(10.0, relative=None),
        "relative to the sample": rule(relative="sample"),
        "relative to the sample, beta 0.1": rule(0.1, relative="sample"),
        **{f"beta {b:g}": rule(b) for b in (0.01, 0.1, 3.0, 10.0, 100.0)},
        **{f"{n:,} samples": rule(init=lra.inits.Mirror(n)) for n in (100, 1000)},
        "gamma 0": rule(gamma=0.0),
        "gamma 0.1": rule(gamma=0.1),
    }
    entrants = (BACKPROP, *(Entrant(name, rule) for name, rule in variants.items()))
    return [Contest("ingredients", "tanh, 16 layers", network | {"init": LECUN}, entrants, (1e-3,))]


def networks(out: Path, images: Path) -> list[Contest]:
    """Return the contests on other architectures, without those whose data are missing.

    Args:
        out: the folder for subsets of the data.
        images: the .npz of `cifar_jpeg.py`, if it exists.
    """
    lenet = {"model": "lenet", "batch_size": 64, "schedule": "one-cycle", "epochs": 4}
    digits = {"dataset": "digits", "batch_size": 50, "schedule": "one-cycle"}
    rules = (BACKPROP, MIRRORED, PUBLISHED)
    found = [
        Contest(
            "networks", "vision transformer, digits",
            digits | {"model": "vit", "patch": 2, "epochs": 20}, rules,
            (1e-3, 3e-3), {"epochs": 8}, tuple(range(10)),
        ),
        Contest(
            "networks", "ResNet-8, digits",
            digits | {"model": "resnet", "depth": 8, "epochs": 15}, rules,
            (3e-3, 1e-2), {"epochs": 5},
        ),
        Contest(
            "networks", "LeNet, Fashion-MNIST", lenet | {"dataset": "fashion-mnist"}, rules,
            (1e-3, 3e-3), {"validation": 48_000, "epochs": 1},
        ),
        Contest(
            "networks", "GPT, Python's library",
            {"dataset": str(characters(out)), "model": "gpt", "width": 96, "depth": 4,
             "context": 64, "batch_size": 32, "epochs": 1, "schedule": "one-cycle"},
            rules[:2], (1e-3, 3e-3), {"validation": 10_000},
        ),
    ]  # fmt: skip
    if images.exists():
        settings = {
            "dataset": str(pictures(out, images)), "model": "resnet", "depth": 8,
            "batch_size": 100, "augment": ("flip", "crop"), "epochs": 3, "schedule": "one-cycle",
        }  # fmt: skip
        found.append(
            Contest(
                "networks", "ResNet-8, 12,000 pictures of CIFAR-10 (JPEG copy)", settings,
                rules[:2], (3e-3, 1e-2, 3e-2), {"validation": 2_000}, tuple(range(6)),
            )
        )  # fmt: skip
    return found


ACTIVATIONS = {
    "sign": "hardtanh", "heaviside": "sigmoid", "bernoulli": "sigmoid", "lwta:2": None,
    "quantized:16": "tanh", "quantized:8": "tanh", "quantized:4": "tanh", "table": "tanh",
}  # fmt: skip
"""Activations without a useful derivative, and the surrogate of each for backprop."""


def units() -> list[Contest]:
    """Return the contests on activations without a useful derivative."""
    surrogates = {
        "hardtanh": lra.crossing.HardTanhSurrogate(),
        "sigmoid": lra.crossing.SigmoidSurrogate(),
        "tanh": lra.crossing.TanhSurrogate(),
    }
    relative_to_batch = lra.LRAE(
        1.0, init=lra.inits.Mirror(), normalized=True, two_sided=True, relative="batch"
    )  # MirroredLRA as it treats activations with slopes
    found = []
    for layers in (3, 8):
        for activation, surrogate in ACTIVATIONS.items():
            if layers == 8 and activation in ("quantized:16", "quantized:8", "table"):
                continue
            entrants = (
                [MIRRORED] if activation == "table" else [BACKPROP, MIRRORED]
            )  # no derivative
            if surrogate is not None:
                by_surrogate = lra.LRAE(
                    init=lra.inits.Mirror(), normalized=True, surrogate=surrogates[surrogate]
                )
                settings = {"straight_through": surrogate}
                entrants.append(Entrant("straight-through backprop", lra.Backprop(), settings))
                if layers == 3:
                    entrants.append(Entrant("one-sided, through the surrogate", by_surrogate))
            if activation == "sign":
                entrants.append(Entrant("relative to the batch", relative_to_batch))
            shape = {"model": "mlp", "width": 256, "depth": layers + 1, "activation": activation}
            noisy = layers == 8 and activation in ("bernoulli", "lwta:2")  # these need long trials
            rates = (3e-4, 1e-3, 3e-3, 1e-2) if noisy else (1e-3, 3e-3)
            trial = {"validation": 5000} if noisy else SHORT
            found.append(
                Contest(
                    "units", f"{activation}, {layers} layers",
                    MNIST | shape | {"init": LECUN, "epochs": 2},
                    tuple(entrants), rates, trial,
                )
            )  # fmt: skip
    found.append(
        Contest(
            "units", "bernoulli, 8 layers, 6 epochs",
            MNIST
            | {"model": "mlp", "width": 256, "depth": 9, "activation": "bernoulli"}
            | {"init": LECUN, "epochs": 6},
            (
                MIRRORED,
                Entrant(
                    "straight-through backprop", lra.Backprop(), {"straight_through": "sigmoid"}
                ),
            ),
            (3e-3,),
        )
    )  # fmt: skip
    return found


def beta() -> list[Contest]:
    """Return the contests on beta, the distance of targets."""
    plain = MNIST | {"model": "mlp"}
    tanh = plain | {"width": 256, "depth": 5, "activation": "tanh"}
    sgd = {"optimizer": "sgd", "weight_decay": 0.0}
    low, high = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2), (1e-3, 3e-3, 1e-2, 3e-2, 1e-1)
    betas = tuple(
        Entrant(f"mirrored LRA, beta {b:g}", lra.MirroredLRA(b)) for b in (1.0, 10.0, 100.0)
    )
    return [
        Contest("beta", name, settings, (BACKPROP, *betas), rates, SHORT)
        for name, settings, rates in (
            ("tanh, weights of std 0.5", tanh | {"init": lra.inits.Normal(0.5)}, high),
            ("tanh, weights of std 1", tanh | {"init": lra.inits.Normal(1.0)}, high),
            ("sigmoid, 8 layers",
             plain | {"width": 128, "depth": 8, "activation": "sigmoid", "init": LECUN}, low),
            ("tanh, 8 layers, SGD without momentum",
             plain | sgd | {"width": 128, "depth": 8, "activation": "tanh", "init": LECUN},
             (1e-2, 3e-2, 1e-1, 3e-1, 1.0)),
        )
    ]  # fmt: skip

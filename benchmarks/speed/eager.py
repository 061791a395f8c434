"""Eager steps: perceptrons, the workbench's other networks, depth and width."""

from argparse import Namespace

import torch

from lra.lab.networks.build import build_network
from lra.lab.settings.config import TrainConfig
from speed.steps import Row, compare, perceptron, products, samples


def perceptrons(options: Namespace) -> list[Row]:
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
        x, t = samples(batch, options)
        floor = {"matrix products": products(width, depth, batch, options.device)}
        found.append(
            (
                name,
                compare(
                    lambda w=width, d=depth: perceptron(w, d), x, t, options, optimizer, **floor
                ),
            )
        )
    return found


def networks(options: Namespace) -> list[Row]:
    """The workbench's other networks."""
    found = []
    for name, network, shape, classes in (
        ("ResNet-20, 64 images of 32 x 32", "resnet:depth=20", (64, 3, 32, 32), 10),
        ("ViT, 64 images of 8 x 8", "vit", (64, 8, 8), 10),
        ("ViT, 64 images of 28 x 28", "vit:patch=4", (64, 28, 28), 10),
        ("GPT, 16 texts of 128", "gpt", (16, 128), 96),
        ("LeNet, 64 images of 28 x 28", "lenet", (64, 28, 28), 10),
    ):
        print(f"\n{name}", flush=True)
        config = TrainConfig("digits", model=network)
        text = network == "gpt"
        x = torch.randint(classes, shape) if text else torch.rand(shape)
        t = torch.randint(classes, shape if text else shape[:1])
        x, t = x.to(options.device), t.to(options.device)
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


def scaling(options: Namespace) -> list[Row]:
    """Time against depth and width, one batch of 50."""
    found = []
    for width, depth in (
        *((128, d) for d in (2, 4, 8, 16, 32, 64, 128)),
        *((w, 4) for w in (64, 256, 512, 1024, 2048)),
    ):
        name = f"{depth} layers of {width}"
        print(f"\n{name}", flush=True)
        x, t = samples(50, options)
        found.append(
            (
                name,
                compare(lambda w=width, d=depth: perceptron(w, d), x, t, options, "fused AdamW"),
            )
        )
    return found

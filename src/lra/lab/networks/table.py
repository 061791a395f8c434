"""The workbench's networks, as plain torch modules, and their table."""

import itertools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from torch import Tensor, nn

from lra.errors import OptionError
from lra.inits import FanIn, Init
from lra.lab.networks.parts import (
    KAIMING,
    LECUN,
    Block,
    ChannelsFirst,
    ConvBlock,
    Parts,
    Residual,
    Scale,
    Shape,
    draw_positions,
    image_sizes,
)


def mlp(
    parts: Parts,
    shape: Shape,
    classes: int,
    hidden: tuple[int, ...] | None,
    width: int,
    depth: int,
    dropout: float = 0.0,
) -> nn.Sequential:
    """Build a multilayer perceptron with the given hidden sizes, or depth - 1 of one width.

    Each unit of a hidden layer is dropped with probability `dropout` in training.
    """
    sizes = (math.prod(shape), *hidden_sizes(hidden, width, depth), classes)
    layers: list[nn.Module] = [nn.Flatten()]
    for inputs, outputs in itertools.pairwise(sizes):
        if len(layers) > 1:
            layers.append(parts.activation())
            layers += [nn.Dropout(dropout)] if dropout else []
        layers.append(parts.linear(inputs, outputs))
    return nn.Sequential(*layers)


def hidden_sizes(hidden: Shape | None, width: int, depth: int) -> Shape:
    """Return the sizes of a perceptron's hidden layers."""
    return (width,) * (depth - 1) if hidden is None else hidden


def residual_mlp(
    parts: Parts, shape: Shape, classes: int, width: int, depth: int, scaling: str
) -> nn.Sequential:
    """Build a residual perceptron.

    Between the first and the last layer are depth - 2 layers x + phi(W x + b) / sqrt(depth). With
    the scaling "mupc", layers are W x / sqrt(inputs), x + W phi(x) / sqrt(width depth), and
    W phi(x) / width, for weights from N(0, 1): init=normal:1,bias=false.

    Source: Innocenti et al., µPC: scaling predictive coding to 100+ layer networks, 2025.
    """
    if depth < 2:
        raise OptionError(f"residual-mlp: depth must be 2 or more, got {depth}")
    inputs = math.prod(shape)
    if scaling == "mupc":
        layers = [nn.Flatten(), parts.linear(inputs, width), Scale(inputs**-0.5)]
        for _ in range(depth - 2):
            block = nn.Sequential(parts.activation(), parts.linear(width, width))
            layers.append(Residual(block, (width * depth) ** -0.5))
        head = parts.linear(width, classes)
        return nn.Sequential(*layers, parts.activation(), head, Scale(1 / width))
    layers = [nn.Flatten(), parts.linear(inputs, width), parts.activation()]
    for _ in range(depth - 2):
        block = nn.Sequential(parts.linear(width, width), parts.activation())
        layers.append(Residual(block, depth**-0.5))
    return nn.Sequential(*layers, parts.linear(width, classes))


def lenet(parts: Parts, shape: Shape, classes: int, resize: bool) -> nn.Sequential:
    """Build LeNet-5 for 32x32 images: 5x5 convolutions with 6, 16 and 120 maps, then 84 units.

    Images from 28x28 to 32x32 are padded with zeros unless `resize`, others are resized.

    Source: LeCun et al., Gradient-based learning applied to document recognition, 1998; with
    max-pooling.
    """
    channels, height, width = image_sizes(shape)
    layers: list[nn.Module] = [ChannelsFirst()]
    if not resize and min(height, width) >= 28 and max(height, width) <= 32:
        down, right = 32 - height, 32 - width
        layers.append(nn.ZeroPad2d((right // 2, right - right // 2, down // 2, down - down // 2)))
    else:
        layers.append(nn.Upsample(size=(32, 32), mode="bilinear"))
    for inputs, outputs in ((channels, 6), (6, 16)):
        layers += [parts.conv(inputs, outputs, 5), parts.activation(), nn.MaxPool2d(2)]
    layers += [parts.conv(16, 120, 5), parts.activation(), nn.Flatten()]
    return nn.Sequential(
        *layers, parts.linear(120, 84), parts.activation(), parts.linear(84, classes)
    )


def resnet(parts: Parts, shape: Shape, classes: int, width: int, depth: int) -> nn.Sequential:
    """Build the residual network for CIFAR: three stages of n blocks, depth = 6n + 2 layers.

    Each stage has twice the channels of the one before, and half the height and width. Shortcuts
    have no weights: they subsample pixels and append channels of zeros.

    Source: He et al., Deep residual learning for image recognition, CVPR 2016, option A.
    """
    blocks, rest = divmod(depth - 2, 6)
    if blocks < 1 or rest:
        raise OptionError(f"resnet: depth must be 6 n + 2: 8, 14, 20, 32, ...; got {depth}")
    channels, _, _ = image_sizes(shape)
    layers: list[nn.Module] = [
        *(ChannelsFirst(), parts.conv(channels, width, 3, padding=1, bias=False)),
        *(nn.BatchNorm2d(width), parts.activation()),
    ]
    inputs = width
    for stage in range(3):
        for block in range(blocks):
            outputs, stride = width * 2**stage, 2 if stage and not block else 1
            layers.append(ConvBlock(parts, inputs, outputs, stride))
            inputs = outputs
    layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), parts.linear(inputs, classes)]
    return nn.Sequential(*layers)


class VisionTransformer(nn.Module):
    """A vision transformer: image patches as tokens, blocks, and a linear layer on their mean.

    Source: Dosovitskiy et al., An image is worth 16x16 words, ICLR 2021; with the mean instead of a
    class token.
    """

    def __init__(
        self, parts: Parts, shape: Shape, classes: int, width: int, depth: int, patch: int | None
    ) -> None:
        super().__init__()
        channels, high, wide = image_sizes(shape)
        patch = patch or _default_patch(high, wide)
        if patch > min(high, wide):
            raise OptionError(f"vit: patch {patch} is larger than the images, {high}x{wide}")
        padding = nn.ZeroPad2d((0, -wide % patch, 0, -high % patch))
        self.images = nn.Sequential(ChannelsFirst(), padding)
        self.patches = parts.conv(channels, width, patch, stride=patch)
        self.positions = draw_positions(math.ceil(high / patch) * math.ceil(wide / patch), width)
        self.blocks = nn.Sequential(*(Block(parts, width) for _ in range(depth)))
        self.norm, self.head = parts.norm(width), parts.linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Compute logits (n, classes) of images."""
        tokens = self.patches(self.images(x)).flatten(2).transpose(1, 2) + self.positions
        logits: Tensor = self.head(self.norm(self.blocks(tokens)).mean(1))
        return logits


def _default_patch(high: int, wide: int) -> int:
    """Return the smallest patch size, at least 2, that makes at most 64 tokens."""
    sizes = itertools.count(min(2, high, wide))  # tokens of a single pixel hardly learn
    return next(p for p in sizes if math.ceil(high / p) * math.ceil(wide / p) <= 64)


class GPT(nn.Module):
    """A character-level GPT: causal blocks, and a linear layer that predicts the next character.

    Source: Radford et al., Language models are unsupervised multitask learners, 2019.
    """

    def __init__(
        self, parts: Parts, shape: Shape, classes: int, width: int, depth: int, context: int
    ) -> None:
        super().__init__()
        self.embedding = nn.Embedding(classes, width)
        self.positions = draw_positions(context, width)
        self.blocks = nn.Sequential(*(Block(parts, width, causal=True) for _ in range(depth)))
        self.norm, self.head = parts.norm(width), parts.linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Compute logits (n, T, classes) of characters (n, T), with T up to the context."""
        tokens = self.embedding(x) + self.positions[: x.shape[1]]
        logits: Tensor = self.head(self.norm(self.blocks(tokens)))
        return logits


InputKind = Literal["values", "images", "text"]
"""What a network reads: samples of any shape; images (H, W), (C, H, W) or (H, W, C); characters."""


@dataclass(frozen=True)
class Network:
    """A network in the table.

    Attributes:
        summary: a short description.
        build: a function of parts, the shape of a sample, the number of classes and the options.
        reads: the kind of its input.
        activation: the name of its default activation.
        init: its default initialisation.
        options: its own options with their defaults; None if the default depends on other settings.
    """

    summary: str
    build: Callable[..., nn.Module]
    reads: InputKind
    activation: str
    init: Init
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def text(self) -> bool:
        """Whether it reads text."""
        return self.reads == "text"

    @property
    def defaults(self) -> dict[str, Any]:
        """All its options with their defaults, in the order of the help."""
        standardize = {} if self.text else {"standardize": None}
        return (
            dict(self.options)
            | {
                "activation": self.activation,
                "straight_through": None,
                "init": self.init,
                "bias": True,
            }
            | standardize
        )


NETWORKS: dict[str, Network] = {
    "mlp": Network(
        *("multilayer perceptron", mlp, "values", "tanh", FanIn()),
        {"hidden": None, "width": 256, "depth": 5, "dropout": 0.0},
    ),
    "residual-mlp": Network(
        *("perceptron of residual layers", residual_mlp, "values", "tanh", LECUN),
        {"width": 128, "depth": 32, "scaling": "depth"},
    ),
    "lenet": Network("LeNet-5", lenet, "images", "relu", KAIMING, {"resize": False}),
    "resnet": Network(
        *("residual network with batch norm", resnet, "images", "relu", KAIMING),
        {"width": 16, "depth": 8},
    ),
    "vit": Network(
        *("vision transformer", VisionTransformer, "images", "gelu", LECUN),
        {"width": 64, "depth": 4, "patch": None},
    ),
    "gpt": Network(
        *("character transformer", GPT, "text", "gelu", LECUN),
        {"width": 128, "depth": 4, "context": 128},
    ),
}
"""The networks by name."""

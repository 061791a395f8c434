"""The workbench's networks: compared with torch's layers, formulas and published sizes; rules."""

import itertools
import math
import pickle
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import lra
from lra.errors import OptionError
from lra.inits import FanIn, Normal
from lra.lab.networks.model import parse_model
from lra.lab.networks.parts import KAIMING, LECUN, Block, ConvBlock, Parts, look_up
from lra.lab.networks.parts import Table as TableActivation
from lra.lab.networks.table import NETWORKS

CLASSES = 7
SMALL: dict[str, dict[str, int]] = {
    "mlp": {"width": 9, "depth": 3},
    "residual-mlp": {"width": 9, "depth": 4},
    "lenet": {},
    "resnet": {"width": 4, "depth": 8},
    "vit": {"width": 12, "depth": 2},
    "gpt": {"width": 12, "depth": 2, "context": 10},
}
SHAPES: dict[str, list[tuple[int, ...]]] = {
    "values": [(8,), (2, 3), (3, 4, 5)],
    "images": [(8, 8), (28, 28), (3, 32, 32), (9, 11, 3), (1, 40, 20)],
    "text": [(10,)],
}
CASES = [(name, shape) for name, net in NETWORKS.items() for shape in SHAPES[net.reads]]


def parts(activation: Any = nn.Tanh, init: lra.inits.Init = LECUN, bias: bool = True) -> Parts:
    return Parts(activation, init, bias)


def build(name: str, shape: tuple[int, ...], factory: Parts | None = None, **sizes: Any):
    options = dict(NETWORKS[name].options) | SMALL[name] | sizes
    return NETWORKS[name].build(factory or parts(), shape, CLASSES, **options)


def samples(name: str, shape: tuple[int, ...], n: int = 5) -> Tensor:
    if NETWORKS[name].text:
        return torch.randint(0, CLASSES, (n, *shape))
    return torch.randn(n, *shape)


def test_the_small_sizes_cover_the_table() -> None:
    assert SMALL.keys() == NETWORKS.keys()


# under a rule


@pytest.mark.parametrize(("name", "shape"), CASES, ids=str)
def test_coverage_is_full(name: str, shape: tuple[int, ...]) -> None:
    """An example verifies it; without an example the same modules are converted."""
    x = samples(name, shape)
    terms = "tokens" if NETWORKS[name].text else "batch"
    verified = lra.convert(build(name, shape), lra.MirroredLRA(samples=20), example=x)
    coverage = lra.coverage(verified)
    assert coverage.full
    assert coverage.share == coverage.activation_share == 1
    model = build(name, shape)
    if name == "resnet":
        model.eval()
    before = model(x)
    lra.convert(model, lra.MirroredLRA(samples=20), loss_terms=terms)
    assert [type(m) for m in model.modules()] == [type(m) for m in verified.modules()]
    assert torch.equal(model(x), before)
    assert before.shape == (5, *((10,) if terms == "tokens" else ()), CLASSES)
    inputs = {n for n, m in verified.named_modules() if getattr(m, "sees_input", False)}
    assert inputs == {n for n, m in model.named_modules() if getattr(m, "sees_input", False)}
    assert len(inputs) == (name != "gpt")  # its first weight layer reads an embedding


@pytest.mark.parametrize("name", NETWORKS)
def test_updates_tend_to_backprops(name: str) -> None:
    """With E = W and a small beta the updates are the gradient; with random E they are not."""
    shape = SHAPES[NETWORKS[name].reads][0]
    x, terms = samples(name, shape), "tokens" if NETWORKS[name].text else "batch"
    x = x.double() if x.is_floating_point() else x
    gradients = []
    for rule in (
        lra.Backprop(),
        lra.Rule(
            lra.feedback.Transpose(),
            lra.crossing.TargetDifference(1e-4, normalized=True, two_sided=True),
        ),
        lra.LRAE(1e-4, normalized=True, two_sided=True),
    ):
        torch.manual_seed(1)
        model = lra.convert(build(name, shape).double(), rule, loss_terms=terms)
        logits = model(x).flatten(0, -2)
        F.cross_entropy(logits, torch.arange(len(logits)) % CLASSES).backward()
        learned = {id(E) for E in lra.feedback_parameters(model)}
        gradients.append(
            torch.cat([p.grad.flatten() for p in model.parameters() if id(p) not in learned])
        )
    backprop, close, far = gradients
    torch.testing.assert_close(close, backprop, rtol=1e-4, atol=1e-7)
    assert (far - backprop).norm() > 0.1 * backprop.norm()


@pytest.mark.parametrize(("name", "shape"), CASES, ids=str)
def test_copies_by_pickle(name: str, shape: tuple[int, ...]) -> None:
    model = lra.convert(build(name, shape), lra.LRAE()).eval()
    again = pickle.loads(pickle.dumps(model))
    x = samples(name, shape)
    assert torch.equal(again(x), model(x))


@pytest.mark.parametrize(
    "activation", [lra.activations.Sign, lambda: lra.activations.LWTA(2), TableActivation], ids=str
)
@pytest.mark.parametrize("name", NETWORKS)
def test_black_box_activations(name: str, activation: Any) -> None:
    """Every weight gets an update, although only LWTA has a derivative."""
    shape = SHAPES[NETWORKS[name].reads][0]
    sizes = {k: 12 for k in SMALL[name] if k == "width"}
    model = build(name, shape, parts(activation), **sizes)
    lra.convert(model, lra.MirroredLRA(samples=50))
    logits = model(samples(name, shape, 40)).flatten(0, -2)
    F.cross_entropy(logits, torch.arange(len(logits)) % CLASSES).backward()
    weights = {n: p.grad for n, p in model.named_parameters() if p.dim() > 1}
    assert [n for n, dW in weights.items() if not dW.abs().sum() > 0] == []


def test_the_table_activation() -> None:
    h = torch.linspace(-5, 5, 997)
    z = TableActivation()(h)
    assert z.dtype == h.dtype
    assert len(z.unique()) == 32
    torch.testing.assert_close(z, torch.from_numpy(look_up(h.numpy())).float())
    assert (z - torch.tanh(h)).abs().max() < 0.3
    assert (z.diff() < 0).any()  # it is not monotonic


# the multilayer perceptron


def by_hand(sizes: list[int], scale: float, bias: bool) -> list[Tensor]:
    """Draw a perceptron's parameters as for the published figures."""
    drawn = []
    for inputs, outputs in itertools.pairwise(sizes):
        layer = nn.Linear(inputs, outputs, bias=bias)
        nn.init.uniform_(layer.weight, -scale / math.sqrt(inputs), scale / math.sqrt(inputs))
        drawn += [p.detach() for p in layer.parameters()]
    return drawn


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("hidden", [(9, 9), None])
def test_perceptron_draws_are_stable(hidden: tuple[int, ...] | None, bias: bool) -> None:
    """Draws are bit-identical to those of the published figures."""
    torch.manual_seed(5)
    expected = by_hand([6, 9, 9, CLASSES], 0.5, bias)
    torch.manual_seed(5)
    model = build("mlp", (2, 3), parts(init=FanIn(0.5), bias=bias), hidden=hidden)
    parameters = list(model.parameters())
    assert len(parameters) == len(expected)
    for a, b in zip(parameters, expected, strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize(("depth", "layers"), [(1, 1), (2, 2), (6, 6)])
def test_depth_counts_the_layers_of_a_perceptron(depth: int, layers: int) -> None:
    model = build("mlp", (2, 3), depth=depth, width=5)
    linear = [m for m in model.modules() if isinstance(m, nn.Linear)]
    assert len(linear) == layers
    assert [m.out_features for m in linear] == [5] * (depth - 1) + [CLASSES]


# the residual perceptron


@pytest.mark.parametrize("depth", [2, 3, 6])
def test_a_residual_perceptron_is_its_formula(depth: int) -> None:
    model = build("residual-mlp", (2, 3), depth=depth)
    x = samples("residual-mlp", (2, 3))
    first, *inner, last = [m for m in model.modules() if isinstance(m, nn.Linear)]
    assert len(inner) == depth - 2
    z = torch.tanh(x.flatten(1) @ first.weight.T + first.bias)
    for layer in inner:
        z = z + torch.tanh(z @ layer.weight.T + layer.bias) / math.sqrt(depth)
    torch.testing.assert_close(model(x), z @ last.weight.T + last.bias)


# convolutional networks


@pytest.mark.parametrize("depth", [2, 5])
def test_mupc_scales_the_residual_perceptron(depth: int) -> None:
    """f_1 = W x / sqrt(6), f_l = x + W tanh(x) / sqrt(9 depth), f_L = W tanh(x) / 9."""
    text = f"residual-mlp:width=9,depth={depth},scaling=mupc,init=normal:1,bias=false"
    model = parse_model(text).build((2, 3), 4).double()
    x = torch.randn(5, 2, 3, dtype=torch.float64)
    first, *inner, last = (p for p in model.parameters())
    z = x.flatten(1) @ first.T / 6**0.5
    for W in inner:
        z = z + torch.tanh(z) @ W.T / (9 * depth) ** 0.5
    torch.testing.assert_close(model(x), torch.tanh(z) @ last.T / 9)
    assert len(inner) == depth - 2
    lra.convert(model, lra.LRAE())


@pytest.mark.parametrize(("shape", "pixels"), [((28, 28), 784), ((1, 32, 32), 1024)])
def test_lenet_is_its_formula(shape: tuple[int, ...], pixels: int) -> None:
    model = NETWORKS["lenet"].build(parts(nn.Tanh), shape, 10, resize=False)
    assert sum(p.numel() for p in model.parameters()) == 61_706  # the classical count
    x = torch.randn(3, *shape)
    margin = (32 - shape[-1]) // 2
    w = dict(model.named_parameters())
    names = list(w)
    assert len(names) == 10
    z = F.pad(x.reshape(3, 1, *shape[-2:]), (margin,) * 4)
    for i in range(2):
        z = F.max_pool2d(torch.tanh(F.conv2d(z, w[names[2 * i]], w[names[2 * i + 1]])), 2)
    z = torch.tanh(F.conv2d(z, w[names[4]], w[names[5]])).flatten(1)
    assert z.shape == (3, 120)
    z = torch.tanh(F.linear(z, w[names[6]], w[names[7]]))
    torch.testing.assert_close(model(x), F.linear(z, w[names[8]], w[names[9]]))


def test_lenet_resizes_other_images() -> None:
    model = build("lenet", (8, 8))
    x = torch.randn(2, 8, 8)
    scaled = F.interpolate(x[:, None], (32, 32), mode="bilinear", align_corners=False)
    torch.testing.assert_close(model(x), model[2:](scaled))


@pytest.mark.parametrize(("depth", "weights"), [(20, 269_722), (32, 464_154), (56, 853_018)])
def test_resnets_have_their_published_sizes(depth: int, weights: int) -> None:
    """The counts are those of other implementations of the paper's networks with option A."""
    model = NETWORKS["resnet"].build(parts(nn.ReLU), (3, 32, 32), 10, width=16, depth=depth)
    assert sum(p.numel() for p in model.parameters()) == weights
    layers = [m for m in model.modules() if isinstance(m, (nn.Conv2d, nn.Linear))]
    assert len(layers) == depth


@pytest.mark.parametrize(("inputs", "outputs", "stride"), [(4, 4, 1), (4, 8, 2), (4, 8, 1)])
@pytest.mark.parametrize("size", [(6, 6), (5, 7)])
def test_a_residual_block_is_its_formula(
    inputs: int, outputs: int, stride: int, size: tuple[int, int]
) -> None:
    block = ConvBlock(parts(nn.ReLU), inputs, outputs, stride)
    x = torch.randn(3, inputs, *size)
    first, second = (m for m in block.modules() if isinstance(m, nn.Conv2d))
    assert first.bias is second.bias is None

    def normal(h: Tensor) -> Tensor:
        mean = h.mean((0, 2, 3), keepdim=True)
        return (h - mean) / (h.var((0, 2, 3), correction=0, keepdim=True) + 1e-5).sqrt()

    h = normal(F.conv2d(x, first.weight, stride=stride, padding=1)).relu()
    h = normal(F.conv2d(h, second.weight, padding=1))
    shortcut = x[:, :, ::stride, ::stride]
    shortcut = torch.cat((shortcut, torch.zeros(3, outputs - inputs, *shortcut.shape[2:])), 1)
    torch.testing.assert_close(block(x), (h + shortcut).relu(), rtol=1e-4, atol=1e-5)


def test_a_resnet_halves_twice_and_doubles_twice() -> None:
    model = build("resnet", (3, 12, 20), width=4, depth=14)
    shapes = []
    for block in (m for m in model.modules() if isinstance(m, ConvBlock)):
        block.register_forward_hook(lambda *args: shapes.append(tuple(args[2].shape[1:])))
    model(torch.randn(2, 3, 12, 20))
    assert shapes == [(4, 12, 20)] * 2 + [(8, 6, 10)] * 2 + [(16, 3, 5)] * 2


# transformers


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize(("width", "heads"), [(12, 1), (64, 2), (96, 3), (100, 2), (33, 1)])
def test_a_block_equals_torchs_layer(width: int, heads: int, causal: bool) -> None:
    block = Block(parts(nn.GELU), width, causal)
    expected = nn.TransformerEncoderLayer(
        width, heads, 4 * width, 0.0, "gelu", batch_first=True, norm_first=True
    )
    expected.self_attn.in_proj_weight = block.attention.qkv.weight
    expected.self_attn.in_proj_bias = block.attention.qkv.bias
    expected.self_attn.out_proj.load_state_dict(block.attention.out.state_dict())
    expected.linear1.load_state_dict(block.mlp[0].state_dict())
    expected.linear2.load_state_dict(block.mlp[2].state_dict())
    x = torch.randn(2, 6, width)
    mask = nn.Transformer.generate_square_subsequent_mask(6) if causal else None
    torch.testing.assert_close(block(x), expected(x, src_mask=mask, is_causal=causal))


@pytest.mark.parametrize(
    ("shape", "patch", "tokens"),
    [
        ((8, 8), None, 16),
        ((28, 28), None, 49),
        ((3, 32, 32), None, 64),
        ((30, 30), None, 64),  # padded
        ((40, 20), None, 50),
        ((2, 3), None, 2),
        ((1, 5), None, 5),
        ((28, 28), 7, 16),
        ((28, 28), 5, 36),
    ],
    ids=str,
)
def test_patches_of_a_vision_transformer(
    shape: tuple[int, ...], patch: int | None, tokens: int
) -> None:
    model = build("vit", shape, patch=patch)
    assert model.positions.shape == (tokens, 12)
    x = torch.randn(2, *shape, requires_grad=True)
    model(x).sum().backward()
    assert bool((x.grad != 0).all())  # every pixel is used


def test_a_vision_transformer_is_its_formula() -> None:
    model = build("vit", (6, 6), patch=3)
    x = torch.randn(2, 6, 6)
    quarters = torch.stack(
        [x[:, i : i + 3, j : j + 3].flatten(1) for i in (0, 3) for j in (0, 3)], 1
    )
    patches = model.patches
    tokens = quarters @ patches.weight.flatten(1).T + patches.bias + model.positions
    z = model.norm(model.blocks(tokens)).mean(1)
    torch.testing.assert_close(model(x), z @ model.head.weight.T + model.head.bias)


def test_a_gpt_is_causal() -> None:
    model = build("gpt", (10,)).eval()
    x = samples("gpt", (10,), 1)
    before = model(x)
    for i in range(10):
        other = x.clone()
        other[0, i] = (x[0, i] + 1) % CLASSES
        changed = (model(other) - before)[0].abs().sum(1) > 1e-7
        assert changed.tolist() == [False] * i + [True] * (10 - i)
    torch.testing.assert_close(model(x[:, :4]), before[:, :4])
    same = torch.zeros(1, 10, dtype=torch.long)  # equal characters differ by position
    assert not torch.allclose(model(same)[0, 0], model(same)[0, 5], atol=1e-4)


# images


@pytest.mark.parametrize("name", [n for n, net in NETWORKS.items() if net.reads == "images"])
@pytest.mark.parametrize("channels", [1, 3])
def test_channels_may_be_first_or_last(name: str, channels: int) -> None:
    torch.manual_seed(3)
    first = build(name, (channels, 10, 12))
    torch.manual_seed(3)
    last = build(name, (10, 12, channels))
    x = torch.randn(4, channels, 10, 12)
    torch.testing.assert_close(first(x), last(x.movedim(1, -1)))
    if channels == 1:
        torch.manual_seed(3)
        torch.testing.assert_close(build(name, (10, 12))(x[:, 0]), first(x))


@pytest.mark.parametrize("name", [n for n, net in NETWORKS.items() if net.reads == "images"])
def test_samples_that_are_not_images_are_refused(name: str) -> None:
    for shape in ((9,), (4, 5, 6), (1, 3, 8, 8)):
        with pytest.raises(OptionError, match=r"not an image.*--model mlp"):
            build(name, shape)


@pytest.mark.parametrize(
    ("name", "sizes", "message"),
    [
        ("residual-mlp", {"depth": 1}, "depth must be 2 or more, got 1"),
        ("resnet", {"depth": 2}, r"depth must be 6 n \+ 2: 8, 14, .*got 2"),
        ("resnet", {"depth": 18}, r"depth must be 6 n \+ 2: 8, 14, .*got 18"),
        ("vit", {"patch": 9}, "patch 9 is larger than the images, 8x8"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(name: str, sizes: dict[str, int], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        build(name, (8, 8), **sizes)


# weights


@pytest.mark.parametrize("name", NETWORKS)
def test_all_layer_weights_use_the_initialisation(name: str) -> None:
    model = build(name, SHAPES[NETWORKS[name].reads][0], parts(init=Normal(1e-6)))
    layers = [m for m in model.modules() if isinstance(m, (nn.Linear, nn.Conv2d))]
    assert all(0 < m.weight.abs().max() < 1e-5 for m in layers)


@pytest.mark.parametrize("name", NETWORKS)
def test_bias_applies_to_all_layers(name: str) -> None:
    model = build(name, SHAPES[NETWORKS[name].reads][0], parts(bias=False))
    kinds = (nn.Linear, nn.Conv2d, nn.LayerNorm)
    assert [m for m in model.modules() if isinstance(m, kinds) and m.bias is not None] == []


@pytest.mark.parametrize(("init", "variance"), [(LECUN, 1.0), (KAIMING, 2.0)])
def test_named_initialisations_have_their_variances(init: lra.inits.Init, variance: float) -> None:
    weight = parts(init=init).linear(250, 400).weight
    assert weight.var().item() == pytest.approx(variance / 250, rel=0.02)
    weight = parts(init=init).conv(20, 100, 5).weight
    assert weight.var().item() == pytest.approx(variance / 500, rel=0.02)

"""Updates equal those of BioTorch 0.0.16: feedback alignment, sign symmetry and DFA.

    pip install --no-deps --target peers biotorch==0.0.16    # its dependencies replace torch
    PYTHONPATH=peers pytest tests/torch/test_biotorch.py

Without it, updates are compared with numbers that it gave. `benchmarks/peers.py` shows what it
leaves on backprop.
"""

import copy
import importlib.util

import pytest
import torch
from nets import MODELS, assert_same, images, taken, updates
from torch import Tensor, nn
from torch.nn import functional as F

import lra

CLOSE = {"rtol": 1e-10, "atol": 1e-13}
RULES = {
    "fa": lra.FeedbackAlignment(),
    "usf": lra.SignSymmetry(init=lra.inits.FanIn(3**-0.5)),
    "frsf": lra.SignSymmetry(lra.feedback.Magnitude.FIXED),
    "dfa": lra.DirectFeedbackAlignment(),
}
OPTIONS = {"constrain_weights": False, "gradient_clip": False, "init": "kaiming"}
"""With this init BioTorch's constant of uSF is 1 / sqrt(3 fan_in), the standard deviation of
torch's default draw. Ours is the bound of that draw, 1 / sqrt(fan_in), times `FanIn`'s scale."""


def by_biotorch(model: nn.Module, mode: str, x: Tensor, t: Tensor) -> nn.Module:
    """Convert a model by BioTorch, and run a backward pass."""
    from biotorch.module.biomodule import BioModule

    config = {"type": mode, "options": dict(OPTIONS)}
    peer = BioModule(model, mode, layer_config=config, output_dim=4).double()
    output = peer(x, t, F.cross_entropy) if mode == "dfa" else peer(x)
    F.cross_entropy(output, t).backward()
    return peer.module


def feedback_matrix(layer: nn.Module, E: Tensor, z: Tensor) -> Tensor:
    """Compute DFA's feedback as a matrix; at a convolution it goes through the convolution."""
    if not isinstance(layer, nn.Conv2d):
        return E
    _, _, *ops = layer(z).shape
    each = torch.eye(len(E), dtype=E.dtype)[:, :, None, None].expand(-1, -1, *ops)
    like = {"stride": layer.stride, "padding": layer.padding}
    return torch.nn.grad.conv2d_input((len(E), *z.shape[1:]), E, each, **like).flatten(1)


def copy_feedback(model: nn.Module, peer: nn.Module, x: Tensor) -> None:
    """Set the feedback weights of a converted model to BioTorch's."""
    read: dict[str, Tensor] = {}
    layers = [(n, m) for n, m in peer.named_modules() if isinstance(m, (nn.Linear, nn.Conv2d))]
    handles = [
        layer.register_forward_pre_hook(lambda _, args, n=name: read.update({n: args[0]}))
        for name, layer in layers
    ]
    with torch.no_grad():
        peer(x)
        for handle in handles:
            handle.remove()
        for name, layer in layers:
            E = getattr(model.get_submodule(name), "feedback", None)
            if E is not None:
                new = layer.weight_backward
                direct = E.shape != layer.weight.shape
                E.copy_(feedback_matrix(layer, new, read[name]) if direct else new)


@pytest.mark.skipif(importlib.util.find_spec("biotorch") is None, reason="needs biotorch==0.0.16")
@pytest.mark.filterwarnings("ignore:Using a non-full backward hook:FutureWarning")  # from its DFA
@pytest.mark.parametrize("kind", ["mlp", "residual"])
@pytest.mark.parametrize("mode", RULES)
def test_updates_equal_biotorchs(mode, kind):
    plain, (x, t) = MODELS[kind]().double(), images()
    peer = by_biotorch(copy.deepcopy(plain), mode, x, t)
    model = lra.convert(copy.deepcopy(plain), RULES[mode], example=x)
    copy_feedback(model, peer, x)
    found = updates(model, x, t)
    assert_same(found, taken(peer), **CLOSE)
    backprops = updates(plain, x, t)
    first = next(iter(backprops))
    assert (found[first] - backprops[first]).norm() > 0.1 * backprops[first].norm()


def written_out() -> tuple[nn.Module, Tensor, Tensor]:
    """Build a perceptron, inputs and labels without random numbers."""
    layers = nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 4)
    model, count = nn.Sequential(*layers).double(), 0
    for p in model.parameters():
        values = torch.sin(torch.arange(count, count + p.numel()).double() * 1.7)
        p.data = values.reshape(p.shape) / 2
        count += p.numel()
    return model, torch.cos(torch.arange(20).double() * 0.9).reshape(5, 4), torch.arange(5) % 4


BELOW = {
    "fa": [-0.0194857271, 0.0021717481, -0.0342620439, 0.0294822158],
    "usf": [0.165100125, 0.0056773477, -0.0319177246, 0.1821195623],
    "frsf": [0.2367128584, -0.0522977369, 0.0289529239, 0.076306448],
    "dfa": [0.0175149632, 0.0178664603, -0.0342620439, 0.0294822158],
}
"""The results of `by_biotorch` for the perceptron above, in float64, with the feedback below: for
each update, the sum of its numbers times a cosine, from the first layer on."""
TOP = [-0.2605428551, -0.0230832073]
"""The same for the output layer, where all rules equal backprop."""


@pytest.mark.parametrize("mode", RULES)
def test_updates_equal_recorded_numbers_of_biotorch(mode):
    model, x, t = written_out()
    lra.convert(model, RULES[mode], example=x)
    with torch.no_grad():
        for at in (2, 4):
            E = model[at].feedback if mode != "usf" else None
            if E is not None:
                new = torch.cos(torch.arange(E.numel()).double() * 1.3 + at).reshape(E.shape) / 2
                E.copy_(new.abs() if mode == "frsf" else new)
    sums = torch.stack(
        [
            (update.flatten() * torch.cos(torch.arange(update.numel()).double())).sum()
            for update in updates(model, x, t).values()
        ]
    )
    expected = torch.tensor([*BELOW[mode], *TOP], dtype=torch.float64)
    torch.testing.assert_close(sums, expected, rtol=1e-8, atol=1e-9)

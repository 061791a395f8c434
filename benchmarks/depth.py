"""Validation accuracy against depth on MNIST: the named rules beside backprop, paired by seed.

    python benchmarks/depth.py

Perceptrons of tanh units 128 wide, Xavier weights, AdamW with step 0.001 for every rule, batches of
50, 58,000 training and 2,000 validation images. Every rule trains the same weights on the same
batches. Nothing was tuned; the test split is not touched.
"""

import argparse
import copy
import statistics

import torch
import torch.nn.functional as F
from torch import nn

import lra
from lra.lab import data

RULES = {
    "backprop": None,
    "mirrored-lra": lra.MirroredLRA(),
    "mirror, one-sided, beta 0.1": lra.LRAE(0.1, init=lra.Mirror(), normalized=True),
    "lra-e, two-sided, relative": lra.LRAE(
        1.0, normalized=True, two_sided=True, relative=lra.Relative.SAMPLE
    ),
    "lra-e": lra.LRAE(),
    "kolen-pollack": lra.KolenPollack(),
}


def network(depth: int, width: int, residual: bool) -> nn.Sequential:
    """As many weight layers as depth says."""
    layers: list[nn.Module] = [nn.Linear(784, width), nn.Tanh()]
    for _ in range(depth - 2):
        block = nn.Sequential(nn.Linear(width, width), nn.Tanh())
        layers.append(Residual(block, depth) if residual else block)
    net = nn.Sequential(*layers, nn.Linear(width, 10))
    for module in net.modules():
        if isinstance(module, nn.Linear):
            nn.init.xavier_normal_(module.weight)
            nn.init.zeros_(module.bias)
    return net


class Residual(nn.Module):
    """x + f(x) / sqrt(depth)."""

    def __init__(self, block: nn.Module, depth: int) -> None:
        super().__init__()
        self.block, self.scale = block, depth**-0.5

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Go around the block, and through it."""
        y: torch.Tensor = x + self.scale * self.block(x)
        return y


def accuracy(model: nn.Module, x: torch.Tensor, t: torch.Tensor, seed: int, epochs: int) -> float:
    """Train, and give the share of the last 2,000 images that is right."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)
    order = torch.Generator().manual_seed(seed)
    for _ in range(epochs):
        for batch in torch.randperm(58_000, generator=order).split(50):
            optimizer.zero_grad()
            F.cross_entropy(model(x[batch]), t[batch]).backward()
            optimizer.step()
    with torch.no_grad():
        return 100 * float((model(x[58_000:]).argmax(1) == t[58_000:]).double().mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--depths", type=int, nargs="+", default=[4, 8, 16, 32])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--residual", action="store_true", help="each layer inside x + f / sqrt(L)")
    options = parser.parse_args()
    images = data.load("mnist")
    x = torch.as_tensor(images.x_train).float().flatten(1)
    t = torch.as_tensor(images.y_train).long()
    for depth in options.depths:
        print(f"\n{depth} layers{', residual' if options.residual else ''}", flush=True)
        found: dict[str, list[float]] = {name: [] for name in RULES}
        for seed in range(options.seeds):
            torch.manual_seed(seed)
            plain = network(depth, 128, options.residual)
            for name, rule in RULES.items():
                model = copy.deepcopy(plain)
                if rule is not None:
                    torch.manual_seed(seed)
                    lra.convert(model, rule)
                found[name].append(accuracy(model, x, t, seed, options.epochs))
        for name, values in found.items():
            behind = [b - a for a, b in zip(values, found["backprop"], strict=True)]
            middle, each = statistics.mean(behind), ", ".join(f"{v:.1f}" for v in values)
            print(f"  {name:<30} {statistics.mean(values):5.1f}   behind {middle:5.2f}   ({each})")


if __name__ == "__main__":
    main()

"""Train a network in the loop on simulated analog hardware, a black box to autograd.

    python examples/analog_hardware.py             # the bundled digits
    python examples/analog_hardware.py --mnist     # 30,000 images, 2 epochs: some 4 minutes
    python examples/analog_hardware.py --mnist --seeds 8 --per-sample

A crossbar multiplies by conductances. Each cell is off by its own factor, some cells are stuck,
reading adds noise, and the converters have few bits. The activations are staircases of 8 levels.
All of it is NumPy, so autograd cannot differentiate it.

Three ways of training are compared:
- deployed: train the ideal network and program its weights into the device;
- digital twin: train in the loop by straight-through backprop, with the programmed weights in place
  of the device's and the slope of tanh in place of the staircase's;
- in the loop: train by lra.MirroredLRA, or a variant of it, which only runs the device.

See `docs/guides/hardware.md`.
"""

import argparse
import itertools
import statistics
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

import lra
from lra.lab import data


@dataclass(frozen=True)
class Quality:
    mismatch: float  # standard deviation of a cell's factor
    stuck: float  # share of cells that cannot be programmed
    bits: int  # resolution of the converters
    noise: float = 0.02  # standard deviation of the read noise


IDEAL = Quality(0.0, 0.0, 16, 0.0)
QUALITIES = (Quality(0.3, 0.0, 6), Quality(0.6, 0.2, 5), Quality(1.0, 0.3, 4))


def convert(signal: np.ndarray, bits: int, limit: float) -> np.ndarray:
    """Convert a signal as a DAC or ADC does, to 2^bits levels between -limit and limit."""
    step = 2 * limit / (2**bits - 1)
    return np.clip(np.round((signal + limit) / step) * step - limit, -limit, limit)


class Crossbar(nn.Module):
    """h = z W^T + b on an analog device; `weight` holds the programmed values."""

    def __init__(self, inputs: int, outputs: int, quality: Quality, seed: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(nn.init.xavier_normal_(torch.empty(outputs, inputs)))
        self.bias = nn.Parameter(torch.zeros(outputs))
        self.quality, self.rng = quality, np.random.default_rng(seed)
        normal = self.rng.normal(size=(2, outputs, inputs)).astype(np.float32)
        self.factor = 1 + quality.mismatch * normal[0]
        self.stuck_at = normal[1] * (2 / (inputs + outputs)) ** 0.5
        self.stuck = self.rng.random((outputs, inputs)) < quality.stuck

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        programmed = self.weight.detach().numpy()
        conductance = np.where(self.stuck, self.stuck_at, programmed * self.factor)
        h = convert(z.numpy(), self.quality.bits, 1.0) @ conductance.T
        h += self.quality.noise * self.rng.standard_normal(h.shape, dtype=np.float32)
        return torch.from_numpy(convert(h, self.quality.bits, 8.0)).float() + self.bias.detach()


def staircase(h: np.ndarray) -> np.ndarray:
    """Return tanh(h) rounded to 8 levels between -1 and 1."""
    return np.round((np.tanh(h) + 1) * 3.5) / 3.5 - 1


lra.register_weight_layer(Crossbar, black_box=True)


MIRRORED = lra.MirroredLRA()  # at steps, every target is beta away from its h
PER_SAMPLE = lra.LRAE(  # only the target of the sample's largest error is beta away
    1.0, init=lra.inits.Mirror(), normalized=True, two_sided=True, relative="sample"
)


def network(sizes: list[int], quality: Quality, seed: int) -> nn.Sequential:
    torch.manual_seed(seed)
    layers: list[nn.Module] = []
    for i, (inputs, outputs) in enumerate(itertools.pairwise(sizes)):
        activation = lra.activations.BlackBox(
            staircase, numpy=True, straight_through=lra.crossing.TanhSurrogate()
        )
        layers += [Crossbar(inputs, outputs, quality, seed=10 * seed + i), activation]
    return nn.Sequential(*layers[:-1])


def train(model: nn.Module, x: torch.Tensor, t: torch.Tensor, epochs: int, seed: int) -> None:
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)
    order = torch.Generator().manual_seed(seed)
    for _ in range(epochs):
        for batch in torch.randperm(len(x), generator=order).split(50):
            optimizer.zero_grad()
            F.cross_entropy(model(x[batch]), t[batch]).backward()
            optimizer.step()


@torch.no_grad()
def accuracy(model: nn.Module, x: torch.Tensor, t: torch.Tensor) -> float:
    return 100 * float((model(x).argmax(1) == t).double().mean())


def mean_and_spread(values: list[float], sign: str = "") -> str:
    """Format the mean and standard deviation over seeds."""
    spread = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):{sign}.1f}{spread}"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--mnist", action="store_true")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--per-sample", action="store_true", help="relative to each sample")
    options = parser.parse_args()
    rule = PER_SAMPLE if options.per_sample else MIRRORED
    loaded = data.load("mnist" if options.mnist else "digits")
    limit, width, epochs = (30_000, 256, 2) if options.mnist else (None, 128, 8)
    arrays = (loaded.x_train[:limit], loaded.y_train[:limit], loaded.x_test, loaded.y_test)
    x, t, x_test, t_test = map(torch.from_numpy, arrays)
    x, x_test = x.flatten(1), x_test.flatten(1)
    sizes = [x.shape[1], width, width, width, 10]

    ideal = []
    for seed in range(options.seeds):
        model = lra.convert(network(sizes, IDEAL, seed), lra.Backprop())
        train(model, x, t, epochs, seed)
        ideal.append(model)
    values = [accuracy(model, x_test, t_test) for model in ideal]
    print(
        f"accuracy of the ideal network, by straight-through backprop: {mean_and_spread(values)}\n"
    )
    print("mismatch  stuck  bits     deployed  digital twin  in the loop  difference, paired")
    for quality in QUALITIES:
        deployed, twin, loop = [], [], []
        for seed, source in enumerate(ideal):
            model = network(sizes, quality, seed)
            model.load_state_dict(source.state_dict())
            deployed.append(accuracy(model, x_test, t_test))
            for values, used in ((twin, lra.Backprop()), (loop, rule)):
                model = lra.convert(network(sizes, quality, seed), used)
                train(model, x, t, epochs, seed)
                values.append(accuracy(model, x_test, t_test))
        paired = [b - a for a, b in zip(twin, loop, strict=True)]
        print(
            f"{quality.mismatch:8.1f}  {quality.stuck:5.0%}  {quality.bits:4}  "
            f"{mean_and_spread(deployed):>11}  {mean_and_spread(twin):>12}  "
            f"{mean_and_spread(loop):>11}  {mean_and_spread(paired, '+'):>18}",
            flush=True,
        )
    print("\nIn the loop with the worst device:")
    print(f"test accuracy {statistics.mean(twin):.1f}% by straight-through backprop with a twin")
    print(f"test accuracy {statistics.mean(loop):.1f}% by only running the device")


if __name__ == "__main__":
    main()

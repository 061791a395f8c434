"""Train networks on IBM's analog simulator, aihwkit-lightning, without its derivatives.

    pip install --no-deps aihwkit-lightning==2.1.0   # its dependencies bring another torch
    python examples/analog_simulator.py              # the bundled digits
    python examples/analog_simulator.py --seeds 5    # the table in docs/guides/hardware.md

The simulator adds noise to weights and outputs, rounds inputs to few bits, and splits matrices into
tiles. `convert_to_analog` swaps it into a model, and `lra.convert` trains the result by only
running its layers. The simulator's own training differentiates itself instead, by straight-through
functions. The activation is tanh, or tanh rounded to 8 levels, whose derivative is zero.

Three ways of training are compared:
- own: the simulator's backward pass, and autograd at the activation;
- twin: the same, with the slope of tanh in place of the slope of the 8 levels;
- lra: lra.MirroredLRA, which only runs the layers and the activations.

See `docs/guides/hardware.md`.
"""

import argparse
import itertools
import statistics

import torch
import torch.nn.functional as F
from aihwkit_lightning.nn.conversion import convert_to_analog
from aihwkit_lightning.simulator.configs import TorchInferenceRPUConfig, WeightNoiseInjectionType
from torch import nn

import lra
from lra.lab import data

DEVICES = ((0.05, 6), (0.2, 4))  # weight noise, relative to each unit's largest weight; input bits


def device(noise: float, bits: int) -> TorchInferenceRPUConfig:
    """Return the simulator's settings."""
    config = TorchInferenceRPUConfig()
    config.forward.inp_res = 2**bits - 2
    config.forward.out_noise = 0.02
    config.modifier.noise_type = WeightNoiseInjectionType.ADD_NORMAL_PER_CHANNEL
    config.modifier.std_dev = noise
    config.mapping.max_input_size = 512  # larger matrices are split into tiles
    config.pre_post.input_range.enable = True
    return config


def levels(h: torch.Tensor) -> torch.Tensor:
    """Return tanh(h) rounded to 8 levels between -1 and 1."""
    return torch.round((torch.tanh(h) + 1) * 3.5) / 3.5 - 1


class Levels(nn.Module):
    """The 8 levels, with autograd's derivative or with that of tanh."""

    def __init__(self, twin: bool) -> None:
        super().__init__()
        self.twin = twin

    def forward(self, h: torch.Tensor) -> torch.Tensor:
        z = torch.tanh(h)
        return z + (levels(h) - z).detach() if self.twin else levels(h)


def network(
    sizes: list[int], activation: str, way: str, config: TorchInferenceRPUConfig, seed: int
):
    """Return an analog network, converted to the rule if that is the way of training."""
    torch.manual_seed(seed)
    layers: list[nn.Module] = []
    for inputs, outputs in itertools.pairwise(sizes):
        stepped = lra.activations.BlackBox(levels) if way == "lra" else Levels(way == "twin")
        layers += [nn.Linear(inputs, outputs), nn.Tanh() if activation == "tanh" else stepped]
    model = convert_to_analog(nn.Sequential(*layers[:-1]), config)
    return lra.convert(model, lra.MirroredLRA()) if way == "lra" else model


def train(model: nn.Module, x: torch.Tensor, t: torch.Tensor, epochs: int, seed: int) -> None:
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    order = torch.Generator().manual_seed(seed)
    for _ in range(epochs):
        for batch in torch.randperm(len(x), generator=order).split(50):
            optimizer.zero_grad()
            F.cross_entropy(model(x[batch]), t[batch]).backward()
            optimizer.step()


@torch.no_grad()
def accuracy(model: nn.Module, x: torch.Tensor, t: torch.Tensor) -> float:
    """Return the accuracy in percent with the noise of training, which eval mode turns off."""
    batches = zip(x.split(500), t.split(500), strict=True)
    return 100 * float(torch.cat([model(x).argmax(1) == t for x, t in batches]).double().mean())


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--mnist", type=int, metavar="IMAGES", help="train on MNIST images")
    parser.add_argument("--seeds", type=int, default=1)
    options = parser.parse_args()
    loaded = data.load("mnist" if options.mnist else "digits")
    x, t = (torch.from_numpy(a[: options.mnist]) for a in (loaded.x_train, loaded.y_train))
    x_test, t_test = map(torch.from_numpy, (loaded.x_test, loaded.y_test))
    x, x_test = x.flatten(1), x_test.flatten(1)
    width, epochs = (256, 3) if options.mnist else (128, 5)
    sizes = [x.shape[1], width, width, width, 10]

    for activation, (noise, bits) in itertools.product(("tanh", "levels"), DEVICES):
        for way in ("own", "lra") if activation == "tanh" else ("own", "twin", "lra"):
            values = []
            for seed in range(options.seeds):
                model = network(sizes, activation, way, device(noise, bits), seed)
                train(model, x, t, epochs, seed)
                values.append(accuracy(model, x_test, t_test))
            spread = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
            print(
                f"{activation:6}  weight noise {noise:4}  {bits} bits  {way:4}  "
                f"test accuracy {statistics.mean(values):.1f}%{spread}",
                flush=True,
            )


if __name__ == "__main__":
    main()

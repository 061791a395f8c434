"""Train spiking networks of snnTorch and spikingjelly, with their surrogates and without any.

    pip install --no-deps snntorch==1.0.0 spikingjelly==2.0.0 loguru
    python examples/spiking_digits.py            # the bundled digits
    python examples/spiking_digits.py --seeds 5  # the table in docs/guides/hardware.md

Pixels are the rates of input spikes over 8 time steps. The output neurons do not fire: the class is
that of the largest sum of membrane potentials. A spike is a step of the potential, so backprop
needs a surrogate of its derivative. Three ways of training are compared, in each package:
- backprop: backprop through time with the package's surrogate;
- surrogate: lra.MirroredLRA for the weights, with the package's surrogate left alone;
- step: lra.MirroredLRA with a step and no surrogate.

See `docs/guides/hardware.md`.
"""

import argparse
import statistics
from typing import Any

import snntorch
import snntorch.surrogate
import torch
import torch.nn.functional as F
from spikingjelly.activation_based import functional, neuron, surrogate
from torch import nn

import lra
from lra.lab import data

STEPS, DECAY = 8, 0.9


class SnnTorch(nn.Module):
    """Two layers of snnTorch's neurons."""

    def __init__(self, inputs: int, width: int, way: str) -> None:
        super().__init__()
        spike = lra.activations.Heaviside() if way == "step" else snntorch.surrogate.atan()
        self.first, self.hidden = nn.Linear(inputs, width), snntorch.Leaky(DECAY, spike_grad=spike)
        self.last, self.out = nn.Linear(width, 10), snntorch.Leaky(DECAY, reset_mechanism="none")

    def forward(self, spikes: torch.Tensor) -> torch.Tensor:
        h, u = self.hidden.init_leaky(), self.out.init_leaky()
        total: Any = 0
        for step in spikes:
            z, h = self.hidden(self.first(step), h)
            _, u = self.out(self.last(z), u)
            total = total + u
        return total / len(spikes)


class SpikingJelly(nn.Module):
    """Two layers of spikingjelly's neurons."""

    def __init__(self, inputs: int, width: int, way: str) -> None:
        super().__init__()
        options = {"tau": 1 / (1 - DECAY), "decay_input": False, "detach_reset": True}
        spike = lra.activations.Heaviside() if way == "step" else surrogate.ATan()
        self.first, self.last = nn.Linear(inputs, width), nn.Linear(width, 10)
        self.hidden = neuron.LIFNode(surrogate_function=spike, v_reset=None, **options)
        self.out = neuron.LIFNode(v_threshold=1e9, v_reset=None, **options)

    def forward(self, spikes: torch.Tensor) -> torch.Tensor:
        functional.reset_net(self)
        total: Any = 0
        for step in spikes:
            self.out(self.last(self.hidden(self.first(step))))
            total = total + self.out.v
        return total / len(spikes)


NEURONS = {SnnTorch: snntorch.Leaky, SpikingJelly: neuron.LIFNode}


def spikes_of(x: torch.Tensor) -> torch.Tensor:
    """Return (steps, batch, inputs) spikes: events as they are, pixels as probabilities."""
    return x.transpose(0, 1) if x.dim() == 3 else (torch.rand(STEPS, *x.shape) < x).float()


def network(cls: Any, inputs: int, width: int, way: str, seed: int) -> nn.Module:
    """Return a network, converted to the rule if that is the way of training."""
    torch.manual_seed(seed)
    model = cls(inputs, width, way)
    if way == "backprop":
        return model
    skip = (NEURONS[cls],) if way == "surrogate" else ()
    return lra.convert(
        model, lra.MirroredLRA(), skip=skip, example=spikes_of(torch.rand(4, inputs))
    )


def train(model: nn.Module, x: torch.Tensor, t: torch.Tensor, epochs: int, seed: int) -> None:
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    order = torch.Generator().manual_seed(seed)
    for _ in range(epochs):
        for batch in torch.randperm(len(x), generator=order).split(50):
            optimizer.zero_grad()
            F.cross_entropy(model(spikes_of(x[batch])), t[batch]).backward()
            optimizer.step()


@torch.no_grad()
def accuracy(model: nn.Module, x: torch.Tensor, t: torch.Tensor) -> float:
    return 100 * float((model(spikes_of(x)).argmax(1) == t).double().mean())


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
    compare((x, t), (x_test, t_test), width, epochs, options.seeds)


def compare(
    training: tuple[torch.Tensor, torch.Tensor],
    test: tuple[torch.Tensor, torch.Tensor],
    width: int,
    epochs: int,
    seeds: int,
) -> None:
    """Print the test accuracy of each package and way of training."""
    for cls in NEURONS:
        for way in ("backprop", "surrogate", "step"):
            values = []
            for seed in range(seeds):
                model = network(cls, training[0].shape[-1], width, way, seed)
                train(model, *training, epochs, seed)
                values.append(accuracy(model, *test))
            spread = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
            mean = f"test accuracy {statistics.mean(values):.1f}%{spread}"
            print(f"{cls.__name__:12}  {way:9}  {mean}", flush=True)


if __name__ == "__main__":
    main()

"""One training step of LRA-E against backprop's: forward, updates, optimizer, in one run.

    python benchmarks/step.py

The network is 784-256-256-256-256-10 with tanh, the batch 50, the optimizer AdamW, both eager.
Medians over rounds in which the contestants take turns; the ratio is the median of the rounds'
ratios, with the quartiles. Run it with nothing else running.
"""

import argparse
import itertools
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import nn

import lra
from turns import take_turns

SIZES = (784, 256, 256, 256, 256, 10)


def network(bias: bool) -> nn.Sequential:
    layers: list[nn.Module] = []
    for inputs, outputs in itertools.pairwise(SIZES):
        layers += [nn.Linear(inputs, outputs, bias=bias), nn.Tanh()]
    return nn.Sequential(*layers[:-1])


class Separate(nn.Module):
    """The same layers called one by one, as in a forward of one's own: nothing is fused."""

    def __init__(self, layers: nn.Sequential) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            x = layer(x)
        return x


def step_of(model: nn.Module, batch: int, optimizer: dict) -> Callable[[], None]:
    x, t = torch.rand(batch, SIZES[0]), torch.randint(SIZES[-1], (batch,))
    # Too small a step to learn anything: where errors fade away, AdamW's averages become subnormal
    # numbers, which are slow, and the time would tell how well a rule fits noise.
    adamw = torch.optim.AdamW(model.parameters(), lr=1e-9, **optimizer)

    def step() -> None:
        adamw.zero_grad(set_to_none=True)
        F.cross_entropy(model(x), t).backward()
        adamw.step()

    return step


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--batch", type=int, default=50)
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--steps", type=int, default=30, help="steps in a round")
    options = parser.parse_args()
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, batch {options.batch}")
    for optimizer, bias in itertools.product(({"fused": True}, {}), (True, False)):
        torch.manual_seed(0)
        contestants = {
            "backprop": network(bias),
            "LRA-E": lra.convert(network(bias), lra.LRAE()),
            "LRA-E, layers called one by one": lra.convert(Separate(network(bias)), lra.LRAE()),
            "Kolen-Pollack": lra.convert(network(bias), lra.KolenPollack()),
            "feedback alignment": lra.convert(network(bias), lra.FeedbackAlignment()),
        }
        steps = {k: step_of(m, options.batch, optimizer) for k, m in contestants.items()}
        kind = "fused AdamW" if optimizer else "default AdamW"
        print(f"\n{kind}, {'with' if bias else 'without'} biases")
        take_turns(steps, options.rounds, options.steps)


if __name__ == "__main__":
    main()

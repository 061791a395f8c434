"""Train spiking networks of snnTorch and spikingjelly on events whose order in time is the class.

    pip install --no-deps snntorch==1.0.0 spikingjelly==2.0.0 loguru
    python examples/spiking_events.py
    python examples/spiking_events.py --seeds 5  # the table in docs/guides/hardware.md

A bar crosses a field of 8 x 8 sensors once, to the right, the left, up or down, after a random
delay. A sensor that it reaches sends a spike; some spikes are lost, and some come from noise. The
number of spikes of each sensor does not tell right from left, or up from down.
Networks, packages and ways of training are those of `spiking_digits.py`.

See `docs/guides/hardware.md`.
"""

import argparse

import torch

from spiking_digits import compare

SIDE, STEPS = 8, 16


def events(count: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return spikes of shape (count, steps, sensors), and the directions."""
    random = torch.Generator().manual_seed(seed)
    directions = torch.randint(4, (count,), generator=random)
    delay = torch.randint(STEPS - SIDE + 1, (count, 1, 1), generator=random)
    bar = torch.arange(STEPS)[:, None] - delay == torch.arange(SIDE)  # (count, steps, position)
    bar = torch.where((directions % 2 == 1)[:, None, None], bar.flip(2), bar)
    field = torch.where((directions < 2)[:, None, None, None], bar[:, :, None, :], bar[..., None])
    kept = torch.rand(field.shape, generator=random) < 0.8
    noise = torch.rand(field.shape, generator=random) < 0.05
    return (field & kept | noise).flatten(2).float(), directions


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, default=1)
    options = parser.parse_args()
    compare(events(2000, seed=0), events(1000, seed=1), 128, 5, options.seeds)


if __name__ == "__main__":
    main()

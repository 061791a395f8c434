"""Train on simulated analog hardware whose cells drift, and repeat the mirror by an optimizer hook.

    python examples/analog_drift.py            # the bundled digits
    python examples/analog_drift.py --seeds 5  # the table in docs/guides/hardware.md

The device is that of `analog_hardware.py`. After each step of the optimizer, the factor of every
cell takes a step of a random walk, so the effective weights move away from the feedback that was
aligned with them. Three ways of training are compared:
- digital twin: straight-through backprop with the programmed weights;
- mirrored once: lra.MirroredLRA, which aligns the feedback before training;
- mirrored often: the same, and a hook of the optimizer calls
  lra.mirror(model, samples=200, step=0.1) every 10 steps.

Beside the accuracy stands the angle between feedback and effective weights after training.

See `docs/guides/hardware.md`.
"""

import argparse
import itertools
import statistics
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import nn

import lra
from analog_hardware import Crossbar, Quality, accuracy, network
from lra.lab import data

DRIFTS = (0.0, 1.0, 2.0)  # standard deviation of a cell's factor at the end of training
EPOCHS, EVERY = 8, 10


def drift(model: nn.Module, size: float) -> None:
    """Move the factor of every cell by a normal step."""
    for layer in model.modules():
        if isinstance(layer, Crossbar):
            layer.factor += size * layer.rng.normal(size=layer.factor.shape)


@torch.no_grad()
def angle(model: nn.Module) -> float:
    """Return the mean angle between feedback and effective weights, in degrees."""
    found = []
    for layer in list(model)[2::2]:
        effective = torch.from_numpy(layer.weight.detach().numpy() * layer.factor)
        cosine = F.cosine_similarity(layer.feedback.flatten(), effective.flatten(), dim=0)
        found.append(float(torch.rad2deg(torch.arccos(cosine.clip(-1, 1)))))
    return statistics.mean(found)


def train(
    model: nn.Module,
    x: torch.Tensor,
    t: torch.Tensor,
    seed: int,
    after_step: Callable[[int], object],
) -> None:
    """Train a network; after each step, a hook of the optimizer gets the number of steps."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)
    count = itertools.count(1)
    optimizer.register_step_post_hook(lambda *_: after_step(next(count)))
    order = torch.Generator().manual_seed(seed)
    for _ in range(EPOCHS):
        for batch in torch.randperm(len(x), generator=order).split(50):
            optimizer.zero_grad()
            F.cross_entropy(model(x[batch]), t[batch]).backward()
            optimizer.step()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, default=1)
    options = parser.parse_args()
    loaded = data.load("digits")
    arrays = loaded.x_train, loaded.y_train, loaded.x_test, loaded.y_test
    x, t, x_test, t_test = map(torch.from_numpy, arrays)
    x, x_test = x.flatten(1), x_test.flatten(1)
    steps = EPOCHS * -(-len(x) // 50)

    for size in DRIFTS:
        for way in ("digital twin", "mirrored once", "mirrored often"):
            values, angles = [], []
            for seed in range(options.seeds):
                rule = lra.Backprop() if way == "digital twin" else lra.MirroredLRA()
                model = lra.convert(network([64, 128, 128, 10], Quality(0.3, 0, 6), seed), rule)

                def after_step(step: int, model=model, way=way, size=size) -> None:
                    drift(model, size * steps**-0.5)
                    if way == "mirrored often" and step % EVERY == 0:
                        lra.mirror(model, samples=200, step=0.1)

                train(model, x, t, seed, after_step)
                values.append(accuracy(model, x_test, t_test))
                if way != "digital twin":
                    angles.append(angle(model))
            spread = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
            apart = f"  {statistics.mean(angles):3.0f} degrees" if angles else ""
            mean = f"test accuracy {statistics.mean(values):.1f}%{spread}"
            print(f"drift {size}  {way:14}  {mean}{apart}", flush=True)


if __name__ == "__main__":
    main()

"""Sixteen networks at once: four values of beta by four step sizes, in one batched computation.

    python examples/many_at_once.py

Each network has a rule, an optimizer and batches of its own, as in a run of its own.
"""

import itertools

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import lra
from lra.lab import data

BETAS, RATES = (0.03, 0.1, 0.3, 1.0), (1e-3, 3e-3, 1e-2, 3e-2)


def network(beta: float) -> nn.Module:
    """Build one network."""
    model = nn.Sequential(
        *(nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 10))
    )
    return lra.convert(model, lra.LRAE(beta=beta))


def accuracies(together: lra.ensemble.Ensemble, x: Tensor, y: Tensor) -> Tensor:
    """Give the share that each network has right."""
    with torch.no_grad():
        found = together(x.expand(len(together), *x.shape)).argmax(-1)
    return (found == y).float().mean(-1)


def main(epochs: int = 10) -> None:
    """Train them all, and take the two that are best on validation data."""
    torch.manual_seed(0)
    digits = data.load("digits")
    x, y = torch.from_numpy(digits.x_train).flatten(1), torch.from_numpy(digits.y_train)
    x_test, y_test = torch.from_numpy(digits.x_test).flatten(1), torch.from_numpy(digits.y_test)
    (x, x_valid), (y, y_valid) = x.split([len(x) - 300, 300]), y.split([len(y) - 300, 300])
    settings = [*itertools.product(BETAS, RATES)]
    models = [network(beta) for beta, _ in settings]
    together = lra.ensemble.Ensemble(models)
    optimizers = [
        torch.optim.AdamW(model.parameters(), lr=lr, fused=True)
        for model, (_, lr) in zip(models, settings, strict=True)
    ]
    for _ in range(epochs):
        orders = torch.stack([torch.randperm(len(x)) for _ in models])
        for batch in orders.split(32, dim=1):
            together.zero_grad()
            losses = torch.vmap(F.cross_entropy)(together(x[batch]), y[batch])
            losses.sum().backward()
            for optimizer in optimizers:
                optimizer.step()
    together.separate()  # ordinary modules, each with memory of its own
    valid, test = accuracies(together, x_valid, y_valid), accuracies(together, x_test, y_test)
    for k in valid.argsort(descending=True)[:2].tolist():
        beta, lr = settings[k]
        print(f"test accuracy {test[k]:.1%} with beta {beta}, step size {lr}: among the two best")


if __name__ == "__main__":
    main()

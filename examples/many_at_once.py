"""Train sixteen networks in one batched computation: four values of beta by four learning rates.

    python examples/many_at_once.py

Each network has its own rule, optimizer and batches, as in a separate run.
"""

import itertools

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import lra
from lra.ensemble import Ensemble
from lra.lab import data

BETAS, RATES = (0.03, 0.1, 0.3, 1.0), (1e-3, 3e-3, 1e-2, 3e-2)


def network(beta: float) -> nn.Module:
    """Build one network."""
    model = nn.Sequential(
        *(nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 10))
    )
    return lra.convert(model, lra.LRAE(beta=beta))


def accuracies(ensemble: Ensemble, x: Tensor, y: Tensor) -> Tensor:
    """Return the accuracy of each network, from 0 to 1."""
    with torch.no_grad():
        predicted = ensemble(x.expand(len(ensemble), *x.shape)).argmax(-1)
    return (predicted == y).float().mean(-1)


def main(epochs: int = 10) -> None:
    """Train all networks, and print the test accuracy of the two best on validation data."""
    torch.manual_seed(0)
    digits = data.load("digits")
    x, y = torch.from_numpy(digits.x_train).flatten(1), torch.from_numpy(digits.y_train)
    x_test, y_test = torch.from_numpy(digits.x_test).flatten(1), torch.from_numpy(digits.y_test)
    (x, x_valid), (y, y_valid) = x.split([len(x) - 300, 300]), y.split([len(y) - 300, 300])
    settings = [*itertools.product(BETAS, RATES)]
    models = [network(beta) for beta, _ in settings]
    ensemble = Ensemble(models)
    optimizers = [
        torch.optim.AdamW(model.parameters(), lr=lr, fused=True)
        for model, (_, lr) in zip(models, settings, strict=True)
    ]
    for _ in range(epochs):
        orders = torch.stack([torch.randperm(len(x)) for _ in models])
        for batch in orders.split(32, dim=1):
            ensemble.zero_grad()
            losses = torch.vmap(F.cross_entropy)(ensemble(x[batch]), y[batch])
            losses.sum().backward()
            for optimizer in optimizers:
                optimizer.step()
    ensemble.separate()  # back to ordinary modules, each with its own memory
    valid, test = accuracies(ensemble, x_valid, y_valid), accuracies(ensemble, x_test, y_test)
    for k in valid.argsort(descending=True)[:2].tolist():
        beta, lr = settings[k]
        print(f"test accuracy {test[k]:.1%} with beta {beta}, learning rate {lr}")


if __name__ == "__main__":
    main()

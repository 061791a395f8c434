"""Peers: the published algorithm, written by hand, against training with `convert`."""

import itertools

import torch
from torch import nn
from torch.nn import functional as F

import lra

SIZES = [784, 32, 32, 32, 32, 10]
BETA, GAMMA, STEP, BATCH = 0.1, 1.0, 1e-3, 50


class ByHand:
    """LRA-E on a network without biases: forward, local targets and errors, updates, AdamW."""

    def __init__(self, W: list[torch.Tensor], E: list[torch.Tensor]) -> None:
        self.W, self.E = W, E
        self.optimizer = torch.optim.AdamW([*W, *E], lr=STEP)

    def step(self, x: torch.Tensor, labels: torch.Tensor) -> None:
        """Train on one batch."""
        z, h = [x], []
        for W in self.W:
            h.append(z[-1] @ W.T)
            z.append(torch.tanh(h[-1]))
        e = torch.softmax(h[-1], 1) - F.one_hot(labels, SIZES[-1])
        for layer in reversed(range(len(self.W))):
            update = e.T @ z[layer] / len(x)
            self.W[layer].grad = update
            if layer == 0:
                break
            E = self.E[layer - 1]  # the E of this layer
            E.grad = GAMMA * update
            d = e @ E
            y = torch.tanh(h[layer - 1] - BETA * d)
            e = z[layer] - y
        self.optimizer.step()


def test_five_steps_of_the_published_algorithm():
    dtype = torch.float64
    layers = []
    for below, above in itertools.pairwise(SIZES):
        layers += [nn.Linear(below, above, bias=False), nn.Tanh()]
    model = nn.Sequential(*layers[:-1]).to(dtype)
    for layer in model[::2]:
        nn.init.normal_(layer.weight, std=0.1)
    lra.convert(model, lra.LRAE(BETA, GAMMA, init=lra.inits.Normal(0.1)))
    peer = ByHand(
        [layer.weight.detach().clone() for layer in model[::2]],
        [layer.feedback.detach().clone() for layer in model[2::2]],
    )
    start = [p.detach().clone() for p in model.parameters()]
    optimizer = torch.optim.AdamW(model.parameters(), lr=STEP)
    for _ in range(5):
        x, labels = torch.rand(BATCH, 784, dtype=dtype), torch.randint(10, (BATCH,))
        peer.step(x, labels)
        optimizer.zero_grad()
        F.cross_entropy(model(x), labels).backward()
        optimizer.step()
    for layer, W in zip(model[::2], peer.W, strict=True):
        torch.testing.assert_close(layer.weight.detach(), W, rtol=1e-9, atol=1e-9)
    for layer, E in zip(model[2::2], peer.E, strict=True):
        torch.testing.assert_close(layer.feedback.detach(), E, rtol=1e-9, atol=1e-9)
    for before, after in zip(start, model.parameters(), strict=True):
        assert (after - before).abs().max() > STEP  # all of them have moved

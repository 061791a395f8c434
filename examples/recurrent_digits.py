"""Train an LSTM that reads the bundled digits row by row, by LRA-E and by backprop.

    python examples/recurrent_digits.py

torch.nn.LSTM is one kernel. Converted, it runs step by step, so that the rule applies to every
gate's weights and activations.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import lra
from lra.lab import data


class Reader(nn.Module):
    """Classifies a digit from the last state of an LSTM over its eight rows of pixels."""

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        self.lstm = nn.LSTM(8, width, batch_first=True)
        self.head = nn.Linear(width, 10)

    def forward(self, rows: Tensor) -> Tensor:
        states, _ = self.lstm(rows)
        return self.head(states[:, -1])


def train(rule: lra.Rule, epochs: int = 10) -> float:
    """Train by a rule and return the test accuracy."""
    torch.manual_seed(0)
    digits = data.load("digits")
    x, y = (torch.from_numpy(a) for a in (digits.x_train, digits.y_train))
    x_test, y_test = (torch.from_numpy(a) for a in (digits.x_test, digits.y_test))
    x, x_test = x.view(-1, 8, 8), x_test.view(-1, 8, 8)
    model = lra.convert(Reader(), rule, example=x[:2])
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    for _ in range(epochs):
        for batch in torch.randperm(len(x)).split(32):
            optimizer.zero_grad()
            F.cross_entropy(model(x[batch]), y[batch]).backward()
            optimizer.step()
    with torch.no_grad():
        return float((model(x_test).argmax(1) == y_test).float().mean())


if __name__ == "__main__":
    for rule in (lra.LRAE(), lra.Backprop()):
        print(f"test accuracy {train(rule):.1%} after 10 epochs by {rule.name}")

"""Train a residual convolutional network with batch norm by LRA-E, then restore it.

    python examples/residual_network.py

The network and the training loop are ordinary PyTorch. `lra.convert` applies the rule, and
`lra.restore` returns the original modules with the trained weights.
"""

import torch
import torch.nn.functional as F
from torch import nn

import lra
from lra.lab import data


class Block(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(channels)
        self.relu1, self.relu2 = nn.ReLU(inplace=True), nn.ReLU(inplace=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = self.relu1(self.norm1(self.conv1(x)))
        return self.relu2(x + self.norm2(self.conv2(out)))


def build() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1, bias=False),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        Block(16),
        nn.Conv2d(16, 32, 3, stride=2, padding=1),
        nn.ReLU(),
        Block(32),
        nn.Flatten(),
        nn.Linear(32 * 16, 10),
    )


digits = data.load("digits")
x, t = torch.from_numpy(digits.x_train)[:, None], torch.from_numpy(digits.y_train)
x_test, t_test = torch.from_numpy(digits.x_test)[:, None], torch.from_numpy(digits.y_test)

for rule in (lra.LRAE(beta=0.1), lra.Backprop()):
    model = lra.convert(build(), rule)
    if rule == lra.LRAE(beta=0.1):
        print(lra.audit(model, x[:2]))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    for _ in range(5):
        for batch in torch.randperm(len(x)).split(50):
            loss = F.cross_entropy(model(x[batch]), t[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    lra.restore(model).eval()
    with torch.no_grad():
        accuracy = (model(x_test).argmax(1) == t_test).double().mean().item()
    print(f"test accuracy {100 * accuracy:.1f}% after 5 epochs by {rule.name}")

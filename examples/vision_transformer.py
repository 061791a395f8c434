"""Train a small vision transformer by LRA-E and by backprop.

    python examples/vision_transformer.py

The rule applies to every projection and every GELU, which are torch.nn modules. Errors cross
attention's own products and softmax by autograd's derivative.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import lra
from lra.lab import data


class Attention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        return self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class Block(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = Attention(width, heads)
        self.mlp = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class VisionTransformer(nn.Module):
    """Classifies images of 8 x 8 pixels as 16 tokens, patches of 2 x 2."""

    def __init__(self, width: int = 64, heads: int = 4, depth: int = 3) -> None:
        super().__init__()
        self.patches = nn.Conv2d(1, width, 2, stride=2)
        self.positions = nn.Parameter(0.02 * torch.randn(16, width))
        self.blocks = nn.Sequential(*(Block(width, heads) for _ in range(depth)))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.patches(x).flatten(2).transpose(1, 2) + self.positions
        return self.head(self.norm(self.blocks(tokens)).mean(1))


digits = data.load("digits")
x, t = torch.from_numpy(digits.x_train)[:, None], torch.from_numpy(digits.y_train)
x_test, t_test = torch.from_numpy(digits.x_test)[:, None], torch.from_numpy(digits.y_test)

for rule in (lra.LRAE(beta=0.1), lra.Backprop()):
    torch.manual_seed(0)
    model = lra.convert(VisionTransformer(), rule)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    for _ in range(10):
        for batch in torch.randperm(len(x)).split(50):
            loss = F.cross_entropy(model(x[batch]), t[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    with torch.no_grad():
        accuracy = (model(x_test).argmax(1) == t_test).double().mean().item()
    print(f"test accuracy {100 * accuracy:.1f}% after 10 epochs by {rule.name}")

"""Measure the peak memory of a training step relative to backprop.

    python benchmarks/memory.py

Every tensor that an operation creates is counted until it is freed; on CUDA, torch's allocator is
asked. "activations" is the peak above the memory before the step, without gradients. "all" includes
weights, feedback and AdamW's state. Learned feedback is measured with its own memory, and shared
with the weights.
"""

import contextlib
import gc
import weakref

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

import lra


class Meter(TorchDispatchMode):
    """Tracks the number of allocated bytes and its peak."""

    def __init__(self) -> None:
        super().__init__()
        self.held: dict[int, int] = {}
        self.now = self.peak = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for t in pytree.tree_leaves(out):
            if isinstance(t, Tensor):
                self.count(t.untyped_storage())
        return out

    def count(self, storage) -> None:
        key = storage._cdata
        if key not in self.held:
            self.held[key] = storage.nbytes()
            self.now += storage.nbytes()
            self.peak = max(self.peak, self.now)
            weakref.finalize(storage, self.free, key)

    def free(self, key: int) -> None:
        self.now -= self.held.pop(key, 0)


class Block(nn.Module):
    """Two convolutions with a residual connection and in-place activations, as in torchvision."""

    def __init__(self, width: int, out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, out, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(out)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(out, out, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(out)
        self.down = nn.Sequential()
        if stride > 1 or width != out:
            self.down = nn.Sequential(
                nn.Conv2d(width, out, 1, stride, bias=False), nn.BatchNorm2d(out)
            )

    def forward(self, x: Tensor) -> Tensor:
        h = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        h += self.down(x)
        return self.relu(h)


def resnet(blocks: int = 3) -> nn.Sequential:
    """Return a ResNet-20 for 32 x 32 images."""
    layers: list[nn.Module] = [nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16)]
    layers.append(nn.ReLU(inplace=True))
    width = 16
    for out in (16, 32, 64):
        for i in range(blocks):
            layers.append(Block(width, out, 2 if i == 0 and out > 16 else 1))
            width = out
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10))


def transformer() -> nn.Module:
    """Return a torch.nn transformer encoder of four blocks."""
    layer = nn.TransformerEncoderLayer(64, 4, 256, 0.0, "gelu", batch_first=True)
    return nn.Sequential(nn.Linear(48, 64), nn.TransformerEncoder(layer, 4), nn.Linear(64, 10))


def perceptron() -> nn.Module:
    """Return the network of the authors' scripts."""
    layers = [m for n in (784, 256, 256, 256) for m in (nn.Linear(n, 256), nn.Tanh())]
    return nn.Sequential(*layers, nn.Linear(256, 10))


MODELS = {
    "ResNet-20, batch 64": (resnet, (64, 3, 32, 32)),
    "transformer, batch 64": (transformer, (64, 64, 48)),
    "MLP, batch 50": (perceptron, (50, 784)),
}


def measure(build, shape, rule, shared=False, device="cpu") -> tuple[int, int]:
    """Return the peak memory of a step in bytes, for activations and for all tensors."""
    torch.manual_seed(0)
    model, x = build().to(device), torch.randn(shape, device=device)
    if rule is not None:
        terms = "tokens" if x.dim() == 3 else "batch"
        lra.convert(model, rule, example=x[:2], loss_terms=terms)
    optimizer = torch.optim.AdamW(model.parameters())
    if shared:
        lra.share_feedback(model, optimizer)

    def step() -> None:
        out = model(x)
        labels = torch.zeros(out.shape[:-1], dtype=torch.long, device=device).flatten()
        F.cross_entropy(out.flatten(0, -2), labels).backward()
        optimizer.step()

    for _ in range(4):  # allocate the optimizer's state and caches
        step()
        optimizer.zero_grad()
    gc.collect()
    state = [t for s in optimizer.state.values() for t in s.values()]
    persistent = sum(t.numel() * t.element_size() for t in (*model.parameters(), *state))
    on_cuda = device == "cuda"
    before = torch.cuda.memory_allocated() if on_cuda else 0
    if on_cuda:
        torch.cuda.reset_peak_memory_stats()
    with contextlib.nullcontext() if on_cuda else Meter() as meter:
        out = model(x)
        labels = torch.zeros(out.shape[:-1], dtype=torch.long, device=device).flatten()
        loss = F.cross_entropy(out.flatten(0, -2), labels)
        del out
        loss.backward()
    gradients = sum(p.numel() * p.element_size() for p in model.parameters() if p.requires_grad)
    del loss
    peak = torch.cuda.max_memory_allocated() - before if on_cuda else meter.peak
    return peak - gradients, peak + persistent


if __name__ == "__main__":
    for name, (build, shape) in MODELS.items():
        base = measure(build, shape, None)
        activations, total = (n / 2**20 for n in base)
        print(f"\n{name}: backprop {activations:.1f} MiB of activations, {total:.1f} MiB in all")
        for rule, shared in (
            *((rule, False) for rule in (lra.Backprop(), lra.FeedbackAlignment(), lra.LRAE())),
            *((rule, True) for rule in (lra.LRAE(), lra.MirroredLRA())),
        ):
            peaks = measure(build, shape, rule, shared)
            ratios = f"{peaks[0] / base[0]:.2f} of the activations, {peaks[1] / base[1]:.2f} of all"
            print(f"  {rule.name + ', shared' * shared:<22} {ratios}")

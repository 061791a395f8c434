"""What BioTorch 0.0.16 leaves on backprop, module by module, and what becomes of it with lra.

    pip install --no-deps --target peers biotorch==0.0.16    # its dependencies bring another torch
    PYTHONPATH=peers python benchmarks/peers.py

A module stands between two linear layers, and all of it is converted to feedback alignment. Then
the two linear layers get E = W, so that errors cross them as by backprop: if the lowest layer's
update is backprop's, the module in between sends errors down by backprop too, whatever was said.
`tests/torch/test_biotorch.py` has the layers whose updates the two agree on.
"""

import contextlib
import copy
import io
import math
import re
import warnings
from collections.abc import Callable, Iterator
from importlib.metadata import PackageNotFoundError, version

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import lra

WIDTH = 16


class Over(nn.Module):
    """Runs a module on the same numbers in another shape, and takes its first result."""

    def __init__(self, module: nn.Module, *shape: int, times: int = 1) -> None:
        super().__init__()
        self.module, self.shape, self.times = module, shape, times

    def forward(self, x: Tensor) -> Tensor:
        z = self.module(*[x.reshape(-1, *self.shape)] * self.times)
        return (z[0] if isinstance(z, tuple) else z).flatten(1)


class Product(nn.Module):
    """A weight that a module's own code multiplies with."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.randn(WIDTH, WIDTH) / 4)

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.w


class Scaled(nn.Linear):
    """A linear layer with a forward of its own."""

    def forward(self, x: Tensor) -> Tensor:
        return 2 * F.linear(x, self.weight, self.bias)


def reflecting() -> nn.Module:
    return Over(nn.Conv2d(1, 1, 3, padding=1, padding_mode="reflect"), 1, 4, 4)


def attention() -> nn.Module:
    return Over(nn.MultiheadAttention(4, 2, batch_first=True), 4, 4, times=3)


def weight_normed() -> nn.Module:
    return nn.utils.parametrizations.weight_norm(nn.Linear(WIDTH, WIDTH))


MODULES: dict[str, Callable[[], nn.Module]] = {
    "Linear": lambda: nn.Linear(WIDTH, WIDTH),
    "Linear, three dimensions": lambda: Over(nn.Linear(4, 4), 4, 4),
    "Conv2d": lambda: Over(nn.Conv2d(1, 1, 3, padding=1), 1, 4, 4),
    "Conv2d, padding of its own": reflecting,
    "Conv1d": lambda: Over(nn.Conv1d(4, 4, 3, padding=1), 4, 4),
    "Conv3d": lambda: Over(nn.Conv3d(1, 1, 3, padding=1), 1, 2, 2, 4),
    "ConvTranspose2d": lambda: Over(nn.ConvTranspose2d(1, 1, 3, padding=1), 1, 4, 4),
    "Bilinear": lambda: Over(nn.Bilinear(WIDTH, WIDTH, WIDTH), WIDTH, times=2),
    "LSTM": lambda: Over(nn.LSTM(4, 4, batch_first=True), 4, 4),
    "MultiheadAttention": attention,
    "x @ self.w": Product,
    "a subclass of Linear": lambda: nn.Sequential(Scaled(WIDTH, WIDTH)),
    "weight-normed Linear": weight_normed,
}


def first_update(model: nn.Module, x: Tensor, t: Tensor) -> Tensor:
    model.zero_grad()
    F.cross_entropy(model(x), t).backward()
    grad = next(model.parameters()).grad
    assert grad is not None
    return grad.clone()


@torch.no_grad()
def carry_back(model: nn.Sequential, name: str) -> None:
    """Let E = W in the linear layers at the ends, where they have an E."""
    for layer in (model[0], model[2]):
        if (E := getattr(layer, name, None)) is not None:
            E.copy_(layer.weight)


def by_biotorch(model: nn.Sequential) -> str:
    """Convert a model in place, and give what is said of it."""
    from biotorch.module.biomodule import BioModule

    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        BioModule(model, "fa").double()
    carry_back(model, "weight_backward")
    counts = re.findall(r"All the (\d+) <class '[\w.]*?(\w+)'> layers", said.getvalue())
    return ", ".join(f"{n} {kind}" for n, kind in counts)


def by_lra(model: nn.Sequential, x: Tensor) -> str:
    """Convert a model in place."""
    lra.convert(model, lra.FeedbackAlignment(), example=x)
    carry_back(model, "feedback")
    return ""


def outcome(convert: Callable[[nn.Sequential], str], plain: nn.Sequential, x: Tensor) -> list[str]:
    """Tell what was said, and by what the module in between learns."""
    t = torch.arange(len(x)) % 3
    model = copy.deepcopy(plain)
    try:
        said = convert(model)
        with torch.no_grad():
            moved = float((model(x) - plain(x)).abs().max())
        found, backprop = first_update(model, x, t), first_update(plain, x, t)
    except Exception as error:  # of whatever kind: it is what the table shows
        return ["", f"{type(error).__name__}: {' '.join(str(error).split())[:70]}"]
    if moved > 1e-9:
        return [said, f"another forward pass, off by {moved:.2g}"]
    gap = float((found - backprop).norm() / backprop.norm())
    if not math.isfinite(gap):
        raise RuntimeError(f"a gap of {gap}")
    return [said, "backprop" if gap < 1e-9 else "the rule"]


def direct() -> Iterator[str]:
    """Show from what loss BioTorch's direct feedback alignment has its error."""
    from biotorch.module.biomodule import BioModule

    plain = nn.Sequential(nn.Linear(5, WIDTH), nn.Tanh(), nn.Linear(WIDTH, 3))
    with contextlib.redirect_stdout(io.StringIO()):
        model = BioModule(plain, "dfa", output_dim=3).double()
    first, other, t = *torch.randn(2, 6, 5, dtype=torch.float64), torch.arange(6) % 3
    warnings.simplefilter("ignore")  # of its kind of hook

    def updates(factor: float) -> list[Tensor]:
        model.zero_grad()
        (factor * F.cross_entropy(model(first, t, F.cross_entropy), t)).backward()
        return [layer.weight.grad.clone() for layer in (plain[0], plain[2])]

    once, tenfold = updates(1), updates(10)
    below, top = (float((b / a).median()) for a, b in zip(once, tenfold, strict=True))
    yield f"DFA, ten times the loss: lower layer's update times {below:.3g}, the top's {top:.3g}"

    model.eval().zero_grad()
    F.cross_entropy(model(other), t).backward()
    z = torch.tanh(plain[0](other))
    d = plain[2].loss_gradient @ plain[2].weight_backward  # of the batch trained on before
    stale = ((1 - z**2) * d).T @ other
    same = torch.allclose(stale, plain[0].weight.grad)
    yield f"DFA, a backward pass in eval(): by the error of the batch before: {same}"


def main() -> None:
    try:
        name = f"BioTorch {version('biotorch')}"
    except PackageNotFoundError:
        raise SystemExit((__doc__ or "").split("\n\n")[1]) from None
    print(f"| between two linear layers | {name} says it converted | it learns by | with lra by |")
    print("|---|---|---|---|")
    torch.manual_seed(0)
    for kind, build in MODULES.items():
        plain = nn.Sequential(nn.Linear(5, WIDTH), build(), nn.Linear(WIDTH, 3)).double()
        x = torch.randn(6, 5, dtype=torch.float64)
        said, theirs = outcome(by_biotorch, plain, x)
        _, ours = outcome(lambda model, x=x: by_lra(model, x), plain, x)
        print(f"| {kind} | {said} | {theirs} | {ours} |", flush=True)
    print("", *direct(), sep="\n")


if __name__ == "__main__":
    main()

"""Show which modules BioTorch 0.0.16 leaves on backprop, and how lra trains them.

    pip install --no-deps --target peers biotorch==0.0.16    # its dependencies bring another torch
    PYTHONPATH=peers python benchmarks/peers.py

Each module is placed between two linear layers, and the network is converted to feedback alignment.
Then the linear layers get E = W, so that errors cross them as in backprop. If the lowest layer's
update equals backprop's, the module in between sends errors by backprop too, whatever the library
reports. `tests/torch/test_biotorch.py` covers the layers whose updates agree between the libraries.
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


class Reshaped(nn.Module):
    """Runs a module on its input in another shape, and returns the module's first output."""

    def __init__(self, module: nn.Module, *shape: int, times: int = 1) -> None:
        super().__init__()
        self.module, self.shape, self.times = module, shape, times

    def forward(self, x: Tensor) -> Tensor:
        z = self.module(*[x.reshape(-1, *self.shape)] * self.times)
        return (z[0] if isinstance(z, tuple) else z).flatten(1)


class Product(nn.Module):
    """Multiplies its input by a parameter in its own code."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.randn(WIDTH, WIDTH) / 4)

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.w


class Scaled(nn.Linear):
    """A linear layer with its own forward."""

    def forward(self, x: Tensor) -> Tensor:
        return 2 * F.linear(x, self.weight, self.bias)


def reflecting() -> nn.Module:
    return Reshaped(nn.Conv2d(1, 1, 3, padding=1, padding_mode="reflect"), 1, 4, 4)


def attention() -> nn.Module:
    return Reshaped(nn.MultiheadAttention(4, 2, batch_first=True), 4, 4, times=3)


def weight_normed() -> nn.Module:
    return nn.utils.parametrizations.weight_norm(nn.Linear(WIDTH, WIDTH))


MODULES: dict[str, Callable[[], nn.Module]] = {
    "Linear": lambda: nn.Linear(WIDTH, WIDTH),
    "Linear, three dimensions": lambda: Reshaped(nn.Linear(4, 4), 4, 4),
    "Conv2d": lambda: Reshaped(nn.Conv2d(1, 1, 3, padding=1), 1, 4, 4),
    "Conv2d, reflect padding": reflecting,
    "Conv1d": lambda: Reshaped(nn.Conv1d(4, 4, 3, padding=1), 4, 4),
    "Conv3d": lambda: Reshaped(nn.Conv3d(1, 1, 3, padding=1), 1, 2, 2, 4),
    "ConvTranspose2d": lambda: Reshaped(nn.ConvTranspose2d(1, 1, 3, padding=1), 1, 4, 4),
    "Bilinear": lambda: Reshaped(nn.Bilinear(WIDTH, WIDTH, WIDTH), WIDTH, times=2),
    "LSTM": lambda: Reshaped(nn.LSTM(4, 4, batch_first=True), 4, 4),
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
def copy_weights_to_feedback(model: nn.Sequential, name: str) -> None:
    """Set E = W in the first and last linear layer, if they have an E."""
    for layer in (model[0], model[2]):
        if (E := getattr(layer, name, None)) is not None:
            E.copy_(layer.weight)


def by_biotorch(model: nn.Sequential) -> str:
    """Convert a model in place, and return the layers that BioTorch reports as converted."""
    from biotorch.module.biomodule import BioModule

    output = io.StringIO()
    with contextlib.redirect_stdout(output):
        BioModule(model, "fa").double()
    copy_weights_to_feedback(model, "weight_backward")
    counts = re.findall(r"All the (\d+) <class '[\w.]*?(\w+)'> layers", output.getvalue())
    return ", ".join(f"{n} {kind}" for n, kind in counts)


def by_lra(model: nn.Sequential, x: Tensor) -> str:
    """Convert a model in place."""
    lra.convert(model, lra.FeedbackAlignment(), example=x)
    copy_weights_to_feedback(model, "feedback")
    return ""


def outcome(convert: Callable[[nn.Sequential], str], plain: nn.Sequential, x: Tensor) -> list[str]:
    """Return the reported conversions, and by what the module in between sends errors."""
    t = torch.arange(len(x)) % 3
    model = copy.deepcopy(plain)
    try:
        report = convert(model)
        with torch.no_grad():
            forward_error = float((model(x) - plain(x)).abs().max())
        update, backprop = first_update(model, x, t), first_update(plain, x, t)
    except Exception as error:  # any error is an outcome for the table
        return ["", f"{type(error).__name__}: {' '.join(str(error).split())[:70]}"]
    if forward_error > 1e-9:
        return [report, f"forward pass differs by {forward_error:.2g}"]
    gap = float((update - backprop).norm() / backprop.norm())
    if not math.isfinite(gap):
        raise RuntimeError(f"a gap of {gap}")
    return [report, "backprop" if gap < 1e-9 else "the rule"]


def direct() -> Iterator[str]:
    """Yield lines on where BioTorch's direct feedback alignment takes its error from."""
    from biotorch.module.biomodule import BioModule

    plain = nn.Sequential(nn.Linear(5, WIDTH), nn.Tanh(), nn.Linear(WIDTH, 3))
    with contextlib.redirect_stdout(io.StringIO()):
        model = BioModule(plain, "dfa", output_dim=3).double()
    first, other, t = *torch.randn(2, 6, 5, dtype=torch.float64), torch.arange(6) % 3
    warnings.simplefilter("ignore")  # torch warns of BioTorch's kind of hook

    def updates(factor: float) -> list[Tensor]:
        model.zero_grad()
        (factor * F.cross_entropy(model(first, t, F.cross_entropy), t)).backward()
        return [layer.weight.grad.clone() for layer in (plain[0], plain[2])]

    once, tenfold = updates(1), updates(10)
    below, top = (float((b / a).median()) for a, b in zip(once, tenfold, strict=True))
    yield f"DFA, loss times 10: hidden layer's update times {below:.3g}, output layer's {top:.3g}"

    model.eval().zero_grad()
    F.cross_entropy(model(other), t).backward()
    z = torch.tanh(plain[0](other))
    d = plain[2].loss_gradient @ plain[2].weight_backward  # error of the previous batch
    stale = ((1 - z**2) * d).T @ other
    same = torch.allclose(stale, plain[0].weight.grad)
    yield f"DFA, backward pass in eval() uses the error of the previous batch: {same}"


def main() -> None:
    try:
        name = f"BioTorch {version('biotorch')}"
    except PackageNotFoundError:
        raise SystemExit((__doc__ or "").split("\n\n")[1]) from None
    print(f"| between two linear layers | {name} reports as converted | errors by | with lra by |")
    print("|---|---|---|---|")
    torch.manual_seed(0)
    for kind, build in MODULES.items():
        plain = nn.Sequential(nn.Linear(5, WIDTH), build(), nn.Linear(WIDTH, 3)).double()
        x = torch.randn(6, 5, dtype=torch.float64)
        report, theirs = outcome(by_biotorch, plain, x)
        _, ours = outcome(lambda model, x=x: by_lra(model, x), plain, x)
        print(f"| {kind} | {report} | {theirs} | {ours} |", flush=True)
    print("", *direct(), sep="\n")


if __name__ == "__main__":
    main()

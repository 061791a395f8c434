"""Compare methods of several passes with backprop: accuracy at the same budget, and step time.

    python benchmarks/methods.py              # both, about two minutes
    python benchmarks/methods.py --steps-only
    python benchmarks/methods.py --model residual-mlp:depth=64 --lr 3e-4 \\
        --only backprop error-predictive-coding

By default the network is 784-256-256-10 with tanh. It trains on 10,000 MNIST images for 3 epochs in
batches of 50 with AdamW at 1e-3, from the same initial weights and in the same order for all
methods. Accuracy is that of the last weights on the 10,000 test images, by the method's own output.
Times are measured with default options; the methods take turns.
"""

import argparse
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import lra
from lra.lab.data import load
from lra.lab.networks.model import parse_model
from turns import take_turns

CONTESTANTS: dict[str, lra.methods.Method | None] = {
    "backprop": None,
    **{name: build() for name, build in lra.methods.METHODS.items()},
}


def network(method: lra.methods.Method | None, text: str) -> nn.Module:
    torch.manual_seed(0)
    model = parse_model(text).build((784,), 10)
    return model if method is None else method.attach(model, torch.zeros(1, 784))


def learn(
    model: nn.Module, method: lra.methods.Method | None, optimizer: torch.optim.Optimizer
) -> Callable[[Tensor, Tensor], None]:
    def step(x: Tensor, t: Tensor) -> None:
        optimizer.zero_grad()
        if method is None:
            F.cross_entropy(model(x), t).backward()
        else:
            method(model, lambda output: F.cross_entropy(output, t), x)
        optimizer.step()

    return step


def accuracy(
    method: lra.methods.Method | None, text: str, lr: float, epochs: int, images: int
) -> tuple[float, float]:
    """Train, and return the test accuracies of the method's output and of a forward pass."""
    data = load("mnist")
    arrays = data.x_train[:images], data.y_train[:images], data.x_test, data.y_test
    x, t, x_test, t_test = (torch.from_numpy(a) for a in arrays)
    x, x_test = x.flatten(1), x_test.flatten(1)
    model = network(method, text)
    step = learn(model, method, torch.optim.AdamW(model.parameters(), lr=lr))
    torch.manual_seed(1)
    orders = [torch.randperm(images) for _ in range(epochs)]
    for order in orders:
        for rows in order.split(50):
            step(x[rows], t[rows])
    with torch.no_grad():
        forward = model(x_test)
    output = forward if method is None else method.output(model, x_test)
    own, plain = (float((y.argmax(1) == t_test).double().mean()) for y in (output, forward))
    return 100 * own, 100 * plain


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--model", default="mlp:depth=3", help="as in lra train")
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--only", nargs="+", default=list(CONTESTANTS), choices=CONTESTANTS)
    parser.add_argument("--steps-only", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    x, t = torch.rand(50, 784), torch.randint(10, (50,))
    chosen = {name: CONTESTANTS[name] for name in options.only}
    contestants = {}
    for name, method in chosen.items():
        model = network(method, options.model)
        # The learning rate is too small to learn: fitting noise would change the step time.
        step = learn(model, method, torch.optim.AdamW(model.parameters(), lr=1e-9))
        contestants[name] = lambda step=step: step(x, t)
    print("time per step, batch size 50, one thread:")
    take_turns(contestants, rounds=15, steps=5)
    if options.steps_only:
        return
    print(f"{options.images:,} images, {options.epochs} epochs:")
    for name, method in chosen.items():
        own, plain = accuracy(method, options.model, options.lr, options.epochs, options.images)
        forward = "" if own == plain else f"   (forward pass: {plain:.2f} %)"
        print(f"  {name:<34} {own:6.2f} %{forward}", flush=True)


if __name__ == "__main__":
    main()

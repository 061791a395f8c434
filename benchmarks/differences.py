"""Exact differences of activations: time and rounding error of each way to compute them.

    OMP_NUM_THREADS=1 python benchmarks/differences.py
    python benchmarks/differences.py --fit
    python benchmarks/differences.py --updates

The default measures one call in eager mode on a CPU: by subtraction, by the closed form, and by the
fast form that eager steps use. --updates measures the relative error of float32 updates of the
published rule against float64 ones, in the first layer, by subtraction and as the library computes
them. --fit finds the coefficients of D coth(D) in lra.torch.ops.eager.
"""

import argparse
import copy
import functools
import statistics
import timeit
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import lra
from lra.differences import Phi
from lra.torch.ops import eager
from lra.torch.phi import phi_of_module
from trials.rounding import BySubtraction

ACTIVATIONS = (nn.Tanh, nn.ReLU, nn.GELU, nn.SiLU, nn.Mish, nn.Sigmoid, nn.ELU, nn.Softplus)
SIZES = ((50, 256), (256, 1024), (1024, 1024))
DEPTHS = (3, 4, 5, 8)


def microseconds(call: Callable[[], object]) -> float:
    """Return the median time of a call over seven repeats."""
    call()
    number = max(5, int(2e-2 / max(timeit.timeit(call, number=3) / 3, 1e-7)))
    return statistics.median(timeit.repeat(call, number=number, repeat=7)) / number * 1e6


def error(found: Tensor, exact: Tensor) -> float:
    """Return the relative error of a tensor, norm-wise."""
    return float((found.double() - exact).norm() / exact.norm())


def difference(form: Phi, h: Tensor, delta: Tensor, z: Tensor) -> Tensor:
    """Compute a difference; delta is copied, since eager forms overwrite it."""
    found: Tensor = form.difference(h, delta.clone(), torch, z)
    return found


def measure() -> None:
    """Print time and rounding error for each activation and size."""
    print(f"torch {torch.__version__}, {torch.get_num_threads()} thread(s), |delta| up to 0.05")
    for cls in ACTIVATIONS:
        module = cls()
        phi = phi_of_module(module, cls, module)
        plain, closed = Phi(phi.f), Phi(phi.f, phi.form)
        for shape in SIZES:
            torch.manual_seed(0)
            h = torch.randn(shape)
            delta, z = 0.05 * (2 * torch.rand(shape) - 1), module(h)
            exact = closed.difference(h.double(), delta.double(), torch)
            line = f"{cls.__name__:<9} {shape[0]:>4} x {shape[1]:<4}"
            for name, form in (("subtraction", plain), ("closed", closed), ("eager", phi)):
                call = functools.partial(difference, form, h, delta, z)
                line += f"  {name} {microseconds(call):8.1f} us, error {error(call(), exact):.0e};"
            print(line.rstrip(";"), flush=True)


def updates() -> None:
    """Print the relative error of the first layer's float32 update for several depths."""
    for cls in ACTIVATIONS:
        for depth in DEPTHS:
            errors = []
            for crossing in (BySubtraction(), lra.crossing.TargetDifference()):
                found = [
                    _first_layer(cls, depth, lra.Rule(lra.feedback.Learned(), crossing), seed)
                    for seed in range(10)
                ]
                errors.append(f"{statistics.median(found):.0e} (at most {max(found):.0e})")
            print(
                f"{cls.__name__:<9} {depth} hidden layers: subtraction {errors[0]}, now {errors[1]}"
            )


def _first_layer(cls: type[nn.Module], depth: int, rule: lra.Rule, seed: int) -> float:
    torch.manual_seed(seed)
    layers = [nn.Linear(784, 256), cls()]
    for _ in range(depth - 1):
        layers += [nn.Linear(256, 256), cls()]
    model = lra.convert(nn.Sequential(*layers, nn.Linear(256, 10)), rule)
    exact = lra.convert(copy.deepcopy(lra.restore(copy.deepcopy(model))), lra.LRAE()).double()
    exact.load_state_dict(model.state_dict())
    x, t = torch.rand(50, 784), torch.randint(10, (50,))
    F.cross_entropy(model(x), t).backward()
    F.cross_entropy(exact(x.double()), t).backward()
    return error(model[0].weight.grad, exact[0].weight.grad)


def fit(degree: int = 4) -> None:
    """Print the coefficients of D coth(D) in D^2, with a small largest relative error."""
    nodes = np.cos(np.pi * (np.arange(400) + 0.5) / 400)
    u = (nodes + 1) / 2 * eager._MEDIUM**2
    y = np.sqrt(u) / np.tanh(np.sqrt(u))
    powers = u[:, None] ** np.arange(1, degree + 1)
    weights = np.ones_like(u)
    for _ in range(60):  # weights grow where the relative error is large
        scale = weights / y
        coefficients = np.linalg.lstsq(powers * scale[:, None], (y - 1) * scale, rcond=None)[0]
        off = np.abs((1 + powers @ coefficients) / y - 1)
        weights *= 0.5 + off / off.max()
        weights /= weights.mean()
    print([1.0, *(float(f"{c:.9g}") for c in coefficients)])
    print(f"relative error at most {off.max():.1e}, before rounding")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--fit", action="store_true", help="find the coefficients of D coth(D)")
    parser.add_argument("--updates", action="store_true", help="measure float32 updates")
    options = parser.parse_args()
    chosen = fit if options.fit else updates if options.updates else measure
    chosen()


if __name__ == "__main__":
    main()

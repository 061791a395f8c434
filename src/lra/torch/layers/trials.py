"""Numerical tests of a module: whether it is an activation, a step function, or random."""

import contextlib
import copy
import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from lra.torch.activations import Activation, Bernoulli, BlackBox
from lra.torch.random_states import RandomStates

_SHAPES = (4, 8, 12), (4, 8), (4, 8, 12, 12)


def is_activation(module: nn.Module) -> bool:
    """Return whether a parameter-free module is elementwise and nonlinear (tested numerically).

    The test runs a copy on a few numbers, in another order and scaled, in training and in eval
    mode. Elementwise functions commute with the order, linear ones with the scale. A random module
    is elementwise if it is so for the same noise.
    """
    if isinstance(module, Activation):
        return True
    if type(module).__module__.startswith("torch.") or next(module.children(), None) is not None:
        return False
    if next(module.parameters(), None) is not None or next(module.buffers(), None) is not None:
        return False
    nonlinear = []
    for training in (True, False):
        try:
            with _trial(module, training) as phi:
                if not _is_elementwise(phi):
                    return False
                nonlinear.append(not _is_affine(phi))
        except (
            Exception
        ):  # it takes other shapes or more inputs, so it is no activation of this kind
            return False
    return any(nonlinear)


def is_step_function(module: nn.Module) -> bool:
    """Return whether an activation is flat between steps, such as sign (tested numerically)."""
    if isinstance(module, Activation):
        return module.flat
    if type(module).__module__.startswith("torch."):
        return False
    try:
        with _trial(module) as phi:
            h = torch.linspace(-3.1, 4.3, 384).reshape(_SHAPES[0])
            z, beside = phi(h), phi(h + 1e-4)
            return bool((z == beside).double().mean() > 0.95) and bool((z != z.flatten()[0]).any())
    except Exception:  # it takes other shapes, so the test says nothing
        return False


def is_random(module: nn.Module) -> bool:
    """Return whether an activation draws noise in training, or may do so (tested numerically).

    Those of torch and of `lra.activations` that draw noise have a backward pass of their own.
    """
    if type(module).__module__.startswith("torch.") or isinstance(module, (Bernoulli, BlackBox)):
        return False
    for shape in _SHAPES:
        with contextlib.suppress(Exception), _trial(module) as phi:
            h = torch.linspace(-3.1, 4.3, math.prod(shape)).reshape(shape)
            return not torch.equal(phi(h, 1), phi(h, 2))
    return True  # it takes other shapes, so the test says nothing


@contextlib.contextmanager
def _trial(module: nn.Module, training: bool = True) -> Iterator[Callable[..., Tensor]]:
    """Yield a copy of a module as a function of h, and of a seed of its noise."""
    states = RandomStates()
    with torch.no_grad(), states.preserved(), torch.device("cpu"):
        copied = copy.deepcopy(module).cpu().float().train(training)

        def phi(h: Tensor, seed: int = 0) -> Tensor:
            states.seed(seed)
            z: Tensor = copied(h.clone())
            return z

        yield phi


_NUMBERS = torch.linspace(-3.1, 4.3, 48).reshape(2, 4, 6)


def _is_elementwise(phi: Callable[..., Tensor]) -> bool:
    """Return whether each number of a function's result depends on one number of its input."""
    h = _NUMBERS
    order = torch.arange(47, -1, -1)
    z = phi(h)
    if not isinstance(z, Tensor) or z.shape != h.shape or not torch.equal(phi(h), z):
        return False
    is_noisy = not torch.equal(phi(h, 1), z)
    raised = h.clone()
    raised[0, 0, 0] += 5
    for seed in range(5 if is_noisy else 1):
        beside, elsewhere = phi(h, seed), phi(raised, seed)
        elsewhere[0, 0, 0] = beside[0, 0, 0]
        if not _close(elsewhere, beside):
            return False
    if is_noisy:
        return True  # noise has an order of its own
    permuted = phi(h.flatten()[order].reshape(h.shape)).flatten()[order].reshape(h.shape)
    return _close(permuted, z)


def _is_affine(phi: Callable[..., Tensor]) -> bool:
    """Return whether a function is a h + b."""
    h = _NUMBERS
    z, zero = phi(h), phi(torch.zeros_like(h))
    return all(_close(phi(a * h) - zero, a * (z - zero)) for a in (-1.0, 0.5, 2.0))


def _close(a: Tensor, b: Tensor) -> bool:
    return bool(torch.allclose(a, b, rtol=1e-4, atol=1e-5))

"""Activations as rules see them: a module's or a call's function with its exact difference."""

import functools
import inspect
import math
from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from lra.differences import FORMS, known
from lra.torch.ops.eager import FAST, EagerPhi
from lra.torch.registry import ACTIVATIONS, DIFFERENCES, IN_PLACE_AT, F, T

_RENAMED = {"min": "min_val", "max": "max_val"}  # of clamp, whose difference is hardtanh's

_SETTINGS = {name: tuple(inspect.signature(form).parameters)[3:] for name, form in FORMS.items()}
"""The names of the settings of each closed form."""


def phi_of_module(module: Any, plain: type[nn.Module], f: Callable[[Tensor], Tensor]) -> EagerPhi:
    """Return an activation module's function, with the difference that is known for its class.

    Args:
        module: the module, converted or not.
        plain: its class before conversion.
        f: its forward, out of place.
    """
    own = getattr(plain, "difference", None)
    if own is not None:
        return EagerPhi(f, functools.partial(own, module), cheap=True)
    name = ACTIVATIONS.get(plain)
    if plain is nn.PReLU:
        return EagerPhi(f, functools.partial(_prelu, module), cheap=True)
    if name is None:
        return EagerPhi(f)
    constants = getattr(plain, "__constants__", ())
    return _known(
        name, f, {key: getattr(module, key) for key in constants if key in _SETTINGS[name]}
    )


def phi_of_call(
    func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], h: Tensor, f: Callable[..., Tensor]
) -> EagerPhi:
    """Return a call of an elementwise function, with the difference that is known for it.

    Args:
        func: torch's function.
        args: its arguments.
        kwargs: its keyword arguments.
        h: the argument that errors go to.
        f: the call as a function of h, out of place.
    """
    name = DIFFERENCES.get(func)
    if name is None or (args and args[0] is not h):
        return EagerPhi(f)
    rest = args[1 : IN_PLACE_AT.get(func, len(args))]
    if len(rest) > len(_SETTINGS[name]):
        return EagerPhi(f)  # logit's eps, which changes the function
    settings = dict(zip(_SETTINGS[name], rest, strict=False))
    for key, value in kwargs.items():
        if key not in ("input", "self", "inplace", "out"):
            settings[_RENAMED.get(key, key)] = value
    if func in (F.threshold, T.__pow__) and len(settings) < len(_SETTINGS[name]):
        return EagerPhi(f)
    if name == "hardtanh":
        ends = {"min_val": -math.inf, "max_val": math.inf}
        settings = {key: ends[key] if value is None else value for key, value in settings.items()}
        if func not in (F.hardtanh, F.hardtanh_):
            settings = ends | settings
    numbers = (int, float, str)
    if not all(
        isinstance(value, numbers) and key in _SETTINGS[name] for key, value in settings.items()
    ):
        return EagerPhi(f)  # a tensor, for instance
    if name == "hardtanh" and settings.get("min_val", -1.0) > settings.get("max_val", 1.0):
        return EagerPhi(f)  # clamp returns max everywhere
    return _known(name, f, settings)


def sigmoid_phi() -> EagerPhi:
    """Return the logistic sigmoid."""
    return _known("sigmoid", F.sigmoid, {})


def leaky_phi(f: Callable[[Tensor], Tensor], slope: Tensor) -> EagerPhi:
    """Return a leaky ReLU with a slope for each number."""
    return EagerPhi(f, functools.partial(FORMS["leaky_relu"], negative_slope=slope), cheap=True)


def _known(name: str, f: Callable[[Tensor], Tensor], settings: dict[str, Any]) -> EagerPhi:
    phi = known(name, f, **settings)
    fast = FAST[name](**settings) if phi.form is not None and name in FAST else None
    return EagerPhi(f, phi.form, phi.room, phi.cheap, fast)


def _prelu(module: Any, h: Any, delta: Any, xp: Any) -> Any:
    """Compute PReLU's difference with the slopes of now, one for each channel or for all."""
    slopes = module.weight.detach().to(h.dtype)
    if slopes.numel() > 1 and h.dim() > 1:
        slopes = slopes.view(-1, *[1] * (h.dim() - 2))
    return FORMS["leaky_relu"](h, delta, xp, slopes)

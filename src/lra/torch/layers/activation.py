"""Activations converted by class: torch's, registered ones, and those recognised numerically."""

import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lra.crossing import Crossing, crossing_at
from lra.errors import RuleError
from lra.loss_terms import LossTerms
from lra.torch.activations import Bernoulli, BlackBox
from lra.torch.layers.base import Local
from lra.torch.layers.classes import local_class
from lra.torch.layers.tracing import as_leaf, is_traced
from lra.torch.ops.autograd import apply_activation, apply_ops
from lra.torch.ops.eager import EagerPhi
from lra.torch.ops.ops import (
    ActivationOp,
    Gradients,
    Op,
    ParametricActivationOp,
    SavedActivationOp,
    activation_error,
)
from lra.torch.phi import leaky_phi, phi_of_module, sigmoid_phi
from lra.torch.random_states import with_current_noise
from lra.torch.registry import SURROGATES


class LocalActivation(Local):
    """An activation z = phi(h) of h's shape, which errors cross by the rule's crossing axis.

    phi is the plain class's own forward. The module's own parameters get the gradient of the error
    that arrives.
    """

    _input_name = ""

    @classmethod
    def wrap(cls, plain: type[nn.Module], *methods: str) -> dict[str, Any]:
        """Return the name of the first argument of the plain forward."""
        names = *inspect.signature(plain.forward).parameters, "", ""
        return {"_input_name": names[1]}

    @property
    def crossing(self) -> Crossing:
        """The rule's crossing, with the surrogate registered for the class, if there is one."""
        return crossing_at(self.rule.crossing, SURROGATES.get(self.plain), self._lra.flat)

    @property
    def fuses(self) -> bool:  # type: ignore[override]
        """Whether a Sequential can run it with its neighbours: where z depends on h alone."""
        other = self._parameters or self._modules or self._lra.noisy
        return not (other or isinstance(self, Bernoulli))

    @property
    def in_place(self) -> bool:
        """Whether the module overwrites its input."""
        own = vars(self)  # faster than nn.Module's search for an attribute that is missing
        return bool(own["inplace"] if "inplace" in own else getattr(type(self), "inplace", False))

    def op(self) -> tuple[Op, tuple[Tensor | None, ...]]:
        """Return the activation as an op."""
        kind = SavedActivationOp if isinstance(self, BlackBox) else ActivationOp
        return kind(_phi_of_pass(self), self.crossing, self._lra.terms), ()

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Compute z = phi(h); an in-place module overwrites h with it, as the plain one does.

        Args:
            *args: the arguments of the plain forward, of which the first is h.
            **kwargs: its keyword arguments.
        """
        if is_traced(args, kwargs):
            return as_leaf(self, args, kwargs)
        if not torch.is_grad_enabled():
            return self.plain.forward(self, *args, **kwargs)
        if len(args) == 1 and not kwargs:
            return _activate(self, args[0], None)
        name = self._input_name
        h = args[0] if args else kwargs.get(name)
        if not isinstance(h, Tensor):
            raise RuleError(
                f"activation {_name(self)} was called without a tensor as its first argument, so "
                "the rule cannot find its pre-activations; exclude it with skip="
            )

        def call(module: Any, h: Tensor) -> Tensor:
            if args:
                return self.plain.forward(module, h, *args[1:], **kwargs)  # type: ignore[no-any-return]
            return self.plain.forward(module, **{**kwargs, name: h})  # type: ignore[no-any-return]

        return _activate(self, h, call)

    def _describe(self) -> str:
        return f"crossing={self.crossing}"


def _activate(activation: Any, input: Tensor, call: Callable[..., Tensor] | None) -> Tensor:
    """Compute z = phi(h).

    Args:
        activation: the converted module.
        input: h.
        call: the plain forward as a function of the module and h, where h is not all it gets.
    """
    crossing, terms = activation.crossing, activation._lra.terms
    is_black_box = isinstance(activation, BlackBox)
    if is_black_box:
        return apply_ops((activation.op()[0],), input)
    if isinstance(activation, Bernoulli):
        mean = ParametricActivationOp(sigmoid_phi(), crossing, terms)
        return apply_ops((mean,), input, activation.evaluate(input.detach()))
    phi = _phi_of_pass(activation, call)
    if activation.fuses and call is None:
        in_place = (
            functools.partial(activation.plain.forward, activation) if activation.in_place else None
        )
        return apply_activation(phi, crossing, terms, input, in_place)
    # Autograd computes the gradients of all but h, the rule the error at h.
    h = input.clone() if activation.in_place else input
    if activation._lra.noisy:
        phi = replace(phi, f=_with_noise(activation, phi.f, h))
    forward: Callable[..., Tensor] = call or activation.plain.forward
    z = forward(activation, h.detach())
    if z.shape != h.shape:
        raise RuleError(
            f"activation {_name(activation)} returned {tuple(z.shape)} for {tuple(h.shape)}; an "
            "activation keeps the shape; exclude it with skip="
        )
    z = apply_ops((ParametricActivationOp(phi, crossing, terms),), h, z)
    return input.copy_(z) if activation.in_place else z


def _phi_of_pass(activation: Any, call: Callable[..., Tensor] | None = None) -> EagerPhi:
    """Return z = phi(h) by the plain forward, out of place, with the settings of this pass.

    Args:
        activation: the converted module.
        call: the plain forward with more than h, as a function of the module and h.
    """
    module = activation if torch.compiler.is_compiling() else _freeze(activation)
    forward = call or activation.plain.forward
    if activation.in_place:

        def f(h: Tensor) -> Tensor:
            z: Tensor = forward(module, h.clone())
            return z
    else:
        f = functools.partial(forward, module)
    return phi_of_module(module, activation.plain, f) if call is None else EagerPhi(f)


def _freeze(activation: Any) -> Any:
    """Return a plain module with the attributes of now, which targets are taken of.

    The attributes may change until the backward pass, and a target must not change them.
    """
    module = object.__new__(activation.plain)
    vars(module).update(vars(activation))
    if activation._buffers:
        buffers = {k: None if b is None else b.clone() for k, b in activation._buffers.items()}
        vars(module)["_buffers"] = buffers
    return module


def _name(activation: Any) -> str:
    return f"{activation._lra.path!r} ({activation.plain.__name__})"


def _with_noise(
    activation: Any, f: Callable[[Tensor], Tensor], h: Tensor
) -> Callable[[Tensor], Tensor]:
    """Return phi with the noise of this pass."""
    if torch.compiler.is_compiling():
        raise RuleError(
            f"activation {_name(activation)} is random, and torch.compile cannot repeat its noise "
            "in the backward pass; train without compiling"
        )
    return with_current_noise(f, h)


@dataclass(frozen=True)
class _DrawnSlopes:
    """RReLU's op: targets are taken with the slopes that were drawn in the forward pass."""

    lower: float
    upper: float
    training: bool
    crossing: Crossing
    terms: LossTerms | float
    parameters = 0

    def forward(self, x: Tensor, *parameters: Any) -> Tensor:
        return F.rrelu(x, self.lower, self.upper, self.training)

    def save(
        self, x: Tensor, out: Tensor, output_escapes: bool, *parameters: Any
    ) -> tuple[Tensor, ...]:
        return x, torch.where(x < 0, out / x, (self.lower + self.upper) / 2)

    def phi(self, h: Tensor) -> Tensor:
        """Compute z with the mean slope, for a diagnosis."""
        return F.rrelu(h, self.lower, self.upper, False)

    def backward(
        self, saved: tuple[Tensor, ...], error: Tensor, needs: tuple[bool, ...]
    ) -> Gradients:
        h, slope = saved

        def f(v: Tensor) -> Tensor:
            return torch.where(v < 0, slope.to(v.dtype) * v, v)

        phi = leaky_phi(f, slope if error.dtype == slope.dtype else slope.float())
        return (activation_error(ActivationOp(phi, self.crossing, self.terms), error, h),)


class LocalRReLU(LocalActivation, nn.RReLU):
    """torch.nn.RReLU under a rule."""

    plain = nn.RReLU

    def op(self) -> tuple[Op, tuple[Tensor | None, ...]]:
        """Return z = h above zero, and a random slope times h below."""
        return _DrawnSlopes(
            self.lower, self.upper, self.training, self.crossing, self._lra.terms
        ), ()

    def forward(self, input: Tensor) -> Tensor:
        """Compute z = h above zero, and a random slope times h below."""
        if is_traced((input,), {}):
            return as_leaf(self, (input,), {})  # type: ignore[no-any-return]
        if not torch.is_grad_enabled():
            return nn.RReLU.forward(self, input)
        z = apply_ops((self.op()[0],), input.clone() if self.inplace else input)
        return input.copy_(z) if self.inplace else z


def local_activation(cls: type[nn.Module]) -> type[Local]:
    """Return the class that an activation module becomes."""
    return LocalRReLU if cls is nn.RReLU else local_class(LocalActivation, cls)

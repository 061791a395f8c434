"""Parts that can only be run: code without autograd, on plain tensors, under every transform."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.autograd import Function

from lra.crossing import Surrogate
from lra.errors import OptionError, RuleError
from lra.torch.activations import Unit

Opaque = Callable[[Tensor], Tensor]


class _Run(Function):
    """z = f(h) where nobody knows f's derivative."""

    @staticmethod
    def forward(f: Opaque, refusal: str, h: Tensor) -> Tensor:
        return f(h)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.refusal = inputs[1]

    @staticmethod
    def vmap(info: Any, in_dims: Any, f: Opaque, refusal: str, h: Tensor) -> tuple[Tensor, int]:
        z: Tensor = _Run.apply(f, refusal, h.movedim(in_dims[2], 0))  # type: ignore[no-untyped-call]
        return z, 0

    @staticmethod
    def backward(ctx: Any, d: Tensor) -> Any:
        raise RuleError(ctx.refusal)


def run_only(f: Opaque, h: Tensor, refusal: str) -> Tensor:
    """Run f on plain tensors; an error that comes back to it is refused.

    Args:
        f: the function; under vmap the mapped dimension of what it is given is the first.
        h: its argument.
        refusal: the message for an error that would have to cross it.

    Raises:
        RuleError: in the backward pass.
    """
    if torch.compiler.is_compiling():
        torch._dynamo.graph_break()  # a compiler would look into it
    z: Tensor = _Run.apply(f, refusal, h)  # type: ignore[no-untyped-call]
    return z


class BlackBox(Unit):
    """z = phi(h) for any function that can be evaluated: a lookup table, NumPy, C, a device.

    It runs without autograd. Rules with targets run it anew on either side of h; where autograd
    would have to cross it and no surrogate is named, the backward pass is an error. It is as random
    as the function: each run of a noisy one has noise of its own.

    Args:
        function: gives z, of h's shape, from h: a copy of it, which it may overwrite.
        numpy: whether it wants NumPy arrays, on whatever device h is; NumPy's own ufuncs get them
            anyway.
        straight_through: a surrogate for autograd.

    Raises:
        OptionError: for what cannot be called; and in forward, for a result of another shape.
        RuleError: in the backward pass of autograd, without a surrogate.

    Example:
        lra.activations.BlackBox(lambda h: np.interp(h, volts, amperes), numpy=True)
    """

    def __init__(
        self,
        function: Callable[[Any], Any],
        *,
        numpy: bool = False,
        straight_through: Surrogate | None = None,
    ) -> None:
        super().__init__(straight_through)
        if isinstance(function, nn.Module) or not callable(function):
            raise OptionError(
                "Evaluated: expected a function of an array, got "
                f"{function if isinstance(function, type) else type(function).__name__}; a module "
                "of your own is a unit by lra.register_activation(Class)"
            )
        self.function = function
        self.numpy = numpy or isinstance(function, np.ufunc)

    def evaluate(self, h: Tensor) -> Tensor:
        """Run the function."""
        return run_only(
            self._run, h,
            f"{self._name} can only be evaluated: autograd knows no derivative of it. Convert the "
            "model to a rule with targets, such as lra.MirroredLRA(), or name a surrogate for "
            "backprop: lra.activations.BlackBox(function, straight_through=lra.crossing.TanhSurrogate())",
        )  # fmt: skip

    def _run(self, h: Tensor) -> Tensor:
        given: Any = h.detach().clone()
        if self.numpy:
            given = (given.float() if given.dtype is torch.bfloat16 else given).cpu().numpy()
        z = self.function(given)
        if not isinstance(z, Tensor):
            array = np.array(z)  # a copy: from a view of anything to what torch takes
            if array.dtype.kind not in "biuf":
                raise OptionError(f"Evaluated: {self._name} gave no numbers, but {z!r}")
            z = torch.from_numpy(array)
        if z.shape != h.shape:
            raise OptionError(
                f"Evaluated: {self._name} made {tuple(z.shape)} of {tuple(h.shape)}; a unit keeps "
                "the shape"
            )
        return z.detach().to(h)

    @property
    def _name(self) -> str:
        return getattr(self.function, "__name__", repr(self.function))

    def extra_repr(self) -> str:
        """Name the function, and the surrogate."""
        return ", ".join(filter(None, (self._name, super().extra_repr())))

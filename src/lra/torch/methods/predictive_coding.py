"""Predictive coding for torch: a free state where each weight layer reads."""

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from lra.errors import Refusal
from lra.loss_terms import LossTerms
from lra.methods import Loss, PredictiveCoding
from lra.torch.convert.forward_scan import escapes
from lra.torch.methods.runs import Runs, check_model, exact, inside, refuse, terms_of
from lra.torch.registry import BILINEAR_FUNCTIONS, INTERCEPTED, WEIGHT_LAYERS

_PRODUCTS = {"@", *(f.__name__ for f in BILINEAR_FUNCTIONS if hasattr(f, "__name__"))}


def readers(method: PredictiveCoding, model: nn.Module) -> list[nn.Module]:
    """Give the weight layers of a model, where states stand.

    Raises:
        MethodError: for a model that is converted, compiled or sharded, or that multiplies with
            weights elsewhere: an error would cross those as in backprop, unseen.
    """
    check_model(method, model)
    found: list[nn.Module] = []
    refused: list[Refusal] = []
    for path, module in inside(model).named_modules():
        kind = type(module)
        if isinstance(module, (nn.Linear, _ConvNd)) or kind in WEIGHT_LAYERS:
            found.append(module)
        elif isinstance(module, INTERCEPTED) and kind.__module__.startswith("torch."):
            if any(p.dim() > 1 for p in module.parameters(recurse=False)):
                reason = "it multiplies with several weights in one kernel; write it with nn.Linear"
                refused.append(Refusal(path, kind.__name__, reason))
        elif not kind.__module__.startswith("torch."):
            calls = [n for n in escapes(module) if n.removeprefix("Tensor.") in _PRODUCTS]
            if calls:
                reason = (
                    f"its forward calls {', '.join(calls)}; write it with nn.Linear or a "
                    f"convolution, or name it as a weight layer: lra.register_weight_layer({kind.__name__}, ...)"
                )
                refused.append(Refusal(path, kind.__name__, reason))
    refuse(method, refused, "states stand where weight layers read")
    return found


class _States(Runs):
    """Runs with free states, and the energy of the last one: sum |x_l - z_l|^2 / 2.

    Attributes:
        states: x_l, in the order in which the first run meets them.
        energy: of the last run.
    """

    def __init__(self, method: PredictiveCoding, model: nn.Module, x: Tensor) -> None:
        super().__init__(method, model, x)
        self.states: list[Tensor] = []
        self.energy = torch.zeros((), device=x.device)
        self._calls: list[int | None] = []  # which state each call reads
        self._first = True
        self._seen: dict[tuple[int, int], tuple[Tensor, int]] = {}
        self._call = 0
        self.watch(readers(method, model), self._put)

    def __call__(self, *, last: bool = False) -> object:
        self._seen, self._call = {}, 0
        self.energy = torch.zeros_like(self.energy)
        if last:
            self.states = [state.detach() for state in self.states]
        output = super().__call__(last=last)
        self._first = False
        self._seen = {}
        return output

    def _put(self, module: nn.Module, z: Tensor) -> Tensor:
        """Give the state in place of its prediction z, and count how far they are apart."""
        if self._first:
            self._calls.append(self._meet(z))
        at, self._call = self._calls[self._call], self._call + 1
        if at is None:
            return z
        x = self.states[at]
        if _key(z) not in self._seen:
            self._seen[_key(z)] = z, at  # held, so that no other tensor gets its id
            self.energy = self.energy + (x - z.to(x.dtype)).square().sum() / 2
        return x.to(z.dtype)

    def _meet(self, z: Tensor) -> int | None:
        """Give the number of z's state, a new one if need be; none for what nothing trains."""
        if not z.requires_grad:
            return None
        if _key(z) in self._seen:
            return self._seen[_key(z)][1]
        self.states.append(exact(z).requires_grad_())
        return len(self.states) - 1

    def move(self, F: Tensor, step: float) -> None:
        """Let x <- x - step dF/dx."""
        grads = torch.autograd.grad(F, self.states)
        self.states = [
            (x.detach() - step * g).requires_grad_()
            for x, g in zip(self.states, grads, strict=True)
        ]


def _key(z: Tensor) -> tuple[int, int]:
    """Tell tensors apart, and what one holds before and after it is changed in place."""
    return id(z), z._version


def step(
    method: PredictiveCoding,
    model: nn.Module,
    loss: Loss,
    x: Tensor,
    loss_terms: LossTerms | str | float,
) -> Tensor:
    """Let the states settle, and leave the energy's gradient in `.grad`."""
    with _States(method, model, x) as run:
        output = run()
        N = terms_of(loss_terms, output)
        value = loss(output)
        answer = value.detach().clone()
        steps = method.steps if run.states else 1
        for t in range(steps):
            if run.states:
                run.move(value + run.energy / N, method.step * N)
            value = loss(run(last=t + 1 == steps))
        (value + run.energy / N).backward()  # type: ignore[no-untyped-call]
    return answer

"""torch's recurrent kernels, step by step, in products and activations of (batch, features)."""

import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from lra.loss_terms import LossTerms
from lra.torch.registry import F

State = tuple[Tensor, ...]
"""The hidden state h, (batch, features); an LSTM's cell state comes after it."""

Step = Callable[..., State]
"""Computes the next state from W x + b, the state, R, its bias, and the projection if any."""


class _Sequence(threading.local):
    """The terms of the sequences that a recurrent layer runs over; none outside of one."""

    terms: Mapping[Any, float] = {}


sequence = _Sequence()


def _lstm(x: Tensor, state: State, R: Tensor, c: Tensor | None, P: Tensor | None = None) -> State:
    h, cell = state
    i, f, g, o = (x + F.linear(h, R, c)).chunk(4, 1)
    cell = torch.sigmoid(f) * cell + torch.sigmoid(i) * torch.tanh(g)
    h = torch.sigmoid(o) * torch.tanh(cell)
    return h if P is None else F.linear(h, P), cell


def _gru(x: Tensor, state: State, R: Tensor, c: Tensor | None) -> State:
    (h,) = state
    (r, z, n), (s, y, m) = x.chunk(3, 1), F.linear(h, R, c).chunk(3, 1)
    update = torch.sigmoid(z + y)
    new = torch.tanh(n + torch.sigmoid(r + s) * m)
    return (new + update * (h - new),)


def _rnn(phi: Callable[[Tensor], Tensor]) -> Step:
    def step(x: Tensor, state: State, R: Tensor, c: Tensor | None) -> State:
        return (phi(x + F.linear(state[0], R, c)),)

    return step


def _scan(step: Step, inputs: Sequence[Tensor], state: State, *weights: Any) -> tuple[Any, State]:
    """Run a step over time. Of packed sequences, those that do not run keep their state."""
    outputs = []
    for x in inputs:
        rows = x.shape[0]
        every = rows == state[0].shape[0]
        moved = step(x, state if every else tuple(s[:rows] for s in state), *weights)
        outputs.append(moved[0])
        if not every:
            both = zip(moved, state, strict=True)
            moved = tuple(torch.cat((m, s[rows:])) for m, s in both)
        state = moved
    return outputs, state


def _run_layers(
    step: Step,
    x: Tensor,
    sizes: list[int] | None,
    states: State,
    weights: Any,
    has_biases: bool,
    layers: int,
    dropout: float,
    train: bool,
    bidirectional: bool,
) -> State:
    """Run every layer and direction, and return the output and the last states.

    x and the output are (time, batch, features), or (sum of sizes, features) with the number of
    packed sequences at each time in `sizes`. States are (layers * directions, batch, features).
    """
    directions = 2 if bidirectional else 1
    each = len(weights) // (layers * directions)
    last = []
    for layer in range(layers):
        outputs = []
        for at in range(layer * directions, (layer + 1) * directions):
            W, R, *rest = weights[at * each : (at + 1) * each]
            b, c, *projection = rest if has_biases else (None, None, *rest)
            gates = F.linear(x, W, b)
            inputs = gates.unbind(0) if sizes is None else gates.split(sizes)
            order = slice(None, None, -1 if at % directions else 1)
            run, state = _scan(step, inputs[order], tuple(s[at] for s in states), R, c, *projection)
            outputs.append((torch.stack if sizes is None else torch.cat)(run[order]))
            last.append(state)
        x = torch.cat(outputs, -1)
        if layer < layers - 1:
            x = F.dropout(x, dropout, train)
    return x, *(torch.stack(state) for state in zip(*last, strict=True))


def _kernel(step: Step) -> Any:
    """Return the kernel that runs a step over padded or packed sequences."""

    def run(x: Tensor, *args: Any) -> State:
        packed = isinstance(args[2], (list, tuple))  # as the kernel chooses between its two forms
        (sizes, hidden, *settings) = args if packed else (None, *args)
        batch_first = False if packed else settings.pop()
        states = (hidden,) if isinstance(hidden, Tensor) else tuple(hidden)
        x = x.transpose(0, 1) if batch_first else x
        outer, N = sequence.terms, x.shape[:-1].numel()
        sequence.terms = {LossTerms.BATCH: states[0].shape[1], LossTerms.TOKENS: N}
        try:
            rows = sizes.tolist() if packed else None
            output, *last = _run_layers(step, x, rows, states, *settings)
        finally:
            sequence.terms = outer
        return output.transpose(0, 1) if batch_first else output, *last

    return run


def _cell(step: Step) -> Any:
    """Return the kernel of a single step."""

    def run(x: Tensor, hidden: Any, W: Tensor, R: Tensor, b: Any = None, c: Any = None) -> Any:
        state = (hidden,) if isinstance(hidden, Tensor) else tuple(hidden)
        state = step(F.linear(x, W, b), state, R, c)
        return state[0] if isinstance(hidden, Tensor) else state

    return run


_V = torch._VF

_STEPS = {"lstm": _lstm, "gru": _gru, "rnn_tanh": _rnn(torch.tanh), "rnn_relu": _rnn(torch.relu)}

RECURRENT: dict[Any, Any] = {
    **{getattr(_V, name): _kernel(step) for name, step in _STEPS.items()},
    **{getattr(_V, f"{name}_cell"): _cell(step) for name, step in _STEPS.items()},
}
"""The kernels of recurrent layers and cells, and the same step by step."""

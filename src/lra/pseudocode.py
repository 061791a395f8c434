"""The paper's algorithm, LRA-E, in NumPy float64: one line of code per line of pseudo-code."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from lra.errors import OptionError

Array = npt.NDArray[np.float64]
Function = Callable[[Array], Array]
Optimizer = Callable[[list[Array], list[Array]], object]


def _sigmoid(h: Array) -> Array:
    return 0.5 + 0.5 * np.tanh(0.5 * h)  # 1 / (1 + exp(-h)) that cannot overflow


ACTIVATIONS: dict[str, tuple[Function, Function | None]] = {
    "tanh": (np.tanh, lambda h: 1.0 - np.tanh(h) ** 2),
    "sigmoid": (_sigmoid, lambda h: _sigmoid(h) * _sigmoid(-h)),
    "relu": (lambda h: np.maximum(h, 0.0), lambda h: np.where(h > 0.0, 1.0, 0.0)),
    "leaky_relu": (lambda h: np.maximum(h, 0.01 * h), lambda h: np.where(h > 0.0, 1.0, 0.01)),
    "softplus": (lambda h: np.logaddexp(h, 0.0), _sigmoid),
    "identity": (lambda h: h, np.ones_like),
    "sign": (np.sign, None),  # for LRA-E alone: its derivative is 0
}
"""The activations by name, each as phi and its derivative, or None where that is 0 everywhere."""


class Updates(NamedTuple):
    """Hold the updates of an `MLP`: a list over weight layers for each, None for no update.

    Attributes:
        W: the updates of the weights, each (out, in).
        b: those of the biases, each (out,).
        E: those of the feedback weights, each (out, in).
    """

    W: list[Array]
    b: list[Any]
    E: list[Any]


@dataclass
class SGD:
    """Descend by the updates, with momentum. Use one object per network.

        v <- momentum v + update
        parameter <- parameter - step v

    Args:
        step: the learning rate.
        momentum: the share of v that is kept, from 0 to 1.

    >>> optimizer, w = lra.pseudocode.SGD(step=0.1), np.array([1.0])
    >>> optimizer([w], [np.array([2.0])])
    >>> w
    array([0.8])
    """

    step: float = 0.01
    momentum: float = 0.0
    state: dict[int, Any] = field(default_factory=dict, repr=False)

    def __call__(self, parameters: list[Array], updates: list[Array]) -> None:
        """Update parameters in place. Pass the same list, or the start of it, at every step."""
        for i, (p, u) in enumerate(zip(parameters, updates, strict=True)):
            self.state[i] = v = self.momentum * self.state.get(i, 0.0) + u
            p -= self.step * v


@dataclass
class Adam:
    """Descend by Adam's steps. Use one object per network.

    Args:
        step: the learning rate.
        betas: the averaging factors of the updates and of their squares.
        eps: the number that is added to the denominator.

    Source: Kingma and Ba, Adam: a method for stochastic optimization, ICLR 2015.

    >>> optimizer, w = lra.pseudocode.Adam(step=0.1), np.array([1.0])
    >>> optimizer([w], [np.array([2.0])])
    >>> w.round(3)
    array([0.9])
    """

    step: float = 0.001
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    state: dict[int, Any] = field(default_factory=dict, repr=False)

    def __call__(self, parameters: list[Array], updates: list[Array]) -> None:
        """Update parameters in place. Pass the same list, or the start of it, at every step."""
        b1, b2 = self.betas
        for i, (p, u) in enumerate(zip(parameters, updates, strict=True)):
            m, v, k = self.state.get(i, (0.0, 0.0, 0))
            m, v, k = b1 * m + (1 - b1) * u, b2 * v + (1 - b2) * u**2, k + 1
            self.state[i] = m, v, k
            p -= self.step * (m / (1 - b1**k)) / (np.sqrt(v / (1 - b2**k)) + self.eps)


class MLP:
    """Build a fully connected network with LRA-E's updates and backprop's, side by side.

    Rows are samples and lists count from 0: the paper's W_l is W[l - 1], of shape (out, in).

    ===========================================  ====================================
    pseudo-code, layers l = 1 .. L               here
    ===========================================  ====================================
    z_0 = x; h_l = W_l z_(l-1)                   `compute_output`
    z_l = phi(h_l); z_L = softmax(h_L)           `compute_output`
    e_L = z_L - t                                `compute_lra_updates`: z[-1] - t
    d_l = E_(l+1) e_(l+1)                        d = e[i + 1] @ E[i + 1]
    y_l = phi(h_l - beta d_l)                    y = phi(h[i] - beta * d)
    e_l = z_l - y_l                              e[i] = gain * (z[i] - y), gain 1
    V1: dW_l = (e_l * phi'(h_l)) z_(l-1)^T       e * phi'(h) for e[:-1], then as V2
    V2: dW_l = e_l z_(l-1)^T                     `_updates`: e.T @ z / N
    dE_l = gamma dW_l (sign: the authors' code)  gamma * dW: E has W's own shape
    ===========================================  ====================================

    Args:
        layer_sizes: the numbers of units from input to output, two or more.
        activation: a name in ACTIVATIONS, or functions of an array (phi, phi' or None).
        output: "softmax" with cross-entropy, or "linear" with 1/2 ||h_L - t||^2.
        bias: whether layers add a bias, which starts at 0.
        weight_std: standard deviation of the normal distribution that W is drawn from.
        feedback_std: the same for E.
        seed: an integer or a `numpy.random.Generator`. All of W is drawn before all of E.

    Attributes:
        W: arrays (out, in). You may write to these three lists.
        b: arrays (out,), or None.
        E: arrays (out, in). E[0] is None, since the layer that reads the input sends no error down.

    Raises:
        OptionError: for an unknown name, sizes other than two or more positive integers, or a
            negative deviation.

    Source: Ororbia and Mali, Biologically motivated algorithms for propagating local target
    representations, AAAI 2019. The default beta, gamma and deviations and the sign of dE are those
    of the authors' published code (the deviations, its PyTorch script for MNIST).

    >>> net = lra.pseudocode.MLP((2, 8, 2), weight_std=0.5, seed=0)
    >>> x, t = np.array([[0.0, 1.0], [1.0, 0.0]]), np.array([0, 1])
    >>> before = net.loss(x, t)
    >>> updates = net.compute_lra_updates(x, t, lra.pseudocode.SGD(0.5))
    >>> net.loss(x, t) < before
    True
    >>> [dW.shape for dW in updates.W]
    [(8, 2), (2, 8)]
    """

    def __init__(
        self,
        layer_sizes: Sequence[int],
        *,
        activation: str | tuple[Function, Function | None] = "tanh",
        output: str = "softmax",
        bias: bool = True,
        weight_std: float = 0.1,
        feedback_std: float = 0.1,
        seed: int | np.random.Generator = 0,
    ) -> None:
        sizes = self.layer_sizes = tuple(layer_sizes)
        if len(sizes) < 2 or not all(isinstance(n, int | np.integer) and n > 0 for n in sizes):
            allowed = "two or more positive integers, the input's width first: (784, 256, 10)"
            raise OptionError(f"MLP: layer_sizes is {sizes}; pass {allowed}.")
        if output not in ("softmax", "linear"):
            raise OptionError(f"MLP: unknown output {output!r}; choose softmax or linear.")
        if isinstance(activation, str) and activation not in ACTIVATIONS:
            known = ", ".join(ACTIVATIONS)
            raise OptionError(f"MLP: unknown activation {activation!r}; choose one of {known}, "
                              "or pass a pair of functions (phi, phi').")  # fmt: skip
        for name, std in (("weight_std", weight_std), ("feedback_std", feedback_std)):
            _check_number(f"MLP: {name}", std, at_least=0.0)
        pair = ACTIVATIONS[activation] if isinstance(activation, str) else activation
        self.phi, self.phi_derivative = pair
        self.output = output
        rng = np.random.default_rng(seed)
        shapes = list(zip(sizes[1:], sizes[:-1], strict=True))
        self.W: list[Array] = [rng.normal(0.0, weight_std, shape) for shape in shapes]
        self.b: list[Any] = [np.zeros(out) if bias else None for out in sizes[1:]]
        self.E: list[Any] = [None] + [rng.normal(0.0, feedback_std, s) for s in shapes[1:]]

    def forward(self, x: npt.ArrayLike) -> Array:
        """Compute the last pre-activation h_L, or logits.

        Args:
            x: inputs (N, layer_sizes[0]).

        Returns:
            h_L, (N, outputs).
        """
        return self.compute_output(x)[0][-1]

    def compute_output(self, x: npt.ArrayLike) -> tuple[list[Array], list[Array]]:
        """Run the forward pass: h = z W^T + b and z = phi(h), but softmax(h) or h at the output.

        Args:
            x: inputs (N, layer_sizes[0]), at least one row.

        Returns:
            Pre-activations [h_1 .. h_L] and post-activations [z_0 = x, z_1 .. z_L], one more.

        Raises:
            OptionError: for x of another width, or without rows.
        """
        x = np.asarray(x, dtype=np.float64)
        if x.ndim != 2 or x.shape[1] != self.layer_sizes[0] or len(x) == 0:
            raise OptionError(f"MLP: x has shape {x.shape}, not (N >= 1, {self.layer_sizes[0]}); "
                              "pass one flat row per sample, and at least one.")  # fmt: skip
        h: list[Array] = []
        z = [x]
        for W, b in zip(self.W, self.b, strict=True):
            h.append(z[-1] @ W.T + (0.0 if b is None else b))
            z.append(self.phi(h[-1]))
        z[-1] = np.exp(_log_softmax(h[-1])) if self.output == "softmax" else h[-1]
        return h, z

    def loss(self, x: npt.ArrayLike, t: npt.ArrayLike) -> float:
        """Compute the mean of -sum(t log softmax(h_L)), or of 1/2 ||h_L - t||^2 if linear.

        Args:
            x: inputs (N, layer_sizes[0]).
            t: labels or targets, as in `compute_lra_updates`.

        Returns:
            The loss, in nats with softmax, as a mean over samples.
        """
        h = self.forward(x)
        t = self._targets(t, len(h))
        losses = -t * _log_softmax(h) if self.output == "softmax" else 0.5 * (h - t) ** 2
        return float(losses.sum() / len(h))

    def compute_lra_updates(
        self,
        x: npt.ArrayLike,
        t: npt.ArrayLike,
        optimizer: Optimizer | None = None,
        *,
        beta: float = 0.1,
        gamma: float = 1.0,
        gain: float = 1.0,
        use_derivative: bool = False,
        loss_terms: float | None = None,
    ) -> Updates:
        """Compute LRA-E's updates, and take one step if an optimizer is given.

            d = e E
            y = phi(h - beta d)
            e = gain (z - y)
            dW = e^T z_below / N,  db = sum e / N,  dE = gamma dW

        The first three go down the layers, from e_L = z_L - t.

        Args:
            x: inputs (N, layer_sizes[0]).
            t: integer labels (N,) or one-hot rows (N, classes); for "linear", rows (N, outputs).
            optimizer: a function of two lists, arrays and their updates, that changes the arrays in
                place: `SGD(0.01)`, `Adam()` or your own.
            beta: the step from a pre-activation to its target's, at least 0.
            gamma: the scale of dE.
            gain: the scale of hidden errors. With 1 / beta, E = W and beta -> 0, V2 is backprop.
            use_derivative: V1, where hidden layers use e * phi'(h) for dW and db; else V2, with e.
                Both send e itself down. Both use e_L, the derivative of the loss, unchanged.
            loss_terms: the divisor, instead of the number of samples N.

        Returns:
            The updates of W, b and E, in lists like theirs.

        Raises:
            OptionError: for data or numbers that do not fit, or V1 with an activation without phi'.
        """
        _check_number("compute_lra_updates: beta", beta, at_least=0.0)
        _check_number("compute_lra_updates: gamma", gamma)
        _check_number("compute_lra_updates: gain", gain)
        h, (x, *z) = self.compute_output(x)  # so z[i] = phi(h[i])
        N = len(x) if loss_terms is None else loss_terms
        _check_number("compute_lra_updates: loss_terms", N, at_least=1e-300)
        e = [z[-1] - self._targets(t, len(x))] * len(z)  # e_L; the loop sets the others
        for i in reversed(range(len(z) - 1)):
            d = e[i + 1] @ self.E[i + 1]
            y = self.phi(h[i] - beta * d)
            e[i] = gain * (z[i] - y)
        if use_derivative:
            e[:-1] = [e_i * self._derivative(h_i) for e_i, h_i in zip(e[:-1], h[:-1], strict=True)]
        dW, db = self._updates(e, [x, *z[:-1]], N)
        dE = [None, *(gamma * u for u in dW[1:])]
        return self._step(optimizer, Updates(dW, db, dE))

    def gradients(self, x: npt.ArrayLike, t: npt.ArrayLike) -> Updates:
        """Compute backprop's updates, the derivatives of `loss`; none for E.

            e = (e W) * phi'(h)

        Arguments, result and errors are those of `compute_lra_updates`.
        """
        h, (x, *z) = self.compute_output(x)
        e = [z[-1] - self._targets(t, len(x))] * len(z)
        for i in reversed(range(len(z) - 1)):
            e[i] = (e[i + 1] @ self.W[i + 1]) * self._derivative(h[i])
        return Updates(*self._updates(e, [x, *z[:-1]], len(x)), [None] * len(z))

    def backward(
        self, x: npt.ArrayLike, t: npt.ArrayLike, optimizer: Optimizer | None = None
    ) -> Updates:
        """Compute backprop's updates, and take one step if an optimizer is given. E stays.

        Arguments, result and errors are those of `compute_lra_updates`.
        """
        return self._step(optimizer, self.gradients(x, t))

    def _updates(self, e: list[Array], z: list[Array], N: float) -> tuple[list[Array], list[Any]]:
        dW = [e_i.T @ z_i / N for e_i, z_i in zip(e, z, strict=True)]
        db = [None if b is None else e_i.sum(0) / N for e_i, b in zip(e, self.b, strict=True)]
        return dW, db

    def _step(self, optimizer: Optimizer | None, updates: Updates) -> Updates:
        if optimizer is not None:
            pairs = zip(self.W + self.b + self.E, updates.W + updates.b + updates.E, strict=True)
            parameters, steps = zip(*((p, u) for p, u in pairs if u is not None), strict=True)
            optimizer(list(parameters), list(steps))
        return updates

    def _derivative(self, h: Array) -> Array:
        if self.phi_derivative is None:
            raise OptionError("MLP: this activation has no derivative phi', which backprop and V1 "
                              "need; use V2, or pass activation=(phi, phi').")  # fmt: skip
        return self.phi_derivative(h)

    def _targets(self, t: npt.ArrayLike, N: int) -> Array:
        t, K = np.asarray(t), self.layer_sizes[-1]
        softmax = self.output == "softmax"
        if softmax and t.shape == (N,) and t.dtype.kind in "iu":
            if t.min() < 0 or t.max() >= K:
                raise OptionError(f"MLP: labels t go from {t.min()} to {t.max()}, not in 0..{K - 1}"
                                  "; count classes from 0, or widen the last layer.")  # fmt: skip
            one_hot: Array = np.eye(K)[t]
            return one_hot
        if t.shape != (N, K):
            allowed = f"({N}, {K})" + f", or integer labels ({N},)" * softmax
            raise OptionError(f"MLP: t has shape {t.shape} and type {t.dtype}, not {allowed}; "
                              "pass one row of t per row of x.")  # fmt: skip
        if softmax and not (t.min() >= 0 and abs(t.sum(1) - 1).max() < 1e-5):
            raise OptionError("MLP: rows of t must be probabilities that sum to 1, as one-hot rows "
                              "do; pass integer labels, or use output='linear'.")  # fmt: skip
        return t.astype(np.float64)


def _check_number(name: str, value: float, at_least: float = -math.inf) -> None:
    if not (math.isfinite(value) and value >= at_least):
        raise OptionError(f"{name} is {value}; pass a finite number, at least {at_least}.")


def _log_softmax(h: Array) -> Array:
    h = h - h.max(axis=1, keepdims=True)  # so that exp cannot overflow
    log_sum: Array = np.log(np.exp(h).sum(axis=1, keepdims=True))
    return h - log_sum

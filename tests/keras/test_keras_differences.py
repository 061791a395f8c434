"""Oracle: mpmath, to 50 digits. Differences of activations, and updates of a deep network."""

import functools

import keras
import mpmath as mp
import numpy as np
import pytest
from keras import activations, layers, ops
from keras_nets import numpy

from lra.keras.closed_forms import FUNCTIONS, phi_of

mp.mp.dps = 50
partial = functools.partial


# ------------------------------------------------------------------ the functions, by their papers


def sigmoid(x):
    return 1 / (1 + mp.exp(-x))


def softplus(x):
    return mp.log1p(mp.exp(x)) if x < 0 else x + mp.log1p(mp.exp(-x))


def normal(x):
    return mp.erfc(-x / mp.sqrt(2)) / 2


def clip(x, low, high):
    return min(max(x, mp.mpf(low)), mp.mpf(high))


def leaky(slope):
    return lambda x: x if x > 0 else slope * x


def elu(alpha, scale=1.0):
    return lambda x: scale * (x if x > 0 else alpha * mp.expm1(x))


def relu(slope=0.0, most=mp.inf, threshold=0.0):
    """Keras's: linear between the threshold and the most, and a line of the slope below."""

    def f(x):
        return min(x, most) if x > threshold else slope * (x - threshold)

    return f


def sparse_plus(x):
    if x <= -1:
        return mp.mpf(0)
    return (x + 1) ** 2 / 4 if x < 1 else x


def gelu_tanh(x):
    return x / 2 * (1 + mp.tanh(mp.sqrt(2 / mp.pi) * (x + mp.mpf("0.044715") * x**3)))


def shrink(lambd):
    return lambda x: mp.sign(x) * max(abs(x) - lambd, 0)


def hard_shrink(lambd):
    return lambda x: x if abs(x) > lambd else mp.mpf(0)


F = [  # name, Keras's activation, the function that it computes, where it steps
    ("celu", activations.celu, elu(1)),
    ("celu alpha", partial(activations.celu, alpha=0.5), lambda x: x if x > 0 else mp.expm1(2 * x) / 2),
    ("elu", activations.elu, elu(1)),
    ("elu alpha", partial(activations.elu, alpha=0.7), elu(0.7)),
    ("exponential", activations.exponential, mp.exp),
    ("gelu", activations.gelu, lambda x: x * normal(x)),
    ("gelu approximate", partial(activations.gelu, approximate=True), gelu_tanh),
    ("ops.gelu", ops.gelu, gelu_tanh),
    ("hard_shrink", activations.hard_shrink, hard_shrink(0.5)),
    ("hard_shrink threshold", partial(activations.hard_shrink, threshold=1.5), hard_shrink(1.5)),
    ("hard_sigmoid", activations.hard_sigmoid, lambda x: clip(x / 6 + 0.5, 0, 1)),
    ("hard_silu", activations.hard_silu, lambda x: x * clip(x / 6 + 0.5, 0, 1)),
    ("hard_tanh", activations.hard_tanh, lambda x: clip(x, -1, 1)),
    ("leaky_relu", activations.leaky_relu, leaky(0.2)),
    ("leaky_relu slope", partial(activations.leaky_relu, negative_slope=0.4), leaky(0.4)),
    ("log_sigmoid", activations.log_sigmoid, lambda x: -softplus(-x)),
    ("mish", activations.mish, lambda x: x * mp.tanh(softplus(x))),
    ("relu", activations.relu, relu()),
    ("relu slope", partial(activations.relu, negative_slope=0.3), relu(0.3)),
    ("relu most", partial(activations.relu, max_value=2.0), relu(0, 2)),
    ("relu slope most", partial(activations.relu, negative_slope=0.3, max_value=2), relu(0.3, 2)),
    ("relu threshold", partial(activations.relu, threshold=0.5), relu(0, mp.inf, 0.5)),
    (
        "relu all",
        partial(activations.relu, threshold=0.5, negative_slope=0.25, max_value=2.0),
        relu(0.25, 2, 0.5),
    ),
    ("relu6", activations.relu6, relu(0, 6)),
    ("selu", activations.selu, elu(1.6732632423543772, 1.0507009873554805)),
    ("sigmoid", activations.sigmoid, sigmoid),
    ("silu", activations.silu, lambda x: x * sigmoid(x)),
    ("soft_shrink", activations.soft_shrink, shrink(0.5)),
    ("soft_shrink threshold", partial(activations.soft_shrink, threshold=1.5), shrink(1.5)),
    ("softplus", activations.softplus, softplus),
    ("softsign", activations.softsign, lambda x: x / (1 + abs(x))),
    ("sparse_plus", activations.sparse_plus, sparse_plus),
    ("sparse_sigmoid", activations.sparse_sigmoid, lambda x: clip((x + 1) / 2, 0, 1)),
    ("squareplus", activations.squareplus, lambda x: (x + mp.sqrt(x**2 + 4)) / 2),
    ("squareplus b", partial(activations.squareplus, b=0.5), lambda x: (x + mp.sqrt(x**2 + 0.5)) / 2),
    ("tanh", activations.tanh, mp.tanh),
    ("tanh_shrink", activations.tanh_shrink, lambda x: x - mp.tanh(x)),
    (
        "threshold",
        partial(activations.threshold, threshold=0.5, default_value=-1.0),
        lambda x: x if x > 0.5 else mp.mpf(-1),
    ),
    ("ReLU", layers.ReLU(2.0, 0.25, 0.5), relu(0.25, 2, 0.5)),
    ("LeakyReLU", layers.LeakyReLU(), leaky(0.3)),
    ("ELU", layers.ELU(alpha=0.5), elu(0.5)),
    ("Activation", layers.Activation("leaky_relu"), leaky(0.2)),
    ("ops.sqrt",ops.sqrt,mp.sqrt),
    ("ops.log",ops.log,mp.log),
    ("ops.square",ops.square,lambda x:x*x),
    ("ops.sin",ops.sin,mp.sin),
    ("ops.cos",ops.cos,mp.cos),
    ("ops.tan",ops.tan,mp.tan),
    ("ops.arctan",ops.arctan,mp.atan),
    ("ops.arcsinh",ops.arcsinh,mp.asinh),
    ("ops.sinh",ops.sinh,mp.sinh),
    ("ops.cosh",ops.cosh,mp.cosh),
    ("ops.erf",ops.erf,mp.erf),
    ("ops.exp2",ops.exp2,lambda x:mp.mpf(2)**x),
    ("ops.expm1",ops.expm1,mp.expm1),
    ("ops.reciprocal",ops.reciprocal,lambda x:1/x),
    ("ops.rsqrt",ops.rsqrt,lambda x:1/mp.sqrt(x)),
    ("ops.log1p",ops.log1p,mp.log1p),
    ("ops.log2",ops.log2,lambda x:mp.log(x)/mp.log(2)),
    ("ops.log10",ops.log10,mp.log10),
    ("ops.absolute",ops.absolute,abs),
    ("ops.arcsin",ops.arcsin,mp.asin),
    ("ops.arccos",ops.arccos,mp.acos),
    ("ops.arccosh",ops.arccosh,mp.acosh),
    ("ops.arctanh",ops.arctanh,mp.atanh),
]

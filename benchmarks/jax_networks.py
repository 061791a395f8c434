"""Networks in plain JAX for the benchmarks: an MLP, a LeNet and a transformer."""

import itertools
import math
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax, nn, random

Array = jax.Array
Params = Any


def dense(key: Array, fan_in: int, fan_out: int, gain: float = 1.0) -> dict[str, Array]:
    """Draw the weights of a dense layer with variance gain^2 / fan-in, and zero biases."""
    w = gain * random.normal(key, (fan_in, fan_out)) / math.sqrt(fan_in)
    return {"w": w, "b": jnp.zeros(fan_out)}


def affine(p: dict[str, Array], x: Array) -> Array:
    """Apply a dense layer."""
    return x @ p["w"] + p["b"]


def mlp(key: Array, width: int = 128, depth: int = 16, inputs: int = 784) -> Params:
    """Draw an MLP of `depth` hidden layers and ten classes."""
    sizes = (inputs, *(width,) * depth, 10)
    keys = random.split(key, depth + 1)
    return [dense(k, n, m) for k, (n, m) in zip(keys, itertools.pairwise(sizes), strict=True)]


def apply_mlp(params: Params, x: Array) -> Array:
    """Compute the logits of the MLP, with tanh."""
    z = x.reshape(len(x), -1)
    for layer in params[:-1]:
        z = jnp.tanh(affine(layer, z))
    return affine(params[-1], z)


def cnn(key: Array) -> Params:
    """Draw a LeNet: 6 and 16 filters of 5 x 5, then 120, 84 and 10 units."""
    keys = random.split(key, 5)

    def filters(key: Array, *shape: int) -> Array:
        return random.normal(key, shape) * math.sqrt(2 / math.prod(shape[:3]))

    return {
        "filters": [filters(keys[0], 5, 5, 1, 6), filters(keys[1], 5, 5, 6, 16)],
        "dense": [
            dense(keys[2], 256, 120, math.sqrt(2)),
            dense(keys[3], 120, 84, math.sqrt(2)),
            dense(keys[4], 84, 10),
        ],
    }


def apply_cnn(params: Params, x: Array) -> Array:
    """Compute the logits of the LeNet, with ReLU and means over 2 x 2 pixels."""
    z = x[..., None]
    for w in params["filters"]:
        z = lax.conv_general_dilated(
            z, w, (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        z = nn.relu(z)
        n, height, width, channels = z.shape
        z = z.reshape(n, height // 2, 2, width // 2, 2, channels).mean((2, 4))
    z = z.reshape(len(z), -1)
    for layer in params["dense"][:-1]:
        z = nn.relu(affine(layer, z))
    return affine(params["dense"][-1], z)


def transformer(key: Array, width: int = 64, depth: int = 2) -> Params:
    """Draw a transformer whose tokens are the 28 rows of an image."""
    embed, place, last, *blocks = random.split(key, 3 + depth)

    def block(key: Array) -> Params:
        keys = random.split(key, 4)
        return {
            "scales": jnp.ones((2, width)),
            "qkv": dense(keys[0], width, 3 * width),
            "out": dense(keys[1], width, width),
            "up": dense(keys[2], width, 2 * width),
            "down": dense(keys[3], 2 * width, width),
        }

    return {
        "embed": dense(embed, 28, width),
        "places": 0.1 * random.normal(place, (28, width)),
        "blocks": [block(key) for key in blocks],
        "scale": jnp.ones(width),
        "last": dense(last, width, 10),
    }


def normalize(scale: Array, z: Array) -> Array:
    """Apply a layer norm without offset."""
    return scale * nn.standardize(z, axis=-1)


def apply_block(block: Params, z: Array, heads: int = 4) -> Array:
    """Apply a block of attention and of two dense layers with GELU."""
    n, tokens, width = z.shape
    qkv = affine(block["qkv"], normalize(block["scales"][0], z))
    q, k, v = jnp.moveaxis(qkv.reshape(n, tokens, 3, heads, width // heads), 2, 0)
    weights = nn.softmax(jnp.einsum("nqhd,nkhd->nhqk", q, k) / math.sqrt(width // heads))
    z += affine(block["out"], jnp.einsum("nhqk,nkhd->nqhd", weights, v).reshape(z.shape))
    return z + affine(block["down"], nn.gelu(affine(block["up"], normalize(block["scales"][1], z))))


def stack_blocks(params: Params) -> Params:
    """Stack the weights of all blocks, for a scan over them."""
    return params | {"blocks": jax.tree.map(lambda *leaves: jnp.stack(leaves), *params["blocks"])}


def apply_transformer(params: Params, x: Array) -> Array:
    """Compute the logits of the transformer, from the mean over its tokens."""
    z = affine(params["embed"], x) + params["places"]
    if isinstance(params["blocks"], list):
        for block in params["blocks"]:
            z = apply_block(block, z)
    else:
        z, _ = lax.scan(lambda z, block: (apply_block(block, z), None), z, params["blocks"])
    return affine(params["last"], normalize(params["scale"], z).mean(1))

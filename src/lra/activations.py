"""Activations that backprop cannot train, or hardly: steps, samples, contests, devices."""

from lra.torch.activations import (
    LWTA,
    Activation,
    Bernoulli,
    BlackBox,
    Heaviside,
    Quantized,
    Sign,
)

__all__ = ["LWTA", "Activation", "Bernoulli", "BlackBox", "Heaviside", "Quantized", "Sign"]

"""The experiments of the authors' TensorFlow scripts: network, rule and optimizer for Keras."""

import math
from dataclasses import dataclass
from typing import Any

import keras

from lra.inits import Normal
from lra.keras.convert import convert
from lra.rules import LRAE, Rule


@dataclass(frozen=True)
class Recipe:
    """Describe a network of dense layers with its rule and optimizer.

    Args:
        rule: the learning rule.
        step: the learning rate.
        fresh: whether the optimizer forgets its state after every step. The published scripts
            build a new AdamW for each batch.
        hidden: the number of units of each hidden layer.
        activation: the name of their activation.
        bias: whether the layers add a bias.
        batch_size: samples per step.
        epochs: passes over the training images.

    >>> from lra.keras import recipes
    >>> recipes.MNIST.model().output_shape
    (None, 10)
    """

    rule: Rule
    step: float = 1e-3
    fresh: bool = False
    hidden: tuple[int, ...] = (256, 256, 256, 256)
    activation: str = "tanh"
    bias: bool = False
    batch_size: int = 50
    epochs: int = 100

    def network(self, inputs: int = 784, classes: int = 10) -> Any:
        """Build the plain network, which returns logits, with Keras's initial weights.

        Args:
            inputs: the size of a sample.
            classes: the number of classes.
        """
        layers = [keras.layers.Dense(n, self.activation, self.bias) for n in self.hidden]
        last = keras.layers.Dense(classes, use_bias=self.bias)
        return keras.Sequential([keras.Input((inputs,)), *layers, last])

    def optimizer(self) -> Any:
        """Build AdamW; with `fresh`, one without memory.

        With beta_1 = beta_2 = 0 every step is an AdamW's first step. Keras adds epsilon before the
        bias correction, so in a first step epsilon counts 1 / sqrt(1 - 0.999) times as much.
        """
        if not self.fresh:
            return keras.optimizers.AdamW(self.step)
        epsilon = 1e-7 / math.sqrt(1 - 0.999)
        return keras.optimizers.AdamW(self.step, beta_1=0.0, beta_2=0.0, epsilon=epsilon)

    def model(self, rule: Rule | None = None, inputs: int = 784, classes: int = 10) -> Any:
        """Build the network, converted and compiled for integer labels.

        Args:
            rule: a rule to use instead of the recipe's.
            inputs: the size of a sample.
            classes: the number of classes.
        """
        model = convert(self.network(inputs, classes), self.rule if rule is None else rule)
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(self.optimizer(), loss, metrics=["accuracy"])
        return model


MNIST = Recipe(LRAE(beta=0.1, gamma=1.0, init=Normal(1.0)))
"""784-256-256-256-256-10 with E from N(0, 1), beta 0.1."""

FASHION_MNIST = Recipe(LRAE(beta=0.05, gamma=1.0, init=Normal(1.0)), step=2e-4)
"""The same for Fashion-MNIST, with beta 0.05 and a step of 0.0002."""

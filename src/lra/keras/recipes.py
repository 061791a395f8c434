"""The set-ups of the authors' TensorFlow scripts: network, rule and optimizer for Keras."""

import math
from dataclasses import dataclass
from typing import Any

import keras

from lra.inits import Normal
from lra.keras.convert import convert
from lra.rules import LRAE, Rule


@dataclass(frozen=True)
class Recipe:
    """A network of dense layers, how it learns, and by which steps.

    Args:
        rule: how errors travel.
        step: the optimizer's step.
        fresh: whether the optimizer forgets, after every step, all that it gathered, as in the
            published scripts, which build a new AdamW for each batch.
        hidden: the units of each hidden layer.
        activation: the name of their activation.
        bias: whether the layers add a bias.
        batch_size: samples a step.
        epochs: passes over the training images.
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
        """Build the plain network, logits out, with Keras's own initial weights."""
        layers = [keras.layers.Dense(n, self.activation, self.bias) for n in self.hidden]
        last = keras.layers.Dense(classes, use_bias=self.bias)
        return keras.Sequential([keras.Input((inputs,)), *layers, last])

    def optimizer(self) -> Any:
        """Give AdamW; with `fresh`, one without memory.

        The first step of an AdamW is that of averages over the last gradient alone: beta_1 =
        beta_2 = 0 takes it at every step. Keras adds epsilon to an average that is not yet
        corrected, so that in a first step it weighs 1 / sqrt(1 - 0.999) times as much.
        """
        if not self.fresh:
            return keras.optimizers.AdamW(self.step)
        epsilon = 1e-7 / math.sqrt(1 - 0.999)
        return keras.optimizers.AdamW(self.step, beta_1=0.0, beta_2=0.0, epsilon=epsilon)

    def model(self, rule: Rule | None = None, inputs: int = 784, classes: int = 10) -> Any:
        """Build the network, converted and compiled for integer labels.

        Args:
            rule: another rule in the place of the recipe's.
            inputs: numbers a sample.
            classes: how many classes there are.
        """
        model = convert(self.network(inputs, classes), self.rule if rule is None else rule)
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(self.optimizer(), loss, metrics=["accuracy"])
        return model


MNIST = Recipe(LRAE(beta=0.1, gamma=1.0, init=Normal(1.0)))
"""784-256-256-256-256-10 with E from N(0, 1), beta 0.1."""

FASHION_MNIST = Recipe(LRAE(beta=0.05, gamma=1.0, init=Normal(1.0)), step=2e-4)
"""The same for Fashion-MNIST, with beta 0.05 and a step of 0.0002."""

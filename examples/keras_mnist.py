"""Train MNIST in Keras by LRA-E, by LRA-E with the published E, and by backprop.

KERAS_BACKEND=jax python examples/keras_mnist.py [--epochs 2] [--seed 0]
"""

import argparse

import keras

import lra
from lra.keras import recipes
from lra.lab import data

parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
parser.add_argument("--epochs", type=int, default=2)
parser.add_argument("--seed", type=int, default=0, help="seed of the weights and the sample order")
options = parser.parse_args()
mnist = data.load("mnist")
x, x_test = (images.reshape(len(images), -1) for images in (mnist.x_train, mnist.x_test))

recipe = recipes.MNIST
rules = {"LRA-E": lra.LRAE(), "LRA-E with E ~ N(0, 1)": recipe.rule, "backprop": lra.Backprop()}
for name, rule in rules.items():
    keras.utils.set_random_seed(options.seed)
    model = recipe.model(rule)
    model.fit(x, mnist.y_train, batch_size=recipe.batch_size, epochs=options.epochs, verbose=2)
    _, accuracy = model.evaluate(x_test, mnist.y_test, batch_size=1000, verbose=0)
    where = f"{keras.backend.backend()}, {options.epochs} epochs"
    print(f"{name} on {where}: test accuracy {accuracy:.4f}")

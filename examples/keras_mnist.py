"""LRA-E on MNIST in Keras: with E drawn as W is, as published, and beside backprop.

Run it with the backend that you have: KERAS_BACKEND=jax python keras_mnist.py
"""

import sys

import keras

import lra
from lra.keras import recipes
from lra.lab import data

epochs = int(sys.argv[1]) if len(sys.argv) > 1 else 2
mnist = data.load("mnist")
x, x_test = (images.reshape(len(images), -1) for images in (mnist.x_train, mnist.x_test))

recipe = recipes.MNIST
rules = {"LRA-E": lra.LRAE(), "LRA-E with E ~ N(0, 1)": recipe.rule, "backprop": lra.Backprop()}
for name, rule in rules.items():
    keras.utils.set_random_seed(0)
    model = recipe.model(rule)
    model.fit(x, mnist.y_train, batch_size=recipe.batch_size, epochs=epochs, verbose=2)
    _, accuracy = model.evaluate(x_test, mnist.y_test, batch_size=1000, verbose=0)
    print(f"{name} on {keras.backend.backend()}, {epochs} epochs: test accuracy {accuracy:.4f}")

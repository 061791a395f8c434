"""Train by the paper's algorithm in plain NumPy, without a framework or autograd.

    python examples/by_the_book.py

Trains `lra.pseudocode.MLP` on the bundled digits, once by LRA-E and once by backprop. The method
names are those of the authors' repository.
"""

import numpy as np

from lra.lab import data
from lra.pseudocode import MLP, Adam

digits = data.load("digits")
x, t = digits.x_train.reshape(len(digits.x_train), -1).astype(float), digits.y_train
x_test, t_test = digits.x_test.reshape(len(digits.x_test), -1).astype(float), digits.y_test

for rule in ("LRA-E", "backprop"):
    network = MLP([64, 128, 128, 10], seed=0)
    optimizer = Adam(step=0.001)
    shuffle = np.random.default_rng(0)
    for _ in range(20):
        for batch in np.array_split(shuffle.permutation(len(x)), len(x) // 50):
            if rule == "LRA-E":
                network.compute_lra_updates(x[batch], t[batch], optimizer, beta=0.1, gamma=1.0)
            else:
                network.backward(x[batch], t[batch], optimizer)
    pre, post = network.compute_output(x_test)
    accuracy = (post[-1].argmax(1) == t_test).mean()
    print(f"{rule:<9} test accuracy {100 * accuracy:.1f}%, loss {network.loss(x_test, t_test):.3f}")

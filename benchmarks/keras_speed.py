"""Time an epoch of LRA-E and of backprop in Keras on the same network and batches.

KERAS_BACKEND=jax python benchmarks/keras_speed.py [rounds]
The network is that of the authors' TensorFlow script. A round is an epoch of each rule in turn; an
epoch that compiles comes first. Two more rules show where the time of LRA-E goes: feedback
alignment does not learn feedback, and Kolen-Pollack learns it but sets no targets. The backend
chooses the number of threads; OMP_NUM_THREADS and TF_NUM_INTRAOP_THREADS limit it.
"""

import os
import statistics
import sys
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np

import lra
from lra.keras import recipes

SAMPLES = 60_000


def main(rounds: int) -> None:
    keras.utils.set_random_seed(0)
    rng = np.random.default_rng(0)
    x = rng.random((SAMPLES, 784), dtype="float32")
    y = rng.integers(0, 10, SAMPLES)
    recipe = recipes.MNIST
    plain = recipe.network()
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    plain.compile(recipe.optimizer(), loss, metrics=["accuracy"])
    models = {
        "backprop": plain,
        "feedback alignment": recipe.model(lra.FeedbackAlignment()),
        "Kolen-Pollack": recipe.model(lra.KolenPollack()),
        "LRA-E": recipe.model(),
    }
    seconds: dict[str, list[float]] = {name: [] for name in models}
    for turn in range(rounds + 1):
        for name, model in models.items():
            start = time.perf_counter()
            model.fit(x, y, batch_size=recipe.batch_size, verbose=0)
            if turn:
                seconds[name].append(time.perf_counter() - start)

    cpus, load = os.cpu_count(), os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    print(f"Keras {keras.__version__} on {keras.backend.backend()}, {cpus} CPUs, load {load:.1f}")
    print(f"{'':20s}{'s per epoch (range)':>24s}{'ratio (range)':>24s}")
    for name, taken in seconds.items():
        ratios = [a / b for a, b in zip(taken, seconds["backprop"], strict=True)]
        cells = (
            f"{statistics.median(values):.2f} ({min(values):.2f} to {max(values):.2f})"
            for values in (taken, ratios)
        )
        print(f"{name:20s}" + "".join(f"{cell:>24s}" for cell in cells))


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 7)

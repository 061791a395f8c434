"""Seconds an epoch of LRA-E and of backprop, on the same network, batches and machine, in one run.

KERAS_BACKEND=jax python benchmarks/keras_speed.py [rounds [threads]]
The two take turns, an epoch each, after a warm-up epoch that compiles. Two ratios are told: that of
the best epochs by the clock, which a busy machine slows, and that of the processor's own seconds.
"""

import json
import os
import statistics
import sys
import time

rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 5
threads = sys.argv[2] if len(sys.argv) > 2 else "1"
for name in ("OMP_NUM_THREADS", "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS"):
    os.environ.setdefault(name, threads)
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras  # noqa: E402
import numpy as np  # noqa: E402

import lra  # noqa: E402
from lra.keras import recipes  # noqa: E402

SAMPLES = 60_000
LIMITS = {"tensorflow": 1.15, "jax": 1.15, "torch": 1.5}


def main() -> None:
    keras.utils.set_random_seed(0)
    rng = np.random.default_rng(0)
    x = rng.random((SAMPLES, 784), dtype="float32")
    y = rng.integers(0, 10, SAMPLES)
    recipe = recipes.MNIST
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    plain = recipe.network()
    plain.compile(recipe.optimizer(), loss, metrics=["accuracy"])
    models = {"backprop": plain, "lra-e": recipe.model()}
    seconds: dict[str, list[float]] = {name: [] for name in models}
    cpu: dict[str, list[float]] = {name: [] for name in models}
    for turn in range(rounds + 1):
        for name, model in models.items():
            start, start_cpu = time.perf_counter(), time.process_time()
            model.fit(x, y, batch_size=recipe.batch_size, verbose=0)
            if turn:
                seconds[name].append(time.perf_counter() - start)
                cpu[name].append(time.process_time() - start_cpu)
    best, work = ({name: min(v) for name, v in found.items()} for found in (seconds, cpu))
    medians = {name: statistics.median(v) for name, v in seconds.items()}
    backend = keras.backend.backend()
    print(
        json.dumps(
            {
                "backend": backend,
                "keras": keras.__version__,
                "threads": threads,
                "cpus": os.cpu_count(),
                "load": round(os.getloadavg()[0], 1),
                "seconds_an_epoch": {k: [round(s, 2) for s in v] for k, v in seconds.items()},
                "median": {name: round(value, 2) for name, value in medians.items()},
                "best": {name: round(value, 2) for name, value in best.items()},
                "processor": {name: round(value, 2) for name, value in work.items()},
                "ratio_best": round(best["lra-e"] / best["backprop"], 3),
                "ratio_processor": round(work["lra-e"] / work["backprop"], 3),
                "limit": LIMITS[backend],
            }
        )
    )


if __name__ == "__main__":
    assert lra.__version__
    main()

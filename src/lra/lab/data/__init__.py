"""Datasets as NumPy arrays."""

from lra.lab.data.arrays import from_arrays
from lra.lab.data.dataset import Dataset, split
from lra.lab.data.datasets import ENTRIES, NAMES, Entry, catalogue, fetch, load
from lra.lab.data.pictures import sample_figure

__all__ = [
    "ENTRIES",
    "NAMES",
    "Dataset",
    "Entry",
    "catalogue",
    "fetch",
    "from_arrays",
    "load",
    "sample_figure",
    "split",
]

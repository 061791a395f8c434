"""Datasets as NumPy arrays."""

from lra.lab.data.dataset import Dataset, split
from lra.lab.data.datasets import NAMES, Entry, catalogue, fetch, load
from lra.lab.data.pictures import sample_figure

__all__ = ["NAMES", "Dataset", "Entry", "catalogue", "fetch", "load", "sample_figure", "split"]

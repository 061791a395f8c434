"""The zoo: models of other libraries, by name, on which the reach of `lra.convert` is measured.

Each module of `LISTS` defines one list of entries; `measure` builds an entry and computes its
gradients. Run `python -m zoo` in `benchmarks/` to check that every entry runs under plain backprop,
without conversion.
"""

import importlib

from zoo import torchvision_stand_in
from zoo.measure import Entry

LISTS = {
    "timm": "timm_models",
    "hf": "huggingface",
    "pyg": "graphs",
    "torch": "torch_layers",
    "vision": "vision",
    "sequences": "sequences",
    "dynamics": "dynamics",
}
"""The lists by their names on the command line, with the modules that define them."""


def entries(which: str) -> list[Entry]:
    """Return the entries of a list; only the libraries of that list are imported."""
    torchvision_stand_in.declare_operators()
    result: list[Entry] = importlib.import_module(f"zoo.{LISTS[which]}").ENTRIES
    names = [entry.name for entry in result]
    if len(set(names)) < len(names):
        raise ValueError(f"{which}: duplicate names in {names}")
    return result


def entry(which: str, name: str) -> Entry:
    """Return an entry of a list by its name."""
    return {each.name: each for each in entries(which)}[name]

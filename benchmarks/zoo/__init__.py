"""The zoo: models of other people's, by name, on which the reach of `lra.convert` is measured.

`timm_models`, `huggingface`, `graphs` and `torch_layers` each hold one list that stands in the
script; `measure` builds an entry and takes its gradients. `python -m zoo` in `benchmarks/` checks
that every entry runs under plain backprop, with no rule anywhere.
"""

import importlib

from zoo.measure import Entry

LISTS = {
    "timm": "timm_models",
    "hf": "huggingface",
    "pyg": "graphs",
    "torch": "torch_layers",
}
"""Each list's name on the command line, and the module that holds it."""


def entries(which: str) -> list[Entry]:
    """Give a list's entries; only that list's libraries are imported."""
    found: list[Entry] = importlib.import_module(f"zoo.{LISTS[which]}").ENTRIES
    names = [entry.name for entry in found]
    if len(set(names)) < len(names):
        raise ValueError(f"{which}: names given twice in {names}")
    return found


def entry(which: str, name: str) -> Entry:
    """Give one entry of a list by its name."""
    return {found.name: found for found in entries(which)}[name]

"""Install empty torchvision modules, so that timm can be imported without a working torchvision.

timm's models do not use torchvision, but importing timm refers to its transforms, its datasets and
one frozen norm layer. Each torchvision wheel works with only one build of torch. In the stand-in,
every class is empty.
"""

import importlib.machinery
import sys
import types

import torch

MODULES = (
    "torchvision",
    "torchvision.datasets",
    "torchvision.ops",
    "torchvision.ops.misc",
    "torchvision.transforms",
    "torchvision.transforms.functional",
)


SCHEMA = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"


class _Empty(types.ModuleType):
    """A module in which every public name is an empty class."""

    def __getattr__(self, name: str) -> type:
        if name.startswith("__"):
            raise AttributeError(name)
        cls = type(name, (), {})
        setattr(self, name, cls)
        return cls


class InterpolationMode:
    """The names that importing timm's transforms looks up."""

    NEAREST = "nearest"
    NEAREST_EXACT = "nearest-exact"
    BILINEAR = "bilinear"
    BICUBIC = "bicubic"
    BOX = "box"
    HAMMING = "hamming"
    LANCZOS = "lanczos"


def declare_operators() -> None:
    """Declare the operators without which torchvision cannot be imported.

    A torchvision wheel for another build of torch cannot load its compiled operators. Its models
    are written in Python and run without them.
    """
    import importlib.util

    if "torchvision" in sys.modules or importlib.util.find_spec("torchvision") is None:
        return
    for name in ("nms", "qnms"):
        if not hasattr(torch.ops.torchvision, name):
            torch.library.define(f"torchvision::{name}", SCHEMA)


def install() -> None:
    """Install the stand-in, unless torchvision is already imported."""
    if "torchvision" in sys.modules:
        return
    for name in MODULES:
        module = _Empty(name)
        module.__path__ = []
        module.__spec__ = importlib.machinery.ModuleSpec(name, None, is_package=True)
        sys.modules[name] = module
        parent, _, child = name.rpartition(".")
        if parent:
            setattr(sys.modules[parent], child, module)
    sys.modules["torchvision.transforms.functional"].InterpolationMode = InterpolationMode

"""Let timm be imported where torchvision is not, or is one that does not load.

timm's models need nothing of torchvision; the packages around them name its classes as they are
imported: transforms, datasets, and one frozen norm layer. torchvision's wheels fit one build of
torch each, so this puts empty modules by its name, in which every class is an empty one.
"""

import importlib.machinery
import sys
import types

MODULES = (
    "torchvision",
    "torchvision.datasets",
    "torchvision.ops",
    "torchvision.ops.misc",
    "torchvision.transforms",
    "torchvision.transforms.functional",
)


class _Empty(types.ModuleType):
    """A module in which every public name is a class with nothing in it."""

    def __getattr__(self, name: str) -> type:
        if name.startswith("__"):
            raise AttributeError(name)
        made = type(name, (), {})
        setattr(self, name, made)
        return made


class InterpolationMode:
    """The names that timm's transforms look up while they are imported."""

    NEAREST = "nearest"
    NEAREST_EXACT = "nearest-exact"
    BILINEAR = "bilinear"
    BICUBIC = "bicubic"
    BOX = "box"
    HAMMING = "hamming"
    LANCZOS = "lanczos"


def install() -> None:
    """Put the stand-in in place, unless something is imported as torchvision already."""
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

"""Calls of a forward pass: what was called, by which line, and the nodes that it added."""

import enum
import sys
from dataclasses import dataclass, field
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import torch
from torch.autograd.graph import Node

from lra.torch.audit.judge import Nature

_LIBRARIES = f"{Path(torch.__file__).parent}/", f"{Path(__file__).parents[1]}/"


class Origin(enum.Enum):
    """What code added nodes to the graph."""

    #: A function of torch.
    TORCH = enum.auto()
    #: A custom operator (`torch.library`).
    OPERATOR = enum.auto()
    #: An autograd Function of the user or of a library.
    FUNCTION = enum.auto()
    #: Code that function modes do not see: TorchScript, or a C++ extension.
    HIDDEN = enum.auto()


@dataclass(eq=False)
class Call:
    """One call of a torch function, with the nodes that it added to the graph.

    Attributes:
        function: the function's name.
        torch_function: the function, or an autograd Function; None for hidden code.
        operation: its qualified name.
        module: the qualified name of the module whose forward called it.
        where: file and line of the user's code, as "net.py:12"; "" where only torch calls it.
        level: the level of the result.
        frozen: the names of weights in it that require no gradient, and so have no node.
        nodes: the nodes.
        origin: what code added them.
        nature: what the call does to its data, tested where the names of its nodes do not show it.
        inside: the weights that an autograd Function multiplies with in its forward, each with the
            module whose code does.
        scaled_by: the names of weights that it multiplies with elementwise, in more than a scale.
        selects_by: the nodes of the activations that it compares to select by, if any.
        unseen: whether the function mode saw only the nodes.
        joins_data: whether the result of a product of weights alone is added to data, or the like:
            it is then the output of a layer that reads learned inputs.
        outside: whether no forward or named method runs it.
        mapped: whether `torch.vmap` maps over its weights.
    """

    function: str
    torch_function: Any
    operation: str
    module: str
    where: str
    level: int = 2
    frozen: tuple[str, ...] = ()
    nodes: list[Node] = field(default_factory=list)
    origin: Origin = Origin.TORCH
    nature: Nature = Nature.OTHER
    inside: tuple[tuple[str, str], ...] = ()
    scaled_by: tuple[str, ...] = ()
    selects_by: frozenset[Node] = frozenset()
    unseen: bool = False
    joins_data: bool = False
    outside: bool = False
    mapped: bool = False


def caller(outermost: CodeType) -> FrameType | None:
    """Return the nearest caller's frame outside torch and lra.torch, if there is one.

    Args:
        outermost: the code object at which the search stops.
    """
    frame = sys._getframe(1)
    while frame.f_code is not outermost and frame.f_back is not None:
        if not frame.f_code.co_filename.startswith(_LIBRARIES):
            return frame
        frame = frame.f_back
    return None


def line_of(frame: FrameType | None) -> str:
    """Return "file:line" of a frame, or ""."""
    return "" if frame is None else f"{frame.f_code.co_filename}:{frame.f_lineno}"


def scripts_in(frame: FrameType | None) -> str:
    """Return the names of the TorchScript functions that a frame's code names."""
    if frame is None:
        return ""
    known = frame.f_globals | frame.f_locals
    names = (*frame.f_code.co_names, *frame.f_code.co_freevars)
    kinds = (torch.jit.ScriptFunction, torch.jit.ScriptModule)
    return ", ".join(name for name in dict.fromkeys(names) if isinstance(known.get(name), kinds))

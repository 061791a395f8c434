"""Matrix products of compiled steps by oneDNN, where torch's own take twice as long: MKL's on AMD.

MKL does not use the widest vectors of other makers' processors, and oneDNN does. Both come with
torch, which multiplies dense matrices in single precision by MKL.
"""

import functools
import platform
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.fx import Graph, Node

LEAST = 2**20
"""How many numbers a product multiplies, at least, that is worth oneDNN's setting up."""

_aten = torch.ops.aten
_library = torch.library.Library("lra", "DEF")  # type: ignore[no-untyped-call]
_library.define("mm(Tensor a, Tensor b, Tensor? bias) -> Tensor")  # type: ignore[no-untyped-call]


@torch.library.impl(_library, "mm", "CPU")
def _multiply(a: Tensor, b: Tensor, bias: Tensor | None) -> Tensor:
    product: Tensor = torch.ops.mkldnn._linear_pointwise(a, b.t(), bias, "none", [], "")
    return product


@torch.library.register_fake("lra::mm", lib=_library)  # type: ignore[untyped-decorator]
def _shape(a: Tensor, b: Tensor, bias: Tensor | None) -> Tensor:
    return a.new_empty(a.shape[0], b.shape[1])


def available() -> bool:
    """Tell whether oneDNN is there and enabled, on a processor on which it multiplies faster."""
    return bool(torch.backends.mkldnn.enabled) and _faster()


@functools.cache
def _faster() -> bool:
    return (
        torch.backends.cpu.get_cpu_capability() == "AVX512"
        and torch.backends.mkl.is_available()  # type: ignore[no-untyped-call]
        and torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
        and hasattr(torch.ops.mkldnn, "_linear_pointwise")
        and "AuthenticAMD" in _processor()
    )


def _processor() -> str:
    try:
        return Path("/proc/cpuinfo").read_text("utf-8", "replace")
    except OSError:  # not Linux
        return platform.processor()


def replace_products(graph: Graph) -> None:
    """Have a graph's large products in single precision on a CPU made by oneDNN."""
    for node in graph.nodes:
        found = _product(node)
        if found is None:
            continue
        with graph.inserting_before(node):
            new = graph.call_function(torch.ops.lra.mm.default, found)
        new.meta.update(node.meta)
        node.replace_all_uses_with(new)
        graph.erase_node(node)


def _product(node: Node) -> tuple[Node, Node, Node | None] | None:
    """Give the factors of a product, and what is added to each row; or None."""
    if node.op != "call_function" or node.kwargs:
        return None
    bias: Any = None
    if node.target is _aten.mm.default:
        a, b = node.args
    elif node.target is _aten.addmm.default:
        bias, a, b = node.args
    else:
        return None
    values = [factor.meta["val"] for factor in (a, b, bias) if factor is not None]  # type: ignore[union-attr]
    if any(v.dtype != torch.float32 or v.device.type != "cpu" for v in values):
        return None
    (m, k), n = values[0].shape, values[1].shape[1]
    fits = all(isinstance(size, int) for size in (m, k, n)) and m * k * n >= LEAST
    adds = bias is None or values[2].shape == (n,)  # to each row; not one number to all
    return (a, b, bias) if fits and adds else None  # type: ignore[return-value]

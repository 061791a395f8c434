"""Matrix products by oneDNN, where torch's own take twice as long: MKL's on AMD.

MKL does not use the widest vectors of other makers' processors, and oneDNN does. Both come with
torch, which multiplies dense matrices in single precision by MKL. Products on the way back are made
so, and in compiled steps all: what a plain network gives forward stays the same to the bit.
"""

import functools
import platform
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.fx import Graph, Node
from torch.nn import Parameter

from lra.torch.places import transforming

LEAST = 2**20
"""How many numbers a product of a compiled step multiplies, at least, to be made by oneDNN."""

EAGER = 3 * 2**20
"""The same of an eager step, for each thread."""

COLUMNS = 128
"""How many columns b has, at least for each thread, where a is transposed: one thread copies it."""

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


def multiply(a: Tensor, b: Tensor) -> Tensor:
    """Give a b of two matrices on the way back, by oneDNN where that is faster."""
    large = not torch.compiler.is_compiling() and a.numel() * b.shape[1] >= EAGER
    return _multiply(a, b, None) if large and _better(a, b) else a @ b


def _better(a: Tensor, b: Tensor) -> bool:
    """Tell whether oneDNN may make a large product, and is faster."""
    if not (
        available()
        and _plain(a)
        and _plain(b)
        and not transforming()
        and not torch._C._len_torch_dispatch_stack()  # who counts or traces knows torch's products
    ):
        return False
    (m, k), n, threads = a.shape, b.shape[1], torch.get_num_threads()
    large = m * k * n >= EAGER * threads and min(m, k, n) >= 4
    return large and (a.is_contiguous() or n >= COLUMNS * threads)


def _plain(a: Tensor) -> bool:
    return type(a) in (Tensor, Parameter) and a.dtype is torch.float32 and a.is_cpu


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

"""The pass over compiled steps' graphs that has a CPU do in other ways what torch does slowly."""

from typing import Any

from torch._inductor.custom_graph_pass import CustomGraphPass, get_hash_for_files
from torch.fx import Graph

from lra.torch import products, rational


class Faster(CustomGraphPass):
    """Puts other operations in the place of torch's; what it does depends on the processor."""

    def __init__(self) -> None:
        self._by_onednn = products.available()

    def __call__(self, graph: Graph) -> None:
        """Go over a graph."""
        rational.replace_tanh(graph)
        if self._by_onednn:
            products.replace_products(graph)

    def uuid(self) -> Any:
        """Say what compiled graphs depend on."""
        files = (rational.__file__, products.__file__)
        return self._by_onednn, get_hash_for_files(files)

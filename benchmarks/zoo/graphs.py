"""PyTorch Geometric: eight common layers, each in a network of two layers with a ReLU between."""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from zoo.measure import Entry, Example

NODES = 12
INPUTS, HIDDEN, OUTPUTS = 8, 16, 4

CONVOLUTIONS: dict[str, Callable[[int, int], tuple[str, tuple, dict]]] = {
    "GCNConv": lambda i, o: ("GCNConv", (i, o), {}),
    "SAGEConv": lambda i, o: ("SAGEConv", (i, o), {}),
    "GATConv": lambda i, o: ("GATConv", (i, o // 2), {"heads": 2}),
    "GATv2Conv": lambda i, o: ("GATv2Conv", (i, o // 2), {"heads": 2}),
    "GINConv": lambda i, o: ("GINConv", (mlp(i, o),), {"train_eps": True}),
    "TransformerConv": lambda i, o: ("TransformerConv", (i, o // 2), {"heads": 2, "beta": True}),
    "ChebConv": lambda i, o: ("ChebConv", (i, o), {"K": 3}),
    "GraphConv": lambda i, o: ("GraphConv", (i, o), {}),
}
"""For each layer, its class name and arguments for given input and output widths."""


def mlp(inputs: int, outputs: int) -> nn.Sequential:
    """Return the network that GIN applies to the sum of a node's neighbours."""
    return nn.Sequential(nn.Linear(inputs, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, outputs))


class Graph(nn.Module):
    """Two layers on one graph with a ReLU between."""

    def __init__(self, layer: str) -> None:
        super().__init__()
        self.below = convolution(layer, INPUTS, HIDDEN)
        self.above = convolution(layer, HIDDEN, OUTPUTS)

    def forward(self, x: Tensor, edges: Tensor) -> Tensor:
        return self.above(torch.relu(self.below(x, edges)), edges)


def convolution(layer: str, inputs: int, outputs: int) -> nn.Module:
    """Build one layer."""
    import torch_geometric.nn

    name, positional, named = CONVOLUTIONS[layer](inputs, outputs)
    return getattr(torch_geometric.nn, name)(*positional, **named)


def make(layer: str) -> tuple[nn.Module, Example]:
    """Build a network, and a ring of nodes with additional random edges, in both directions."""
    around = torch.arange(NODES)
    start = torch.cat([around, torch.randint(NODES, (NODES,))])
    end = torch.cat([(around + 1) % NODES, torch.randint(NODES, (NODES,))])
    no_loop = start != end
    start, end = start[no_loop], end[no_loop]
    edges = torch.stack([torch.cat([start, end]), torch.cat([end, start])])
    return Graph(layer), (torch.randn(NODES, INPUTS), edges)


ENTRIES = [Entry(layer, partial(make, layer)) for layer in CONVOLUTIONS]

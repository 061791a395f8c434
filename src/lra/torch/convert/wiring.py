"""Wire a converted model: find the order of its layers in one pass, and link them."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from lra.errors import ConversionError
from lra.feedback import Stored
from lra.rules import Rule
from lra.torch.audit import run_example
from lra.torch.audit.recorder import tensors_in
from lra.torch.layers.sampler import draw_between
from lra.torch.layers.slots import Conversion
from lra.torch.model_state import clone_tensors, preserve_state
from lra.torch.ops.autograd import apply_weights
from lra.torch.ops.ops import BilinearOp, WeightOp
from lra.torch.ops.routing import ErrorRouter, Layout, Link

_MOST = 2**30
"""The largest number of feedback weights between two layers."""


@dataclass
class _Site:
    """A layer in its first call of the example.

    Attributes:
        z: its input.
        units_last: whether its units are in the last dimension.
        h: its result.
        below: the layers whose results its input is made of.
        level: the number of layers before it on the longest path, and itself.
        above: all layers that its result goes into, itself among them.
    """

    z: Tensor
    units_last: bool
    h: Tensor | None = None
    below: set[str] = field(default_factory=set)
    level: int = 0
    above: set[str] = field(default_factory=set)


class OrderRecorder(ErrorRouter):
    """Replaces the router in the example's pass, and records which layer runs after which."""

    def __init__(self, rule: Rule) -> None:
        super().__init__(rule.feedback)
        self.sites: dict[str, _Site] = {}
        self.nodes: dict[Any, str] = {}

    def detach_input(
        self, site: str, link: Link | None, z: Tensor, E: Tensor | None, units_last: bool
    ) -> Tensor:
        """Record a layer's input."""
        if z.requires_grad and site not in self.sites:
            self.sites[site] = _Site(z, units_last, below=self.results([z]) - {site})
        return z

    def run(self, site: str, op: WeightOp | BilinearOp, z: Tensor, *tensors: Any) -> Tensor:
        """Record a layer's result, by the node of the graph that computed it."""
        h = apply_weights(op, z, *tensors)
        if site in self.sites and self.sites[site].h is None:
            self.sites[site].h = h
        self.nodes[h.grad_fn] = site
        return h

    def results(self, tensors: Iterable[Tensor]) -> set[str]:
        """Return the layers whose results tensors are made of, without another layer between."""
        found: set[str] = set()
        queue: list[Any] = [t.grad_fn for t in tensors if t.grad_fn is not None]
        seen = set(queue)
        while queue:
            node = queue.pop()
            if node in self.nodes:
                found.add(self.nodes[node])
                continue
            for below, _ in node.next_functions:
                if below is not None and below not in seen:
                    seen.add(below)
                    queue.append(below)
        return found


def wire(model: nn.Module, rule: Rule, shared: Conversion, example: Any) -> None:
    """Link the layers of a converted model as the rule's wiring says.

    Args:
        model: the model.
        rule: the rule.
        shared: what the converted modules share.
        example: args and kwargs of the model, or a function that runs it.

    Raises:
        ConversionError: where errors start at several layers, or where there can be no feedback
            weights between two layers.
    """
    recorder = OrderRecorder(rule)
    shared.router = recorder
    try:
        with preserve_state(model), torch.inference_mode(False):  # which enables gradients too
            example = example if callable(example) else clone_tensors(example)
            outputs = tensors_in(run_example(model, example))
        sites = _levels(recorder, outputs)
        router = ErrorRouter(rule.feedback)
        for link in _links(sites, rule.wiring.reach):
            _route(model, rule, link, sites[link.site], sites[link.source])
        shared.router = router
    except BaseException:
        shared.router = None
        raise
    model.register_forward_pre_hook(router.begin)
    model.register_forward_hook(router.end)


def _levels(recorder: OrderRecorder, outputs: list[Tensor]) -> dict[str, _Site]:
    """Return the layers that the outputs depend on, with the layers above each."""
    sites: dict[str, _Site] = {}
    for name, site in recorder.sites.items():  # in the order of the pass
        site.below &= sites.keys()
        site.level = 1 + max((sites[below].level for below in site.below), default=0)
        if site.h is not None:
            sites[name] = site
    reached = recorder.results(outputs)
    for name in reversed(sites):
        site = sites[name]
        site.above |= {name}
        if any(other in reached for other in site.above):
            reached.add(name)
            for below in site.below:
                sites[below].above |= site.above
    return {name: site for name, site in sites.items() if name in reached}


def _links(sites: dict[str, _Site], reach: int | None) -> list[Link]:
    """Decide where each layer's error comes from; those that use their own stay in the chain."""
    heads = [name for name, site in sites.items() if site.above == {name}]
    if len(heads) > 1:
        raise ConversionError(
            f"convert: errors start at several layers here ({', '.join(map(repr, heads))}), and a "
            "wiring other than lra.wiring.Chain() needs one output layer above all others; exclude "
            "the others with skip="
        )
    found = []
    for name, site in sites.items():
        top = float("inf") if reach is None else site.level + reach - 1
        able = [other for other in sites if other in site.above and sites[other].level <= top]
        source = max(able, key=lambda other: sites[other].level)
        if source != name:
            found.append(_link(name, site, source, sites[source]))
    return found


def _link(name: str, site: _Site, source: str, above: _Site) -> Link:
    z, h = site.z, above.h
    assert h is not None
    layout = _layout(name, site, source, above)
    z = layout.batched(z, len(h))
    both_last = site.units_last and above.units_last
    tokens = both_last and z.dim() > 2 and z.shape[:-1] == h.shape[:-1]
    link = Link(name, source, layout, tokens, site.z.dim(), h.dim())
    outputs, units = _shape(link, site, above)
    if outputs * units > _MOST:
        raise ConversionError(
            f"convert: {name!r} reads {units:,} units and would receive its error from the "
            f"{outputs:,} units of {source!r}, through {outputs * units:,} feedback weights, more "
            f"than {_MOST:,}. Use lra.wiring.Direct(), whose output layer is small, or "
            "lra.wiring.Chain()"
        )
    return link


def _layout(name: str, site: _Site, source: str, above: _Site) -> Layout:
    """Find where the batch is in an input, from what one sample's result depends on."""
    z, h = site.z, above.h
    assert h is not None
    able = Layout if site.units_last else (Layout.FIRST,)  # convolutions have the batch first
    fitting = [layout for layout in able if layout.fits(z.shape, len(h))]
    if len(fitting) > 1 and not z.is_meta:
        moved = torch.autograd.grad(h[0].sum(), z, retain_graph=True)[0]
        alone = [one for one in fitting if not bool(one.batched(moved, len(h))[1:].any())]
        mixed = Layout.FIRST in fitting and not alone  # a batch norm mixes samples
        if mixed or moved.any():
            fitting = [Layout.FIRST] if mixed or Layout.FIRST in alone else alone
    if len(fitting) != 1:
        raise ConversionError(
            f"convert: {name!r} reads {tuple(z.shape)} and would receive its error from "
            f"{source!r}, which returns {tuple(h.shape)}. The example does not show which part of "
            "the input belongs to which sample, or no error arrives there; try an example= with "
            "other numbers of samples (two at least) and positions, or lra.wiring.Chain(), or "
            "exclude the layer with skip="
        )
    return fitting[0]


def _shape(link: Link, site: _Site, source: _Site) -> tuple[int, int]:
    """Return the shape of a link's feedback weights."""
    assert source.h is not None
    below = link.below(site.z, len(source.h))
    return link.above(source.h).shape[1], below.shape[1]


def _route(model: nn.Module, rule: Rule, link: Link, site: _Site, source: _Site) -> None:
    """Store the feedback weights of a link in a layer's slot, instead of its own."""
    path, _, key = link.site.partition(":")
    layer: Any = model.get_submodule(path)
    slot = layer._lra.slots[key or "weight"]
    slot.route = link
    W, before = slot.weight(layer), slot.stored(layer)
    E = draw_between(rule.feedback, _shape(link, site, source), before if W is None else W)
    if rule.feedback.stored is Stored.LEARNED:
        E = nn.Parameter(E, requires_grad=before.requires_grad)
    slot.replace(layer, slot.name.rpartition(".")[2], E)
    slot.mirrored = None

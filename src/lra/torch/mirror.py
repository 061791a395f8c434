"""Mirror feedback weights: estimate W from a layer's answer to noise, at any time."""

import warnings
from typing import Any, TypeVar

import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

from lra.errors import ConversionError, LraWarning
from lra.feedback import Learned, Offset, Random
from lra.inits import Mirror, check_mirror
from lra.torch.convert import is_converted
from lra.torch.distributed import is_sharded
from lra.torch.layers.sampler import FeedbackSampler
from lra.torch.layers.slots import FeedbackSlot, feedback_slots

M = TypeVar("M", bound=nn.Module)


@torch.no_grad()
def mirror(
    model: M,
    samples: int = 10_000,
    *,
    step: float = 1.0,
    decay: float | None = None,
    generator: torch.Generator | None = None,
) -> M:
    """Move the feedback weights of a converted model towards its weights, by noise alone.

        E <- (1 - decay) E + step f*(x; f(x, W)) / f*(1; 1),  x ~ N(0, 1)

    This happens in every layer that stores feedback weights. f is the layer, and f* its adjoint in
    W. Use it after loading or changing weights, or every few steps where E drifts
    away from W. The first backward pass after it gives a warning if weights have changed since.
    For a model in DistributedDataParallel, E becomes the mean over all processes.

    Args:
        model: a converted model.
        samples: the number of noise samples per layer.
        step: the weight of the estimate, above 0 and at most 1.
        decay: the share of the present E that is removed, from 0 to 1; by default `step`, so that
            E moves towards W. With 0, the estimates of all calls add up.
        generator: the source of the noise, by default that of the weights' device.

    Returns:
        The same model.

    Raises:
        ConversionError: for a model that is not converted, that is sharded, or that stores no
            feedback weights that could mirror W; and for weights that are derived in each forward
            (weight norm), which only `convert(..., example=)` sees.
        OptionError: for a number out of range.

    Warns:
        LraWarning: where several processes run and could end with different E: the model is not the
            one in DistributedDataParallel, and no generator is given.

    Source: Akrout et al., Deep learning without weight transport, NeurIPS 2019.

    >>> net = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3))
    >>> net = lra.mirror(lra.convert(net, lra.LRAE()))
    >>> F.cosine_similarity(net[2].feedback.flatten(), net[2].weight.flatten(), dim=0) > 0.99
    tensor(True)
    """
    init = Mirror(samples)
    step, decay = check_mirror(step, decay)
    if not is_converted(model):
        raise ConversionError(
            f"mirror: no layer of this {type(model).__name__} is converted; "
            "call lra.convert(model, rule) first"
        )
    if any(is_sharded(module) for module in model.modules()):
        raise ConversionError("mirror: the model is sharded; mirror it first, then shard")
    if any(slot.route is not None for _, _, slot in feedback_slots(model)):
        raise ConversionError(
            "mirror: errors skip layers in this model, so there is no weight between two layers to "
            "mirror; use a rule with wiring=lra.wiring.Chain()"
        )
    pairs: list[tuple[Any, FeedbackSlot, FeedbackSampler]] = []
    derived: list[str] = []
    for path, module, slot in feedback_slots(model):
        if not (slot.own and isinstance(slot.feedback, (Learned, Random, Offset))):
            continue
        W = slot.weight(module)
        if W is None:
            derived.append(f"{path}.{slot.parameter}".strip("."))
            continue
        sampler = FeedbackSampler(W, run=module.product_of(module), generator=generator)
        pairs.append((module, slot, sampler))
    if derived:
        raise ConversionError(
            f"mirror: {', '.join(derived)}: the layers multiply with tensors that each forward "
            "derives from these, which only an example shows; call lra.restore(model), and "
            "lra.convert(model, rule, example=...) with init=lra.inits.Mirror()"
        )
    if not pairs:
        raise ConversionError(
            f"mirror: this {type(model).__name__} stores no feedback weights that could mirror W; "
            "use a rule with lra.feedback.Learned or lra.feedback.Random"
        )
    for module, slot, sampler in pairs:
        E, stored = init.draw(sampler), slot.stored(module)
        stored.mul_(1 - decay).add_(E - sampler.W if slot.offset else E, alpha=step)
        if slot.offset and step != decay:  # what is stored is E - W
            stored.add_(sampler.W, alpha=step - decay)
    _average(model, [slot.stored(module) for module, slot, _ in pairs], generator is not None)
    for module, slot, sampler in pairs:
        slot.note_mirror(sampler.W, slot.stored(module), always=True)
        module._lra.conversion.untrained = True
        module._lra.conversion.stale.clear()
    return model


def _average(model: nn.Module, feedback: list[Tensor], seeded: bool) -> None:
    """Average feedback weights over the processes of a data-parallel model."""
    wrapped = next((m for m in model.modules() if isinstance(m, DistributedDataParallel)), None)
    if wrapped is not None:
        group = wrapped.process_group
        for E in feedback:
            distributed.all_reduce(E, group=group)
            E /= distributed.get_world_size(group)
    elif not seeded and _several_processes():
        warnings.warn(
            "mirror: several processes run, and the feedback weights of each now hold other noise. "
            "If they train one model, pass lra.mirror the model in DistributedDataParallel, or "
            "pass every process a generator with the same seed",
            LraWarning,
            stacklevel=3,
        )


def _several_processes() -> bool:
    ready = distributed.is_available() and distributed.is_initialized()
    return ready and distributed.get_world_size() > 1

"""Mirror: set feedback weights by what layers answer to noise, whenever that is wanted."""

import warnings
from typing import TypeVar

import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

from lra.errors import ConversionError, LraWarning, OptionError
from lra.feedback import Learned, Offset, Random
from lra.inits import Mirror
from lra.torch.convert import is_converted
from lra.torch.distributed import is_sharded
from lra.torch.functions.module import InterceptedModule
from lra.torch.layers import Local, LocalWeights
from lra.torch.layers.state import FeedbackSampler

M = TypeVar("M", bound=nn.Module)


@torch.no_grad()
def mirror(
    model: M,
    samples: int = 10_000,
    *,
    step: float = 1.0,
    generator: torch.Generator | None = None,
) -> M:
    """Move the feedback weights of a converted model to its weights, as noise tells them.

    E <- E + step (f*(x; f(x, W)) / f*(1; 1) - E) with noise x ~ N(0, 1), in every layer that keeps
    feedback weights. Call it after loading weights, or every some steps where E drifts from W.
    Given a model in DistributedDataParallel, all processes take the mean of what their noise tells.

    Args:
        model: a converted model.
        samples: how many times each layer fires.
        step: how far E moves, above 0 and up to 1.
        generator: of the noise; by default that of the weights' device.

    Returns:
        The same model.

    Raises:
        ConversionError: for a model that is not converted, that is sharded, that keeps no feedback
            weights which could mirror W, or whose weights are computed in each forward (weight
            norm), which only `convert(..., example=)` sees.
        OptionError: for a number that is out of range.

    Warns:
        LraWarning: where processes train together, and this one cannot tell that they will have the
            same E: the model is not the one in DistributedDataParallel, and no generator is given.

    Source: Akrout et al., Deep learning without weight transport, NeurIPS 2019.
    """
    init = Mirror(samples)
    if isinstance(step, bool) or not isinstance(step, (int, float)) or not 0 < step <= 1:
        raise OptionError(f"mirror: step must be above 0 and at most 1, got {step!r}")
    if not is_converted(model):
        raise ConversionError(
            f"mirror: no layer of this {type(model).__name__} is converted; "
            "call lra.convert(model, rule) first"
        )
    if any(is_sharded(module) for module in model.modules()):
        raise ConversionError("mirror: the model is sharded; mirror it first, then shard")
    if any(isinstance(m, Local) and m._lra.conversion.router is not None for m in model.modules()):
        raise ConversionError(
            "mirror: errors skip layers in this model, and the feedback weights between two layers "
            "have no weights to mirror; rules with wiring=lra.wiring.Chain() do"
        )
    pairs: list[tuple[Tensor, FeedbackSampler, bool]] = []
    computed: list[str] = []
    for path, module in model.named_modules():
        if not isinstance(module, (LocalWeights, InterceptedModule)):
            continue
        feedback = module._lra.feedback
        if not isinstance(feedback, (Learned, Random, Offset)):
            continue
        offset = isinstance(feedback, Offset)
        if isinstance(module, LocalWeights):
            kept = getattr(module, module.kept_as)
            if kept is not None:
                run = module.product_of(module)
                draw = FeedbackSampler(module.weight, run=run, generator=generator)
                pairs.append((kept, draw, offset))
            continue
        for key, name in module.table.feedback.items():
            if name not in module.table.added:
                continue
            W = module.weight_of(key)
            if W is None:
                computed.append(f"{path}.{key.partition(':')[0]}".strip("."))
            else:
                draw = FeedbackSampler(W, generator=generator)
                pairs.append((getattr(module, name), draw, offset))
    if computed:
        raise ConversionError(
            f"mirror: {', '.join(computed)}: the layers multiply with what each forward computes "
            "from these, which only an example shows: lra.restore(model), and lra.convert(model, "
            "rule, example=...) anew with init=lra.inits.Mirror()"
        )
    if not pairs:
        raise ConversionError(
            f"mirror: this {type(model).__name__} keeps no feedback weights that could mirror W; "
            "rules with lra.feedback.Learned or lra.feedback.Random feedback do"
        )
    for kept, draw, offset in pairs:
        E = init.draw(draw)
        kept.lerp_(E - draw.W if offset else E, float(step))
    _share(model, [kept for kept, _, _ in pairs], generator is not None)
    return model


def _share(model: nn.Module, feedback: list[Tensor], seeded: bool) -> None:
    """Give all processes of a data-parallel model the mean of their feedback weights."""
    wrapped = next((m for m in model.modules() if isinstance(m, DistributedDataParallel)), None)
    if wrapped is not None:
        group = wrapped.process_group
        for E in feedback:
            distributed.all_reduce(E, group=group)
            E /= distributed.get_world_size(group)
    elif not seeded and _many_processes():
        warnings.warn(
            "mirror: several processes run, and each one's feedback weights now hold noise of its "
            "own; where they train one model, give lra.mirror the model in "
            "DistributedDataParallel, or every process a generator with the same seed",
            LraWarning,
            stacklevel=3,
        )


def _many_processes() -> bool:
    together = distributed.is_available() and distributed.is_initialized()
    return together and distributed.get_world_size() > 1

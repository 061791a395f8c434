"""The number of CPU threads of a run, which determines its last bits."""

import contextlib
import copy
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from lra.lab.settings.config import TrainConfig

ENOUGH_WORK = 200e6
"""Operations per weight matrix in a batch's forward pass, from which several threads pay."""


@contextlib.contextmanager
def preserve_threads() -> Iterator[None]:
    """Restore torch's number of threads at the end. Also a decorator."""
    before = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(before)


def work_per_matrix(network: nn.Module, samples: Tensor, batch_size: int) -> float:
    """Return the mean number of operations per weight matrix in the forward pass of a batch.

    Args:
        network: the network, which is not changed.
        samples: a few samples.
        batch_size: the number of samples in a batch.
    """
    trial = copy.deepcopy(network).eval()
    matrices = sum(p.ndim > 1 for p in trial.parameters())
    # With gradients, since torch replaces some modules by uncounted operations without them.
    with (
        torch.random.fork_rng(devices=[]),
        torch.enable_grad(),
        FlopCounterMode(display=False) as f,
    ):
        trial(samples)
    return float(f.get_total_flops()) / len(samples) * batch_size / max(1, matrices)


def choose_threads(
    config: TrainConfig,
    network: nn.Module,
    samples: Tensor,
    device: torch.device,
    available: int,
) -> int:
    """Return the number of threads for a run: one for small networks, else those available.

    Args:
        config: the run's configuration.
        network: its network.
        samples: a few samples.
        device: the device that it trains on.
        available: torch's number of threads.
    """
    available = max(1, available // config.devices)
    if device.type != "cpu" or available == 1:
        return available
    if samples.is_floating_point():
        samples = samples.to(next(network.parameters()).dtype)
    batch_size = -(-config.batch_size // config.devices)
    small = work_per_matrix(network, samples, batch_size) < ENOUGH_WORK
    return 1 if small else available

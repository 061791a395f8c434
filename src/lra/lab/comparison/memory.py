"""The peak memory of a run."""

import contextlib
import sys
from collections.abc import Callable, Iterator

import torch


@contextlib.contextmanager
def peak_memory(device: str) -> Iterator[Callable[[], int | None]]:
    """Yield a function that returns the peak memory so far, in bytes.

    On CUDA it counts tensors; elsewhere it is the peak resident size of the process. Each run has
    its own process, so that size includes Python, torch and the data, which are the same for all
    rules. It is None where the system does not tell it, as on Windows.

    Args:
        device: the device, as in `lra train`.
    """
    cuda = device in ("auto", "cuda") and torch.cuda.is_available()
    if cuda:
        torch.cuda.reset_peak_memory_stats()

    def peak() -> int | None:
        return torch.cuda.max_memory_allocated() if cuda else _resident()

    yield peak


def _resident() -> int | None:
    try:
        import resource
    except ImportError:
        return None
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit

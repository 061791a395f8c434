"""The most memory that a run held."""

import contextlib
import sys
from collections.abc import Callable, Iterator

import torch


@contextlib.contextmanager
def peak_memory(device: str) -> Iterator[Callable[[], int | None]]:
    """Give what tells the peak so far: of CUDA's tensors, or of the process as the system has it.

    A run has a process of its own, so the system's peak is the run's, with Python, torch and the
    data, which are the same for all rules. None where the system does not tell.

    Args:
        device: as in `lra train`.
    """
    cuda = device in ("auto", "cuda") and torch.cuda.is_available()
    if cuda:
        torch.cuda.reset_peak_memory_stats()

    def peak() -> int | None:
        return torch.cuda.max_memory_allocated() if cuda else _resident()

    yield peak


def _resident() -> int | None:
    if sys.platform == "win32":
        return None
    import resource

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit

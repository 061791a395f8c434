"""Which machine this is, and with which versions."""

import functools
import os
import platform
from importlib import metadata
from pathlib import Path

import torch

PACKAGES = ("lra-e", "torch", "numpy", "optuna")
"""The packages whose versions a report tells."""


@functools.cache
def machine() -> str:
    """Name the processor, the accelerator if there is one, and the system."""
    parts = [f"{_processor()}, {cores()} cores"]
    if torch.cuda.is_available():
        parts.append(torch.cuda.get_device_name())
    return "; ".join((*parts, platform.platform()))


def cores() -> int:
    """Count the cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def versions() -> dict[str, str]:
    """Give the versions of Python and of the packages that count."""
    found = {"Python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


def _processor() -> str:
    known = Path("/proc/cpuinfo")
    if known.exists():
        for line in known.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()

"""The machine and the package versions, for reports."""

import contextlib
import functools
import os
import platform
from importlib import metadata
from pathlib import Path

import torch

CPUINFO = Path("/proc/cpuinfo")
"""Names the processor on Linux."""

PACKAGES = ("lra-e", "torch", "numpy", "optuna")
"""The packages whose versions a report states."""


@functools.cache
def machine() -> str:
    """Return the names of the processor, the accelerator if any, and the system."""
    parts = [f"{_processor()}, {cores()} cores"]
    if torch.cuda.is_available():
        parts.append(torch.cuda.get_device_name())
    return "; ".join((*parts, platform.platform()))


def cores() -> int:
    """Return the number of cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def versions() -> dict[str, str]:
    """Return the versions of Python and of `PACKAGES`."""
    result = {"Python": platform.python_version()}
    for name in PACKAGES:
        try:
            result[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            result[name] = "not installed"
    return result


def _processor() -> str:
    with contextlib.suppress(OSError):  # only Linux has it
        for line in CPUINFO.read_text("utf-8", "replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()

"""Set-up of Lightning Fabric for a run: devices, precision and processes."""

import logging
import os
from typing import Any

from lightning_fabric import Fabric
from lightning_fabric.plugins import DoublePrecision

from lra.errors import OptionError
from lra.lab.settings.config import TrainConfig
from lra.lab.settings.options import PRECISIONS


class _Double(DoublePrecision):
    """Fabric's double precision, but with outputs in double precision too, for the loss."""

    def convert_output(self, data: Any) -> Any:
        """Return the output unchanged; Fabric would cast it to torch's default dtype."""
        return data


def start_fabric(config: TrainConfig) -> Fabric:
    """Start Fabric in the configured number of processes.

    Raises:
        OptionError: this machine lacks the device, the number of devices or the precision.
    """
    double = config.precision == "64"
    # At its own level it would print its processes and its precision.
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)
    try:
        fabric = Fabric(
            accelerator=config.device,
            devices=config.devices,
            precision=None if double else PRECISIONS[config.precision],  # type: ignore[arg-type]
            plugins=_Double() if double else None,
            strategy="ddp" if config.devices > 1 else "auto",
        )
    except Exception as error:  # Fabric raises many types, all about this machine's devices
        raise OptionError(
            f"device {config.device!r}, devices {config.devices}, precision "
            f"{config.precision!r}: not available on this machine ({error})"
        ) from error
    most = max(2, os.cpu_count() or 1)
    if fabric.device.type == "cpu" and config.devices > most:
        raise OptionError(
            f"devices must be at most {most} on the CPU of this machine, one per core; "
            f"got {config.devices}"
        )
    fabric.launch()
    return fabric

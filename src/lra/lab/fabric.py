"""Lightning Fabric as a run needs it: devices, precision, processes."""

import os
from typing import Any

from lightning_fabric import Fabric
from lightning_fabric.plugins import DoublePrecision

from lra.errors import OptionError
from lra.lab.config import TrainConfig
from lra.lab.options import PRECISIONS


class _Double(DoublePrecision):
    """Fabric's double precision, with the network's output left in it, as the loss needs it."""

    def convert_output(self, data: Any) -> Any:
        """Give the output as it is; Fabric would round it to torch's default dtype."""
        return data


def start_fabric(config: TrainConfig) -> Fabric:
    """Start it, in as many processes as configured.

    Raises:
        OptionError: for a device, their number or a precision that this machine does not have.
    """
    double = config.precision == "64"
    try:
        fabric = Fabric(
            accelerator=config.device,
            devices=config.devices,
            precision=None if double else PRECISIONS[config.precision],  # type: ignore[arg-type]
            plugins=_Double() if double else None,
            strategy="ddp" if config.devices > 1 else "auto",
        )
    except Exception as error:  # Fabric raises many kinds, all about this machine's devices
        raise OptionError(
            f"device {config.device!r}, devices {config.devices}, precision "
            f"{config.precision!r}: not on this machine ({error})"
        ) from error
    most = max(2, os.cpu_count() or 1)
    if fabric.device.type == "cpu" and config.devices > most:
        raise OptionError(
            f"devices must be at most {most} on the CPU of this machine, one for each core; "
            f"got {config.devices}"
        )
    fabric.launch()
    return fabric

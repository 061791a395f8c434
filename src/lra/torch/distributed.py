"""Questions about models that are spread over several processes."""

import sys

from torch import nn


def is_sharded(module: nn.Module) -> bool:
    """Return whether FSDP2 shards the module's parameters.

    The check reads `sys.modules`, so it never imports FSDP itself.
    """
    fsdp = sys.modules.get("torch.distributed.fsdp")
    return fsdp is not None and isinstance(module, fsdp.FSDPModule)

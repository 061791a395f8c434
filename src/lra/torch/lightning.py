"""A callback for Lightning: diagnoses of a converted module as it trains, into its loggers.

from lra.torch.lightning import Diagnose
Trainer(callbacks=[Diagnose(every=100)])
"""

from collections.abc import Callable
from typing import Any

from torch import Tensor

from lra.axis import count
from lra.errors import OptionError
from lra.torch.diagnose import Diagnosis, diagnose

try:
    from lightning.pytorch import Callback, LightningModule, Trainer
except ModuleNotFoundError as error:
    if error.name not in ("lightning", "lightning.pytorch"):
        raise
    raise ImportError(
        "lra.torch.lightning needs Lightning, which is not installed: pip install lightning"
    ) from error


class Diagnose(Callback):
    """Diagnoses the rule on a training batch every so many steps, before that batch is learned.

    The numbers go to all the trainer's loggers as `diagnose/MEASURE/LAYER`. Training is the same to
    the bit. With several processes each diagnoses its own batch, and the first one's is logged.

    Args:
        every: steps of the optimizer between diagnoses.
        loss: gives the loss from the module and a batch; by default a batch is (x, t), and the loss
            is the cross-entropy of what the module makes of x.

    Attributes:
        last: the last diagnosis.

    Raises:
        OptionError: for a number that is out of range; and in training, for a batch that is no
            pair where no loss is given.
        ConversionError: in training, for a module in which nothing is converted.
    """

    def __init__(
        self, every: int = 100, loss: Callable[[LightningModule, Any], Tensor] | None = None
    ) -> None:
        self.every, self.loss = every, loss
        count(self, "every")
        self.last: Diagnosis | None = None
        self._step = -1

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Diagnose, if it is time."""
        step = trainer.global_step
        if step % self.every or step == self._step:  # the same step, where batches accumulate
            return
        self._step = step
        with trainer.precision_plugin.forward_context():
            self.last = self._diagnose(pl_module, batch)
        for logger in trainer.loggers:  # empty but in the first process
            logger.log_metrics({f"diagnose/{k}": v for k, v in self.last.scalars().items()}, step)

    def _diagnose(self, module: LightningModule, batch: Any) -> Diagnosis:
        if self.loss is not None:
            loss = self.loss
            return diagnose(module, loss=lambda: loss(module, batch))
        if not (isinstance(batch, (tuple, list)) and len(batch) == 2):
            raise OptionError(
                f"Diagnose: a batch is a {type(batch).__name__}, not (x, t); say what the loss is: "
                "Diagnose(loss=lambda module, batch: ...)"
            )
        return diagnose(module, *batch)

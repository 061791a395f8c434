"""A Lightning callback that diagnoses a converted module during training, and logs the results.

For example::

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
    """Diagnose the rule on a training batch every few steps, before the step learns from it.

    The numbers go to all loggers of the trainer as `diagnose/MEASURE/LAYER`. Training is identical
    to the bit. With several processes, each diagnoses its own batch and the first one logs.

    Args:
        every: the number of optimizer steps between diagnoses.
        loss: a function of the module and a batch that returns the loss. By default a batch is
            (x, t), and the loss is the cross-entropy of the module's output at x.

    Attributes:
        last: the last diagnosis.

    Raises:
        OptionError: `every` is out of range; in training, the batch is not a pair and there is no
            `loss`.
        ConversionError: in training, no layer of the module is converted.

    >>> from lightning.pytorch import Trainer
    >>> from lra.torch.lightning import Diagnose
    >>> trainer = Trainer(callbacks=[Diagnose(every=100)], logger=False, accelerator="cpu")
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
        """Diagnose the batch if a diagnosis is due."""
        step = trainer.global_step
        if step % self.every or step == self._step:  # equal while gradients accumulate
            return
        self._step = step
        with trainer.precision_plugin.forward_context():
            self.last = self._diagnose(trainer, pl_module, batch)
        for logger in trainer.loggers:  # empty except in the first process
            logger.log_metrics({f"diagnose/{k}": v for k, v in self.last.scalars().items()}, step)

    def _diagnose(self, trainer: Trainer, module: LightningModule, batch: Any) -> Diagnosis:
        if self.loss is not None:
            loss = self.loss
            return diagnose(module, loss=lambda: loss(module, batch), optimizer=trainer.optimizers)
        if not (isinstance(batch, (tuple, list)) and len(batch) == 2):
            raise OptionError(
                f"Diagnose: the batch is a {type(batch).__name__}, not (x, t); pass a function "
                "that returns its loss: Diagnose(loss=lambda module, batch: ...)"
            )
        return diagnose(module, *batch, optimizer=trainer.optimizers)

"""Lightning's callback in a real Trainer, against training without it and `lra.diagnose`."""

import logging

import lightning
import pytest
import torch
from lightning.pytorch.loggers import CSVLogger
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

import lra
from lra.torch.lightning import Diagnose

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")


class Module(lightning.LightningModule):
    def __init__(self):
        super().__init__()
        layers = nn.Linear(6, 12), nn.BatchNorm1d(12), nn.Tanh(), nn.Dropout(0.2), nn.Linear(12, 4)
        self.net = nn.Sequential(*layers)

    def forward(self, x):
        return self.net(x)

    def training_step(self, batch, batch_idx):
        x, t = batch
        loss = F.cross_entropy(self(x), t)
        self.log("loss", loss)
        return loss

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), lr=1e-2)


def fit(*callbacks, folder=None, **options):
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    torch.manual_seed(0)
    module = lra.convert(Module(), lra.MirroredLRA())
    data = TensorDataset(torch.randn(40, 6), torch.arange(40) % 4)
    trainer = lightning.Trainer(
        max_epochs=2, accelerator="cpu", callbacks=list(callbacks), log_every_n_steps=1,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
        logger=CSVLogger(folder) if folder else False, **options,
    )  # fmt: skip
    trainer.fit(module, DataLoader(data, batch_size=8))
    return module


class CompareDiagnoses(lightning.Callback):
    """A callback that diagnoses the steps that another one does, and stores both diagnoses."""

    def __init__(self, other):
        self.other, self.pairs = other, []

    def on_train_batch_start(self, trainer, module, batch, batch_idx):
        if trainer.global_step % 3 == 0:
            found = lra.diagnose(module, *batch, optimizer=trainer.optimizers)
            self.pairs.append((self.other.last, found))


def test_the_callback_diagnoses_a_training_without_changing_it(tmp_path):
    callback = Diagnose(every=3)
    compare = CompareDiagnoses(callback)
    module = fit(callback, compare, folder=tmp_path)
    for name, value in fit().state_dict().items():
        assert torch.equal(module.state_dict()[name], value), name
    assert len(compare.pairs) == 4  # of ten steps
    for found, expected in compare.pairs:
        assert found == expected
        assert [layer.name for layer in found.weights] == ["net.0", "net.4"]
    (table,) = tmp_path.rglob("metrics.csv")
    lines = [line.split(",") for line in table.read_text().splitlines()]
    column = lines[0].index("diagnose/angle/net.0")
    logged = [float(line[column]) for line in lines[1:] if line[column]]
    torch.testing.assert_close(logged, [found["net.0"].angle for found, _ in compare.pairs])


def test_accumulated_batches_count_as_one_step():
    callback = Diagnose(every=1)
    compare = CompareDiagnoses(callback)
    fit(callback, compare, accumulate_grad_batches=5)
    first = compare.pairs[0][0]
    assert all(found is first for found, _ in compare.pairs[:5])


def test_a_custom_loss():
    callback = Diagnose(loss=lambda module, batch: module(batch[0]).square().mean())
    fit(callback)
    assert callback.last.loss > 0


def test_wrong_options_and_batches_are_refused():
    with pytest.raises(lra.errors.OptionError, match="every must be"):
        Diagnose(every=0)
    with pytest.raises(lra.errors.OptionError, match=r"not \(x, t\)"):
        Diagnose().on_train_batch_start(_Trainer(), Module(), torch.zeros(2), 0)


class _Trainer:
    global_step, loggers = 0, ()

    class precision_plugin:  # noqa: N801
        @staticmethod
        def forward_context():
            return torch.enable_grad()

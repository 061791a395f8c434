"""Train a Lightning module on the bundled digits by LRA-E.

    python examples/lightning_module.py          (needs lightning)

The model is converted in `__init__`, so that `load_from_checkpoint` converts it again.
"""

import logging
import tempfile

import lightning
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import lra
from lra.lab import data


class Digits(lightning.LightningModule):
    """A multilayer perceptron with two hidden layers."""

    def __init__(self, beta: float = 0.1, lr: float = 1e-3) -> None:
        super().__init__()
        self.save_hyperparameters()
        layers = nn.Linear(64, 128), nn.Tanh(), nn.Linear(128, 128), nn.Tanh(), nn.Linear(128, 10)
        self.net = lra.convert(nn.Sequential(*layers), lra.LRAE(beta=beta))

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)

    def training_step(self, batch: tuple[Tensor, Tensor], index: int) -> Tensor:
        x, y = batch
        return F.cross_entropy(self(x), y)

    def test_step(self, batch: tuple[Tensor, Tensor], index: int) -> None:
        x, y = batch
        self.log("accuracy", (self(x).argmax(1) == y).float().mean())

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=self.hparams["lr"])


def main(epochs: int = 10) -> float:
    """Train, save, load the checkpoint, and return the test accuracy."""
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    lightning.seed_everything(0, verbose=False)
    digits = data.load("digits")
    train, test = (
        TensorDataset(torch.from_numpy(x).flatten(1), torch.from_numpy(y))
        for x, y in ((digits.x_train, digits.y_train), (digits.x_test, digits.y_test))
    )
    with tempfile.TemporaryDirectory() as folder:
        quiet = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False}
        trainer = lightning.Trainer(
            max_epochs=epochs, accelerator="cpu", default_root_dir=folder, **quiet
        )
        trainer.fit(Digits(), DataLoader(train, 32, shuffle=True))
        trainer.save_checkpoint(f"{folder}/digits.ckpt")
        loaded = Digits.load_from_checkpoint(f"{folder}/digits.ckpt")
        return trainer.test(loaded, DataLoader(test, 360), verbose=False)[0]["accuracy"]


if __name__ == "__main__":
    print(f"test accuracy {main():.1%} after 10 epochs")

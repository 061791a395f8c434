"""Train a Hugging Face vision transformer by LRA-E with the Hugging Face Trainer.

    python examples/hugging_face_trainer.py          (needs transformers and accelerate)

The data are the bundled digits in patches of 2 x 2 pixels, so nothing is downloaded. A pretrained
model is converted in the same way.
"""

import tempfile

import torch
from torch.utils.data import Dataset
from transformers import Trainer, TrainingArguments, ViTConfig, ViTForImageClassification

import lra
from lra.lab import data


class Digits(Dataset):
    """The images of digits and their labels."""

    def __init__(self, x, y) -> None:
        self.images = torch.from_numpy(x).view(-1, 1, 8, 8)
        self.labels = torch.from_numpy(y)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, i: int) -> dict[str, torch.Tensor]:
        return {"pixel_values": self.images[i], "labels": self.labels[i]}


def accuracy(prediction) -> dict[str, float]:
    return {"accuracy": float((prediction.predictions.argmax(-1) == prediction.label_ids).mean())}


def main(rule: lra.Rule, epochs: float = 10.0) -> float:
    """Train by a rule and return the test accuracy."""
    digits = data.load("digits")
    torch.manual_seed(0)
    config = ViTConfig(
        image_size=8,
        patch_size=2,
        num_channels=1,
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=128,
        num_labels=10,
    )
    model = ViTForImageClassification(config)
    lra.convert(model, rule, example={"pixel_values": torch.zeros(2, 1, 8, 8)})
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            folder,
            num_train_epochs=epochs,
            per_device_train_batch_size=32,
            learning_rate=1e-3,
            report_to=[],
            save_strategy="no",
            logging_strategy="no",
            disable_tqdm=True,
            use_cpu=True,
        )
        trainer = Trainer(
            model,
            arguments,
            train_dataset=Digits(digits.x_train, digits.y_train),
            eval_dataset=Digits(digits.x_test, digits.y_test),
            compute_metrics=accuracy,
        )
        trainer.train()
        return float(trainer.evaluate()["eval_accuracy"])


if __name__ == "__main__":
    for rule in (lra.LRAE(), lra.Backprop()):
        print(f"test accuracy {main(rule):.1%} by {rule.name}")

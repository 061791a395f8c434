"""Time a training step of an LSTM, a ResNet, a ViT, BERT and GPT-2 relative to backprop.

    python benchmarks/step_models.py

Steps are eager, with the fused AdamW; learned feedback is shared with the weights. In each round
the rules take turns. The output is the median time, and the median and quartiles of the rounds'
ratios to backprop. Needs timm and transformers. Run it on an otherwise idle machine.
"""

import argparse
import copy
import os
from collections.abc import Callable
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"

import torch
import torch.nn.functional as F
import transformers
from torch import Tensor, nn

import lra
from turns import take_turns
from zoo import torchvision_stand_in

torchvision_stand_in.install()
import timm  # noqa: E402


def resnet() -> tuple[nn.Module, Any, Callable[[Any], Tensor]]:
    """Return timm's ResNet-18, an input of 64 x 64 images, and the loss."""
    x, t = torch.rand(16, 3, 64, 64), torch.randint(10, (16,))
    return timm.create_model("resnet18", num_classes=10), (x,), lambda out: F.cross_entropy(out, t)


def vit() -> tuple[nn.Module, Any, Callable[[Any], Tensor]]:
    """Return timm's tiny vision transformer of four blocks, for 64 x 64 images."""
    x, t = torch.rand(16, 3, 64, 64), torch.randint(10, (16,))
    model = timm.create_model(
        "vit_tiny_patch16_224", num_classes=10, img_size=64, patch_size=8, depth=4
    )
    return model, (x,), lambda out: F.cross_entropy(out, t)


def bert() -> tuple[nn.Module, Any, Callable[[Any], Tensor]]:
    """Return a Hugging Face BERT for classification: four layers of 256, 64 tokens."""
    config = transformers.BertConfig(
        hidden_size=256, num_hidden_layers=4, num_attention_heads=4, intermediate_size=1024,
        vocab_size=8192, num_labels=10,
    )  # fmt: skip
    x, t = torch.randint(8192, (16, 64)), torch.randint(10, (16,))
    model = transformers.BertForSequenceClassification(config)
    return model, {"input_ids": x}, lambda out: F.cross_entropy(out.logits, t)


def gpt2() -> tuple[nn.Module, Any, Callable[[Any], Tensor]]:
    """Return a Hugging Face GPT-2: four layers of 256, 64 tokens."""
    config = transformers.GPT2Config(
        n_embd=256, n_layer=4, n_head=4, n_positions=64, vocab_size=8192, bos_token_id=None,
        eos_token_id=None,
    )  # fmt: skip
    x, t = torch.randint(8192, (16, 64)), torch.randint(10, (16,))
    model = transformers.GPT2LMHeadModel(config)
    return model, {"input_ids": x}, lambda out: F.cross_entropy(out.logits[:, -1], t)


class Reader(nn.Module):
    """Classifies a sequence from the last state of a two-layer LSTM."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.head = nn.LSTM(32, 128, 2, batch_first=True), nn.Linear(128, 10)

    def forward(self, x: Tensor) -> Tensor:
        h: Tensor = self.head(self.lstm(x)[0][:, -1])
        return h


def lstm() -> tuple[nn.Module, Any, Callable[[Any], Tensor]]:
    """Return torch's LSTM, two layers of 128, 64 steps; conversion runs it step by step."""
    x, t = torch.rand(32, 64, 32), torch.randint(10, (32,))
    return Reader(), (x,), lambda out: F.cross_entropy(out, t)


MODELS = {"LSTM": lstm, "ResNet-18": resnet, "ViT": vit, "BERT": bert, "GPT-2": gpt2}
RULES: dict[str, lra.Rule | None] = {
    "backprop": None,
    "LRA-E": lra.LRAE(),
    "Kolen-Pollack": lra.KolenPollack(),
    "feedback alignment": lra.FeedbackAlignment(),
}


def step_of(
    model: nn.Module, inputs: Any, loss: Callable[[Any], Tensor], rule: lra.Rule | None
) -> Callable[[], None]:
    if rule is not None:
        lra.convert(model, rule, example=inputs)
    # The learning rate is too small to learn: fitting noise would change the step time.
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-9, fused=True)
    if rule is not None and isinstance(rule.feedback, lra.feedback.Learned):
        lra.share_feedback(model, optimizer)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        loss(model(**inputs) if isinstance(inputs, dict) else model(*inputs)).backward()
        optimizer.step()

    return step


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--steps", type=int, default=3, help="steps in a round")
    parser.add_argument("--only", nargs="+", choices=MODELS, default=list(MODELS))
    options = parser.parse_args()
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads")
    for name in options.only:
        torch.manual_seed(0)
        plain, inputs, loss = MODELS[name]()
        steps = {}
        for kind, rule in RULES.items():
            steps[kind] = step_of(copy.deepcopy(plain), inputs, loss, rule)
        print(f"\n{name}")
        take_turns(steps, options.rounds, options.steps)


if __name__ == "__main__":
    main()

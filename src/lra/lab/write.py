"""Continue a text with a run's network, character by character."""

from collections.abc import Iterator
from pathlib import Path

import torch

from lra.errors import OptionError, RunError
from lra.lab import runs
from lra.lab.networks import NETWORKS
from lra.lab.text import encode


@torch.no_grad()
def write(
    folder: Path, prompt: str, characters: int, temperature: float, seed: int
) -> Iterator[str]:
    """Draw each next character from softmax(logits / temperature), and yield it.

    Args:
        folder: the run's folder.
        prompt: the text to continue; the network sees the end of it, up to its context.
        characters: how many to write.
        temperature: 0 takes the likeliest each time.
        seed: of the draws.

    Raises:
        OptionError: for a prompt that is empty or has unknown characters, or numbers out of range.
        RunError: where the run's network does not read text.
    """
    trained = runs.load(folder)
    if not NETWORKS[trained.config.model].text:
        raise RunError(f"{folder}: its network predicts no text; lra predict takes samples")
    if not prompt:
        raise OptionError("prompt must have at least one character, which the text goes on from")
    if characters < 1:
        raise OptionError(f"characters must be 1 or more; got {characters}")
    if seed < 0:
        raise OptionError(f"seed must be a whole number, 0 or more; got {seed}")
    if not 0 <= temperature < float("inf"):
        raise OptionError(f"temperature must be a number, 0 or more; got {temperature}")
    (context,) = trained.sample_shape
    text = encode(prompt, trained.classes)
    generator = torch.Generator().manual_seed(seed)
    for _ in range(characters):
        logits = trained.network(torch.tensor([text[-context:]]))[0, -1, :-1]  # no stand-in
        if temperature == 0:
            text.append(int(logits.argmax()))
        else:
            chances = (logits.double() / temperature).softmax(0)
            text.append(int(torch.multinomial(chances, 1, generator=generator)))
        yield trained.classes[text[-1]]

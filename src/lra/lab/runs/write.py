"""Text generation with a run's network, character by character."""

from collections.abc import Iterator
from pathlib import Path

import torch

from lra.errors import OptionError, RunError
from lra.lab.data.text import encode
from lra.lab.runs import trained_network


@torch.no_grad()
def write(
    folder: Path, prompt: str, characters: int, temperature: float, seed: int
) -> Iterator[str]:
    """Yield characters that continue a text, each drawn from softmax(logits / temperature).

    Args:
        folder: the run's folder.
        prompt: the text to continue. The network reads its end, up to the context.
        characters: the number of characters.
        temperature: the divisor of the logits; 0 takes the likeliest character.
        seed: the seed of the draws.

    Raises:
        OptionError: the prompt is empty or has unknown characters, or a number is out of range.
        RunError: the run's network does not read text.
    """
    trained = trained_network.load(folder)
    if trained.reads != "text":
        raise RunError(
            f"{folder}: its network does not read text; use lra predict to classify samples"
        )
    if not prompt:
        raise OptionError("prompt must have at least one character, for the text to continue")
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
        logits = trained.network(torch.tensor([text[-context:]]))[0, -1, :-1]  # no unknown one
        if temperature == 0:
            text.append(int(logits.argmax()))
        else:
            probabilities = (logits.double() / temperature).softmax(0)
            text.append(int(torch.multinomial(probabilities, 1, generator=generator)))
        yield trained.classes[text[-1]]

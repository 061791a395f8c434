"""Writing: each character compared with the network's logits, and errors."""

import functools
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from workbench import tiny, write_blobs

from lra.errors import OptionError, RunError
from lra.lab.cli import main
from lra.lab.runs import trained_network
from lra.lab.runs.write import write
from lra.lab.training.loop import train

CONTEXT = 12


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on a repeating text, and beside it one of a network that does not read text."""
    home = tmp_path_factory.mktemp("home")
    (home / "abc.txt").write_text("abcde fgh\n" * 300)
    model = f"gpt:width=16,depth=1,context={CONTEXT}"
    train(tiny(home / "abc.txt", model=model, lr=0.01, epochs=4), home / "run")
    train(tiny(write_blobs(home / "blobs.npz"), epochs=1), home / "blobs")
    return home / "run"


def probabilities(run: Path, text: str) -> np.ndarray:
    """Return the softmax of the logits after a text, without the unknown character."""
    trained = trained_network.load(run)
    indices = torch.tensor([[trained.classes.index(c) for c in text[-CONTEXT:]]])
    with torch.no_grad():
        logits = trained.network(indices)[0, -1].double().numpy()[:-1]
    p = np.exp(logits - logits.max())
    return p / p.sum()


@pytest.mark.parametrize("prompt", ["a", "e fg", "abcde fgh\nabcde fgh\nab"])
def test_temperature_0_takes_the_likeliest_character(run: Path, prompt: str) -> None:
    text = prompt
    for _ in range(25):
        text += trained_network.load(run).classes[probabilities(run, text).argmax()]
    assert prompt + "".join(write(run, prompt, 25, 0.0, 0)) == text
    assert text in "abcde fgh\n" * 6  # it has learned the text


def test_draws_have_the_networks_probabilities(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trained_network, "load", functools.cache(trained_network.load))
    temperature, n = 3.0, 600
    p = probabilities(run, "abc") ** (1 / temperature)
    p /= p.sum()
    drawn = Counter("".join(write(run, "abc", 1, temperature, seed)) for seed in range(n))
    for character, share in zip(trained_network.load(run).classes[:-1], p, strict=True):
        deviation = (share * (1 - share) / n) ** 0.5
        assert abs(drawn[character] / n - share) < 4 * deviation + 1e-3


def test_the_seed_determines_the_text(run: Path) -> None:
    texts = ["".join(write(run, "a", 60, 3.0, seed)) for seed in (1, 1, 2)]
    assert texts[0] == texts[1] != texts[2]
    assert {len(text) for text in texts} == {60}


def test_the_unknown_character_is_never_written(run: Path) -> None:
    assert trained_network.load(run).classes[-1] not in "".join(write(run, "a", 300, 1e9, 0))


def test_the_command(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = "--prompt fgh --characters 30 --temperature 2 --seed 3"
    main.main(["write", str(run), *words.split()])
    output = capsys.readouterr().out
    assert output == "fgh" + "".join(write(run, "fgh", 30, 2.0, 3)) + "\n"
    assert len(output) == 34


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"prompt": ""}, "prompt must have at least one character"),
        ({"prompt": "a?"}, r"not in the network's vocabulary: '\?'; known: "),
        ({"characters": 0}, "characters must be 1 or more; got 0"),
        ({"temperature": -0.5}, "temperature must be a number, 0 or more; got -0.5"),
        ({"temperature": float("nan")}, "temperature must be a number, 0 or more; got nan"),
        ({"seed": -1}, r"seed must be a whole number, 0 or more; got -1"),
    ],
)
def test_wrong_settings_are_refused(run: Path, changes: dict[str, object], message: str) -> None:
    settings = {"prompt": "a", "characters": 1, "temperature": 1.0, "seed": 0} | changes
    with pytest.raises(OptionError, match=message):
        "".join(write(run, **settings))  # type: ignore[arg-type]


def test_networks_that_do_not_read_text_are_refused(run: Path, tmp_path: Path) -> None:
    blobs = run.parent / "blobs"
    with pytest.raises(RunError, match=r"does not read text; use lra predict to classify samples"):
        "".join(write(blobs, "a", 1, 1.0, 0))
    np.save(tmp_path / "x.npy", np.zeros((1, CONTEXT), np.float32))
    with pytest.raises(RunError, match=r"reads text; use lra write to continue a text"):
        trained_network.predict(run, tmp_path / "x.npy")
    with pytest.raises(RunError, match=re.escape("digits holds values; the network reads text")):
        trained_network.evaluate(run, "digits")

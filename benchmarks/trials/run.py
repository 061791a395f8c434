"""Run contests: each entrant chooses a learning rate by validation, then trains all seeds.

Every run is an ordinary run of `lra train`, in a folder named by its configuration. Finished runs
are not repeated, and interrupted ones are resumed.
"""

import concurrent.futures
import json
import multiprocessing
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

import lra
from lra.lab.comparison.digest import digest, slug
from lra.lab.networks.table import NETWORKS
from lra.lab.runs import checkpoint
from lra.lab.settings.config import TrainConfig
from lra.lab.settings.spec import format_spec
from lra.lab.training import loop

RESULT, FAILED = "result.json", "failed.json"
TRIAL_SEED = 1000


@dataclass(frozen=True)
class Entrant:
    """A rule in a contest, with its name in the study and its own settings."""

    name: str
    rule: lra.Rule
    settings: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Contest:
    """Rules that train the same network on the same batches from the same weights.

    Attributes:
        part: the section of the study.
        name: the network and its data.
        settings: fields of TrainConfig, and options of the network.
        entrants: the rules.
        rates: the learning rates that each rule tries; with one rate there are no trials.
        trial: fields of TrainConfig that differ in a trial.
        seeds: the seeds of the runs.
    """

    part: str
    name: str
    settings: dict[str, Any]
    entrants: tuple[Entrant, ...]
    rates: tuple[float, ...]
    trial: dict[str, Any] = field(default_factory=dict)
    seeds: tuple[int, ...] = (0, 1, 2)


def configure(
    contest: Contest, entrant: Entrant, seed: int, rate: float, **more: Any
) -> TrainConfig:
    """Return the configuration of a run."""
    settings = contest.settings | entrant.settings | {"lr": rate} | more
    network = settings.pop("model")
    names = [name for name in NETWORKS[network].defaults if name in settings]
    model = format_spec(network, {name: settings.pop(name) for name in names})
    return TrainConfig(rule=entrant.rule, model=model, seed=seed, **settings)


def folder_of(out: Path, contest: Contest, entrant: Entrant, config: TrainConfig) -> Path:
    """Return the folder of a run, named by its configuration."""
    return out / contest.part / f"{slug(f'{contest.name} {entrant.name}')}-{digest(config)}"


def train(folder: Path, config: TrainConfig) -> dict[str, Any]:
    """Train or resume a run, unless it is finished, and return its result.

    A run that diverges has a result as well.
    """
    for name in (RESULT, FAILED):
        if (folder / name).exists():
            result: dict[str, Any] = json.loads((folder / name).read_text())
            return result
    try:
        if checkpoint.exists(folder):
            return loop.resume(folder)
        if folder.exists() and not (folder / "config.json").exists():
            folder.rmdir()
        return loop.train(config, folder, overwrite=folder.exists())
    except lra.errors.Diverged as error:
        failed = {"failed": str(error), "validation_accuracy": 0.0, "validation_loss": 1e9}
        (folder / FAILED).write_text(json.dumps(failed))
        return failed


def validation_score(contest: Contest, result: dict[str, Any]) -> float:
    """Return the score by which a learning rate is chosen, higher is better.

    It is the validation accuracy; on text, minus the validation loss.
    """
    if "failed" in result:
        return -1e9
    text = contest.settings.get("model") == "gpt"
    return float(-result["validation_loss"] if text else result["validation_accuracy"])


def chosen_rate(out: Path, contest: Contest, entrant: Entrant) -> float:
    """Run the trials of an entrant, and return the best learning rate."""
    if len(contest.rates) == 1:
        return contest.rates[0]
    scores = {}
    for rate in contest.rates:
        config = configure(contest, entrant, TRIAL_SEED, rate, **contest.trial)
        result = train(folder_of(out, contest, entrant, config), config)
        scores[rate] = validation_score(contest, result)
    return max(scores, key=lambda rate: scores[rate])


def enter(out: Path, contest: Contest, entrant: Entrant) -> list[dict[str, Any]]:
    """Choose an entrant's learning rate, train all seeds, and return a row for each."""
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    rate = chosen_rate(out, contest, entrant)
    rows = []
    for seed in contest.seeds:
        config = configure(contest, entrant, seed, rate)
        result = train(folder_of(out, contest, entrant, config), config)
        rows.append(
            {
                "part": contest.part,
                "network": contest.name,
                "rule": entrant.name,
                "seed": seed,
                "lr": rate,
                **{
                    name: result.get(name)
                    for name in (
                        *("validation_accuracy", "test_accuracy", "test_accuracy_last"),
                        *("validation_loss", "test_loss", "epochs", "seconds"),
                    )
                },
                "failed": "failed" in result,
            }
        )
    return rows


def compete(out: Path, contests: Sequence[Contest], jobs: int) -> Iterator[list[dict[str, Any]]]:
    """Run contests with `jobs` parallel processes, and yield the rows of each finished entrant."""
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(jobs, mp_context=context) as pool:
        futures = {
            pool.submit(enter, out, contest, entrant): (contest, entrant)
            for contest in contests
            for entrant in contest.entrants
        }
        for future in concurrent.futures.as_completed(futures):
            contest, entrant = futures[future]
            rows = future.result()
            figures = ", ".join(figure_text(row) for row in rows)
            print(f"{contest.part}: {contest.name}, {entrant.name}: {figures}", flush=True)
            yield rows


def figure_text(row: dict[str, Any]) -> str:
    """Format the test accuracy of a row."""
    if row["failed"]:
        return "diverged"
    return f"{row['test_accuracy']:.2f}" if row["test_accuracy"] is not None else "-"

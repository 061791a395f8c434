"""Run a contest's entrants: choose a step size on the validation split, then train each seed.

Every run is an ordinary run of the workbench, in a folder named by what it trains; one that is
there is not repeated, one that was torn goes on.
"""

import concurrent.futures
import dataclasses
import json
import multiprocessing
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

import lra
from lra.lab import checkpoint, training
from lra.lab.compare.digest import digest, slug
from lra.lab.config import TrainConfig

RESULT, FAILED = "result.json", "failed.json"
TRIAL_SEED = 1000


@dataclass(frozen=True)
class Entrant:
    """A rule in a contest, under the name by which the study calls it."""

    name: str
    rule: lra.Rule
    settings: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Contest:
    """Rules that train the same network on the same batches from the same weights.

    Attributes:
        part: the section of the study.
        name: what is trained.
        settings: fields of TrainConfig.
        entrants: the rules.
        rates: the step sizes that each of them tries, on the validation split; one is no choice.
        trial: fields of TrainConfig that make a trial shorter than a run.
        seeds: of the runs.
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
    """Give a run's configuration."""
    settings = contest.settings | entrant.settings | {"lr": rate} | more
    return TrainConfig(rule=entrant.rule, seed=seed, **settings)


def folder_of(out: Path, contest: Contest, entrant: Entrant, config: TrainConfig) -> Path:
    """Name a run's folder by what it trains."""
    return out / contest.part / f"{slug(f'{contest.name} {entrant.name}')}-{digest(config)}"


def train(folder: Path, config: TrainConfig) -> dict[str, Any]:
    """Train once, or give the result that is there; one that diverges is a result too."""
    for name in (RESULT, FAILED):
        if (folder / name).exists():
            found: dict[str, Any] = json.loads((folder / name).read_text())
            return found
    try:
        if checkpoint.exists(folder):
            return training.resume(folder)
        if folder.exists() and not (folder / "config.json").exists():
            folder.rmdir()
        return training.train(config, folder, overwrite=folder.exists())
    except lra.errors.Diverged as error:
        failed = {"failed": str(error), "validation_accuracy": 0.0, "validation_loss": 1e9}
        (folder / FAILED).write_text(json.dumps(failed))
        return failed


def merit(contest: Contest, result: dict[str, Any]) -> float:
    """Give what a step size is chosen by: validation accuracy, or the loss of text, negative."""
    if "failed" in result:
        return -1e9
    text = contest.settings.get("model") == "gpt"
    return float(-result["validation_loss"] if text else result["validation_accuracy"])


def chosen_rate(out: Path, contest: Contest, entrant: Entrant) -> float:
    """Run the trials, and choose."""
    if len(contest.rates) == 1:
        return contest.rates[0]
    merits = {}
    for rate in contest.rates:
        config = configure(contest, entrant, TRIAL_SEED, rate, **contest.trial)
        merits[rate] = merit(contest, train(folder_of(out, contest, entrant, config), config))
    return max(merits, key=lambda rate: merits[rate])


def enter(out: Path, contest: Contest, entrant: Entrant) -> list[dict[str, Any]]:
    """Choose an entrant's step size, and train all seeds; gives a row for each."""
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
    """Run contests, as many entrants at once as asked for; yields the rows as they come."""
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
            figures = ", ".join(shown(row) for row in rows)
            print(f"{contest.part}: {contest.name}, {entrant.name}: {figures}", flush=True)
            yield rows


def shown(row: dict[str, Any]) -> str:
    """Write a row's figure."""
    if row["failed"]:
        return "diverged"
    return f"{row['test_accuracy']:.2f}" if row["test_accuracy"] is not None else "-"


def plain(contest: Contest) -> dict[str, Any]:
    """Give a contest as plain data, for the page that tells of it."""
    return {
        "part": contest.part,
        "name": contest.name,
        "settings": {k: str(v) for k, v in contest.settings.items()},
        "rates": list(contest.rates),
        "seeds": list(contest.seeds),
        "rules": {e.name: dataclasses.asdict(e)["settings"] for e in contest.entrants},
    }

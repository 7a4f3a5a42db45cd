"""`obdbench data`: build, list and inspect datasets."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Column, Table

from benchmark.datasets.dataset import Dataset
from benchmark.datasets.source import DATASETS
from benchmark.datasets.store import (
    DatasetName,
    DatasetProblem,
    build_dataset,
    dataset_card,
    load_dataset,
    local_datasets,
)
from benchmark.errors import ObdBenchError, did_you_mean
from obdbench.cli.console import err, out, progress_bar

app = typer.Typer(help="Datasets: build, list, inspect.", no_args_is_help=True)

Name = Annotated[str, typer.Argument(help="Registered name, e.g. hopper/medium-replay.")]


def build_if_missing(name: DatasetName, *, seed: int | None = None, force: bool = False) -> Dataset:
    """Builds a dataset with a progress bar; one that is in the store is only checked.

    Without a seed, the one that the store has will do; a new one is built with seed 0.
    """
    if seed is None:
        seed = dataset_card(name)["seed"] if (name.folder / "card.json").is_file() else 0
    with progress_bar(f"Building {name}", "transitions", name.size) as bar:
        dataset = build_dataset(
            name,
            seed=seed,
            threads=os.cpu_count() or 1,
            force=force,
            progress=lambda done, _: bar.update(done),
        )
        bar.update(name.size)
    err.print(
        f"{name}: {len(dataset):,} transitions, sha256 {dataset.sha256[:16]}", highlight=False
    )
    return dataset


@app.command()
def build(
    name: Name,
    size: Annotated[int | None, typer.Option(help="Transitions.")] = None,
    seed: Annotated[int, typer.Option(help="Of the collection.")] = 0,
    force: Annotated[bool, typer.Option(help="Build over one that is in the store.")] = False,
) -> None:
    """Build a dataset into the local Minari store."""
    if size is not None and "@" in name:
        raise DatasetProblem(f"{name!r} names a size and --size {size} another; give one of them.")
    text = name if size is None else f"{name}@{size}"
    build_if_missing(DatasetName.parse(text), seed=seed, force=force)


@app.command(name="list")
def list_datasets() -> None:
    """List every registered dataset, and those in the local store."""
    stored = {str(name): dataset_card(name) for name in local_datasets()}
    table = Table(
        Column("dataset", no_wrap=True), "size", "mean return", "sd", "max", "in store", "source"
    )
    for name in sorted({*DATASETS, *stored}):
        base = name.partition("@")[0]
        try:
            description = DATASETS[base].description
        except ObdBenchError as error:
            table.add_row(name, "", "", "", "", "", escape(f"broken: {error}"))
            continue
        card = stored.get(name)
        if card is None:
            table.add_row(name, f"{DATASETS[base].default_size:,}", "", "", "", "no", description)
            continue
        returns = [f"{card['returns'][key]:.0f}" for key in ("mean", "sd", "max")]
        table.add_row(name, f"{card['size']:,}", *returns, "yes", description)
    out.print(table)


@app.command()
def info(name: Name) -> None:
    """Check a dataset of the local store and print what it is."""
    parsed = DatasetName.parse(name)
    dataset, card = load_dataset(parsed), dataset_card(parsed)
    reference = card["reference_returns"]
    rows = {
        "dataset": str(parsed),
        "source": card["source"],
        "environment": card["environment"],
        "transitions": f"{len(dataset):,} in {card['episodes']:,} episodes, seed {card['seed']}",
        "dimensions": f"{dataset.observation_dim} observation, {dataset.action_dim} action",
        "returns": "mean {mean:.1f}, sd {sd:.1f}, max {max:.1f}".format(**card["returns"]),
        "normalized return": f"{dataset.reference.normalise(card['returns']['mean']):.1f} (mean)",
        "reference returns": f"random {reference['random']:.1f}, expert {reference['expert']:.1f}",
        "sha256": card["sha256"],
        "Minari id": parsed.minari_id,
        "folder": str(parsed.folder),
    }
    for key, value in rows.items():
        out.print(f"{key:<18} {value}", highlight=False)


@app.command(name="train-policies")
def train_policies(
    environment: Annotated[str, typer.Argument(help="E.g. hopper.")],
    folder: Annotated[Path, typer.Option(help="For the snapshots of the training.")],
    algorithm: Annotated[str, typer.Option(help="PPO or A2C, of stable-baselines3.")] = "PPO",
    steps: Annotated[int | None, typer.Option(help="Environment steps of training.")] = None,
    target: Annotated[
        Path | None, typer.Option(help="Files to write, without ending; beside them the manifest.")
    ] = None,
) -> None:
    """Re-run the recipe behind the shipped policy snapshots (needs obdbench[policies])."""
    from benchmark.datasets.train_policies import RECIPES, pack, train

    if environment not in RECIPES:
        raise DatasetProblem(
            f"There is no recipe for {environment!r}. {did_you_mean(environment, RECIPES)}"
        )
    recipe = dataclasses.replace(RECIPES[environment], algorithm=algorithm)
    if steps is not None:
        recipe = dataclasses.replace(recipe, steps=steps)
    train(recipe, folder)
    pack(recipe, folder, target or folder / environment)

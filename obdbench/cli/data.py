"""`obdbench data`: build, fetch, import, list and inspect datasets."""

from __future__ import annotations

import dataclasses
import os
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np
import typer
from numpy.typing import NDArray
from rich.table import Column, Table
from rich.text import Text

from benchmark.datasets.catalog import (
    build_dataset,
    check_fits_environment,
    dataset_card,
    is_stored,
    load_dataset,
    local_datasets,
    refuse_stored,
)
from benchmark.datasets.d4rl import D4RLSource
from benchmark.datasets.dataset import (
    AskedReference,
    Dataset,
    DatasetProblem,
    ReferenceReturns,
)
from benchmark.datasets.minari_remote import MinariSource
from benchmark.datasets.source import (
    DATASETS,
    FAMILIES,
    DatasetName,
    DatasetSource,
    dataset_names,
    find_source,
)
from benchmark.density.log_densities import Fit, find_or_fit
from benchmark.environments.contacts import contact_rule
from benchmark.errors import ObdBenchError
from benchmark.files import write_atomic
from benchmark.names import flat_name
from benchmark.spec import LARGEST_SEED
from obdbench.cli.console import err, out, progress_bar
from obdbench.cli.options import Force

if TYPE_CHECKING:  # only `describe` draws, and whatever builds data imports this module
    from paper_figures.dataset_overview import DatasetDescription

app = typer.Typer(
    help="Datasets: build, fetch, import, list, inspect, replay.", no_args_is_help=True
)

WIDE = 100
"""Columns of a terminal from which on a list has room for where datasets come from."""
Name = Annotated[str, typer.Argument(help="Name of a dataset, e.g. hopper/medium-replay.")]
Environment = Annotated[
    str | None,
    typer.Option(
        help='Environment to score in, e.g. Hopper-v4 or Hopper-v5{"max_episode_steps": 500}.'
    ),
]
ReferenceRandom = Annotated[
    float | None, typer.Option(help="Mean return of the random policy, which counts as 0.")
]
ReferenceExpert = Annotated[
    float | None, typer.Option(help="Mean return of the expert, which counts as 100.")
]
MeasureReferences = Annotated[
    bool,
    typer.Option(
        "--measure-references",
        help="Take the returns of random actions in the environment as 0, and those of the best "
        "tenth of the data's episodes as 100.",
    ),
]


def build_if_missing(
    name: DatasetName,
    *,
    seed: int | None = None,
    force: bool = False,
    source: DatasetSource | None = None,
    must_be_new: bool = False,
) -> Dataset:
    """Build a dataset with a progress bar; one that is in the store is only checked.

    Args:
        name: The dataset to build.
        seed: Seed of the collection. None accepts what the store has, and builds a new one with 0.
        force: Build anew even if a sound one is in the store.
        source: Where the data come from; None for where the name says.
        must_be_new: Refuse what is in the store, which may be other data than those of `source`.
    """
    keeps = is_stored(name) and not force  # what is replaced may be too damaged to be read
    if keeps and must_be_new:
        refuse_stored(name)
    if seed is None:
        seed = (dataset_card(name)["seed"] if keeps else None) or 0
    source = source or find_source(name.name)
    with progress_bar(f"Building {name}", source.progress_unit, name.size) as bar:
        dataset = build_dataset(
            name,
            seed=seed,
            threads=os.cpu_count() or 1,
            force=force,
            progress=lambda done, total: bar.update(done, total=total),
            source=source,
            must_be_new=must_be_new,
        )
        bar.update(bar.total or 0)
    err.print(f"{name}: {len(dataset):,} transitions, sha256 {dataset.sha256[:16]}")
    if not keeps and (converted := dataset.provenance.get("actions_converted")):
        err.print(f"Actions were converted: {converted}.")
    for warning in dataset_card(name)["provenance"].get("warnings", ()):
        err.print(Text("Warning:", "bold yellow"), str(warning))
    return dataset


@app.command()
def build(
    name: Annotated[str | None, typer.Argument(help="Name, e.g. hopper/medium-replay.")] = None,
    all_: Annotated[bool, typer.Option("--all", help="All of the suite's own datasets.")] = False,
    size: Annotated[int | None, typer.Option(help="Number of transitions.")] = None,
    seed: Annotated[
        int, typer.Option(help="Seed of the collection.", min=0, max=LARGEST_SEED - 1)
    ] = 0,
    force: Force = False,
) -> None:
    """Build a dataset into the local Minari store."""
    if all_ == (name is not None):
        raise DatasetProblem("Give the name of one dataset, or --all for the suite's own.")
    if name is not None:
        build_if_missing(_sized(name, size), seed=seed, force=force)
        return
    own = [_sized(name, size) for name in DATASETS if DATASETS.origin(name) == "obdbench"]
    for dataset in own:
        present = is_stored(dataset) and not force
        build_if_missing(dataset, seed=None if present else seed, force=force)
    out.print(_summary(own))


@app.command()
def fetch(
    name: Annotated[str, typer.Argument(help="E.g. d4rl/hopper-medium-v2, minari/ID.")],
    mirror: Annotated[
        str | None,
        typer.Option(help="Address of a folder with D4RL's files; default: OBDBENCH_D4RL_MIRROR."),
    ] = None,
    environment: Environment = None,
    reference_random: ReferenceRandom = None,
    reference_expert: ReferenceExpert = None,
    measure_references: MeasureReferences = False,
    force: Force = False,
) -> None:
    """Fetch a published dataset into the local Minari store."""
    parsed = DatasetName.parse(name)
    source = find_source(parsed.name)
    if parsed.size is not None:
        raise DatasetProblem(
            f"{parsed} is collected on this machine, not fetched. Use `{parsed.build_command}`."
        )
    if mirror is not None:
        if not isinstance(source, D4RLSource):
            raise DatasetProblem(f"--mirror is for D4RL's files; {parsed} is not one of them.")
        if is_stored(parsed) and not force:
            raise DatasetProblem(
                f"{parsed} is in the store already, so nothing would be fetched from {mirror}. "
                f"Give --force to replace it, or leave --mirror out."
            )
        source = dataclasses.replace(source, mirror=mirror)
    reference = _reference(reference_random, reference_expert, measure_references)
    if environment is not None or reference is not None:
        if not isinstance(source, MinariSource):
            raise DatasetProblem(
                f"{parsed} has its environment and reference returns by its name; --environment, "
                f"--reference-random, --reference-expert and --measure-references are for Minari's."
            )
        source = dataclasses.replace(source, environment=environment, reference=reference)
    settings = not (mirror is None and environment is None and reference is None)
    if is_stored(parsed) and not (force or settings):
        err.print(
            f"{parsed} is in the store already and is only checked. With --force it is fetched "
            f"again, or read again from its file in the cache."
        )
    build_if_missing(parsed, force=force, source=source, must_be_new=settings)


@app.command(name="import")
def import_(
    file: Annotated[Path, typer.Argument(help="Transitions in .npz, HDF5 or parquet.")],
    as_: Annotated[
        str, typer.Option("--as", help="local/NAME, or d4rl/NAME for one of D4RL's files.")
    ],
    environment: Environment = None,
    reference_random: ReferenceRandom = None,
    reference_expert: ReferenceExpert = None,
    measure_references: MeasureReferences = False,
    force: Force = False,
) -> None:
    """Import a file from this machine into the local Minari store."""
    prefix = as_.partition("/")[0]
    if prefix not in FAMILIES:
        raise DatasetProblem(
            f"A file cannot be imported as {as_!r}. Give it a name that begins with local/, or "
            f"d4rl/ if it is one of D4RL's."
        )
    reference = _reference(reference_random, reference_expert, measure_references)
    source = FAMILIES[prefix].file_source(as_, file, environment, reference)
    build_if_missing(DatasetName.parse(as_), force=force, source=source, must_be_new=True)


@app.command(name="list")
def list_datasets() -> None:
    """List every dataset that is known without a network, and those in the local store."""
    rows = []
    broken = []
    for name in sorted({*dataset_names(), *map(str, local_datasets())}):
        try:
            parsed = DatasetName.parse(name)
            if is_stored(parsed):  # whoever registers it may not be loaded
                card = dataset_card(parsed)
                returns = [f"{card['returns'][key]:,.1f}" for key in ("mean", "sd", "max")]
                rows.append((name, f"{card['size']:,}", *returns, "yes", card["source"]))
                continue
            source = find_source(parsed.name)
        except ObdBenchError as error:
            rows.append((name, "", "", "", "", "broken", str(error)))
            broken.append(f"{name} is broken: {error}")
            continue
        size = source.default_size
        shown, state = ("", "fetch") if size is None else (f"{size:,}", "no")
        rows.append((name, shown, "", "", "", state, source.description))
    heads = ["mean return", "sd", "max", "in store", "source"]
    if out.width < WIDE:
        heads = ["mean\nreturn", *heads[1:-1]]
    size_column = Column("size", no_wrap=True)
    table = Table(Column("dataset", overflow="fold"), size_column, *heads)
    for row in rows:
        table.add_row(*row[: len(table.columns)])
    out.print(table)
    if out.width < WIDE:  # else they stand where the source does
        for problem in broken:
            out.print(problem)


@app.command()
def info(name: Name) -> None:
    """Check a dataset of the local store and print its facts."""
    parsed = DatasetName.parse(name)
    dataset, card = load_dataset(parsed), dataset_card(parsed)
    reference = card["reference_returns"]
    seed = "" if card["seed"] is None else f", seed {card['seed']}"
    provenance = dict(dataset.provenance)
    warnings = provenance.pop("warnings", [])
    rows = {
        "dataset": str(parsed),
        "source": card["source"],
        "environment": card["environment"],
        "transitions": f"{len(dataset):,} in {card['episodes']:,} episodes{seed}",
        "dimensions": f"{dataset.observation_dim} observation, {dataset.action_dim} action",
        "returns": "mean {mean:.1f}, sd {sd:.1f}, max {max:.1f}".format(**card["returns"]),
        "normalized return": f"{dataset.reference.normalise(card['returns']['mean']):.1f} (mean)",
        "reference returns": f"random {reference['random']:.1f}, expert {reference['expert']:.1f}",
        "sha256": card["sha256"],
        "Minari id": parsed.minari_id,
        "folder": str(parsed.folder),
    }
    origin = [
        (key.replace("_", " "), str(value)) for key, value in provenance.items() if value != ""
    ]
    for key, value in [*rows.items(), *origin, *(("warning", text) for text in warnings)]:
        out.print(f"{key:<18} {value}")


@app.command()
def replay(
    name: Annotated[str, typer.Argument(help="A dataset of the local store, or a file.")],
    environment: Annotated[
        str | None, typer.Option(help="Environment of a file, e.g. Hopper-v4; its name is a path.")
    ] = None,
    episodes: Annotated[
        int | None, typer.Option(min=1, help="Replay only so many, evenly spread over the data.")
    ] = None,
) -> None:
    """Step the environment from each stored state, and compare rewards and next states."""
    from benchmark.datasets.replay import TOLERANCE, replay
    from benchmark.datasets.transitions import clip_controls, read_transitions

    if environment is not None:
        # Actions as they are in the file, before an import clips them; returns need no scale.
        scale = ReferenceReturns(0.0, 1.0)
        dataset = read_transitions(Path(name), name=name, env_id=environment, reference=scale)
        check_fits_environment(clip_controls(dataset))
    elif Path(name).is_file():
        raise DatasetProblem(
            f"{name} is a file, which does not say where it was collected. Name the environment "
            f"with --environment, e.g. --environment Hopper-v4."
        )
    else:
        dataset = load_dataset(DatasetName.parse(name))
    with progress_bar(f"Replaying {name}", "transitions", len(dataset)) as bar:
        found = replay(
            dataset,
            episodes=episodes,
            progress=lambda done, total: bar.update(done, total=total),
        )
    versions = ", ".join(f"{package} {version(package)}" for package in ("gymnasium", "mujoco"))
    skipped = " (a velocity at the clip hides the state)" if found.skipped else ""
    returns = found.returns
    rows = {
        "environment": f"{dataset.env_id} ({versions})",
        "contacts": contact_rule(dataset.env_id) or "of this MuJoCo",
        "transitions": f"{len(found.rows):,} replayed, {found.skipped:,} skipped{skipped}",
        "rewards": _share(
            found.reward_errors, TOLERANCE, found.rows, "as their actions were clipped"
        ),
        "next states": _share(
            found.state_errors,
            TOLERANCE,
            found.rows,
            "as the file has the next episode's first observation after a terminal",
        ),
        "ends": f"{found.ends_differ:,} differ",
        "returns": f"mean {returns.mean():.1f}, {returns.min():.1f} to {returns.max():.1f} in "
        f"{len(returns):,} episodes",
    }
    for key, value in rows.items():
        out.print(f"{key:<18} {value}")
    found.check(dataset)


@app.command(name="train-policies")
def train_policies(
    environment: Annotated[str, typer.Argument(help="hopper, or any id such as Ant-v5.")],
    folder: Annotated[Path, typer.Option(help="Folder for the snapshots of the training.")],
    algorithm: Annotated[str, typer.Option(help="PPO or A2C, of stable-baselines3.")] = "PPO",
    steps: Annotated[int | None, typer.Option(help="Environment steps of training.")] = None,
    target: Annotated[
        Path | None, typer.Option(help="Path of the two files to write, without ending.")
    ] = None,
) -> None:
    """Run the recipe behind the shipped policy snapshots again (needs obdbench[policies])."""
    from benchmark.datasets.train_policies import pack, recipe_for, train

    recipe = dataclasses.replace(recipe_for(environment), algorithm=algorithm)
    if steps is not None:
        recipe = dataclasses.replace(recipe, steps=steps)
    train(recipe, folder)
    pack(recipe, folder, target or folder / recipe.family)


def _sized(name: str, size: int | None) -> DatasetName:
    if size is not None and "@" in name:
        raise DatasetProblem(f"{name!r} names a size and --size {size} another; give only one.")
    return DatasetName.parse(name if size is None else f"{name}@{size}")


def _reference(random: float | None, expert: float | None, measure: bool) -> AskedReference:
    if measure and random is None and expert is None:
        return "measured"
    if random is None and expert is None:
        return None
    if random is None or expert is None or measure or not random < expert:
        raise DatasetProblem(
            f"--reference-random is {random} and --reference-expert {expert}; give both, with the "
            f"expert's return above the random policy's, or neither, or only --measure-references."
        )
    return ReferenceReturns(random, expert)


def _share(errors: NDArray[np.float64], tolerance: float, rows: NDArray[np.int64], why: str) -> str:
    """Share of errors within the tolerance, and the largest one with its transition.

    Args:
        errors: Errors `[R]`; NaN where a value was not compared.
        tolerance: Largest error that passes.
        rows: Transitions of the errors `[R]`.
        why: Why values were not compared.
    """
    compared = ~np.isnan(errors)
    left_out = int((~compared).sum())
    without = f"; {left_out:,} not compared, {why}" if left_out else ""
    if not compared.any():
        return f"none compared{without}"
    worst = int(np.nanargmax(errors))
    return (
        f"{(errors[compared] <= tolerance).mean():.1%} within {tolerance:g}, largest error "
        f"{errors[worst]:.2g} at transition {rows[worst]:,}{without}"
    )


def _summary(names: list[DatasetName]) -> Table:
    """Table of size and returns of datasets in the store."""
    table = Table(
        Column("dataset", no_wrap=True), "size", "mean return", "sd", "max", "normalized mean"
    )
    for name in names:
        card = dataset_card(name)
        returns = card["returns"]
        normalized = ReferenceReturns(**card["reference_returns"]).normalise(returns["mean"])
        shown = [f"{returns[key]:,.1f}" for key in ("mean", "sd", "max")]
        table.add_row(str(name), f"{card['size']:,}", *shown, f"{normalized:.1f}")
    return table


@app.command()
def describe(
    names: Annotated[list[str] | None, typer.Argument(help="Datasets of the local store.")] = None,
    all_: Annotated[bool, typer.Option("--all", help="Every dataset of the local store.")] = False,
    density: Annotated[
        str, typer.Option(help="Density recipe; knn takes seconds, maf minutes.")
    ] = "knn",
    folder: Annotated[Path, typer.Option(help="For the pictures (PNG).")] = Path("datasets"),
    table: Annotated[
        Path | None, typer.Option(help="Also write the table: .md, .csv or .tex.")
    ] = None,
) -> None:
    """Returns, episode lengths, state coverage and diversity of datasets."""
    from paper_figures.dataset_overview import dataset_overview, dataset_table
    from paper_figures.figure import write_figure

    if all_ == bool(names):
        raise DatasetProblem("Give the names of datasets, or --all for every one in the store.")
    forms = {".md": "markdown", ".csv": "csv", ".tex": "latex"}
    if table is not None and table.suffix not in forms:
        raise DatasetProblem(f"--table {table} ends in none of {', '.join(forms)}.")
    chosen = local_datasets() if all_ else [DatasetName.parse(name) for name in names or ()]
    descriptions = []
    with progress_bar("Describing datasets", "datasets", len(chosen)) as bar:
        for done, name in enumerate(chosen, start=1):
            description = _described(name, density)
            path = folder / f"{flat_name(str(name))}.png"
            write_figure(dataset_overview(description), path)
            err.print(f"{path}")
            descriptions.append(description)
            bar.update(done, str(name))
    written = dataset_table(descriptions)
    out.print(written.rich())
    if table is not None:
        write_atomic(table, getattr(written, forms[table.suffix])())


def _described(name: DatasetName, density: str) -> DatasetDescription:
    from paper_figures.dataset_overview import DatasetDescription

    dataset = load_dataset(name)
    log_density = find_or_fit(dataset, Fit.of(density))
    return DatasetDescription.of(dataset, density, log_density.values)

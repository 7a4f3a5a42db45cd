"""`obdbench teacher`: train, import, list and evaluate teachers."""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from filelock import Timeout
from rich.table import Column, Table

from benchmark.config import BadConfiguration, build
from benchmark.datasets.catalog import dataset_card, load_dataset, local_datasets
from benchmark.datasets.d4rl_facts import d4rl_environment, d4rl_reference, d4rl_statistics
from benchmark.datasets.dataset import Dataset
from benchmark.datasets.source import DatasetName
from benchmark.environments.contacts import contact_rule
from benchmark.locks import FileLock
from benchmark.provenance import checked_device, products_of
from benchmark.spec import LARGEST_SEED
from benchmark.teachers.corl import import_corl
from benchmark.teachers.teacher import (
    TEACHERS,
    NetworkTeacher,
    TeacherProblem,
    evaluate_teacher,
    measured_return,
)
from benchmark.teachers.teacher_files import (
    cached_path,
    find_teacher,
    imported_path,
    load_teacher,
    local_teachers,
    save_teacher,
    shipped_teachers,
)
from obdbench.cli.console import err, out, progress_bar
from obdbench.cli.options import Force, Settings, check_free, parse_settings

app = typer.Typer(help="Teachers: train, import, list, evaluate.", no_args_is_help=True)

Episodes = Annotated[int, typer.Option(help="Episodes of the deterministic policy.", min=1)]
D4RL = "d4rl/"
BESIDE = (".state", ".lock")
"""Endings of the files that a training keeps next to its teacher's; they are removed at its end."""
OR_TARGET = ", or --target for another file"


@app.command()
def train(
    dataset: Annotated[str, typer.Argument(help="A dataset of the local store.")],
    recipe: Annotated[str, typer.Option(help="Registered teacher recipe.")] = "td3_bc",
    seed: Annotated[
        int,
        typer.Option(help="Seed of initialisation and minibatches.", min=0, max=LARGEST_SEED - 1),
    ] = 0,
    steps: Annotated[int | None, typer.Option(help="Gradient steps.")] = None,
    set_: Settings = None,
    target: Annotated[
        Path | None, typer.Option(help="File to write, instead of one in the cache.")
    ] = None,
    episodes: Episodes = 100,
    device: Annotated[
        str, typer.Option(help="Device of the training: cpu, cuda or cuda+tf32 (both untested).")
    ] = "cpu",
    force: Force = False,
) -> None:
    """Train a teacher offline; a killed training goes on from its saved state.

    Runs find it as `--teacher RECIPE`, or `--teacher RECIPE:SEED` for a seed other than 0.
    """
    checked_device(device)
    given: dict[str, Any] = parse_settings(set_)
    if steps is not None and given.setdefault("steps", steps) != steps:
        raise BadConfiguration(
            f"--steps is {steps}, and --set steps {given['steps']!r}; give only one of them."
        )
    train_teacher(
        dataset, recipe, seed, given, target=target, episodes=episodes, device=device, force=force
    )


def train_teacher(
    dataset: str,
    recipe: str,
    seed: int,
    settings: Mapping[str, Any],
    *,
    target: Path | None = None,
    episodes: int = 100,
    device: str = "cpu",
    force: bool = False,
) -> None:
    """Train a teacher on a dataset of the local store, measure it and write its file.

    Where another process trains the same one, this one waits, and then finds it there.

    Args:
        dataset: Name of the dataset.
        recipe: Registered recipe.
        seed: Seed of initialisation and minibatches.
        settings: Settings of the recipe; those left out keep their defaults.
        target: File to write; None for the one in the cache, where runs find it.
        episodes: Episodes of the measurement.
        device: Device of the training, "cpu", "cuda" or "cuda+tf32".
        force: Replace the teacher that is there.

    Raises:
        BadConfiguration: The file exists and `force` is off, a setting is unknown, or the file has
            the name of one that is removed at the end.
    """
    data = load_dataset(DatasetName.parse(dataset))
    algorithm = build(TEACHERS[recipe], settings, f"recipe {recipe}")
    path = target or cached_path(data, recipe, seed)
    if path.suffix in BESIDE:
        raise BadConfiguration(
            f"--target {path} ends in {path.suffix}, as the files do that a training keeps next to "
            f"its teacher until it ends. Name it otherwise, such as "
            f"{path.with_suffix('.safetensors')}."
        )
    check_free(path, force, OR_TARGET)
    with _one_at_a_time(path):
        check_free(path, force, OR_TARGET)  # another process may have trained it meanwhile
        state = path.with_suffix(".state")
        total = getattr(algorithm, "steps", None)  # a recipe of others may count none
        with (
            products_of(device),
            progress_bar(f"Training {recipe} on {dataset}", "steps", total) as bar,
        ):

            def report(step: int, of: int, losses: dict[str, float], score: float | None) -> None:
                shown = ", ".join(f"{name} loss {value:.3g}" for name, value in losses.items())
                note = f"{shown}, normalized return {score:.1f}" if score is not None else shown
                bar.update(step, note, total=of)

            teacher = algorithm.train(
                data,
                seed,
                state=state,
                progress=report,
                evaluate=lambda t: _measured(t, data, 5)["normalized_return"],
                device=str(checked_device(device)),
            )
        measured = _measured(teacher, data, episodes)
        _save(teacher, measured, path)
        state.unlink(missing_ok=True)


@contextlib.contextmanager
def _one_at_a_time(path: Path) -> Iterator[None]:
    """Wait until no other process trains the teacher of a file: they would share its state."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path.with_suffix(".lock"))
    try:
        held = lock.acquire(timeout=0)
    except Timeout:
        err.print(f"Another process trains {path}; waiting until it ends.")
        held = lock.acquire()
    with held:
        yield


@app.command(name="import")
def import_(
    file: Annotated[Path, typer.Argument(help="A CORL-format Cal-QL checkpoint (.pt).")],
    dataset: Annotated[
        str, typer.Option(help="Its D4RL dataset, e.g. d4rl/hopper-medium-replay-v2.")
    ],
    episodes: Episodes = 10,
    target: Annotated[
        Path | None, typer.Option(help="File to write, instead of one in the cache.")
    ] = None,
    force: Force = False,
) -> None:
    """Import a checkpoint of the papers' authors; no code of the file is run.

    Runs on that dataset find it as `--teacher cal_ql_authors`; they count as runs with the papers'
    teacher where the file is the one that the authors published for it.
    """
    short = dataset.removeprefix(D4RL)
    path = target or imported_path(D4RL + short)
    check_free(path, force, OR_TARGET)
    measure_and_save({short: read_teacher(file, short)}, episodes, target)


def read_teacher(file: Path, dataset: str, **facts: str) -> NetworkTeacher:
    """Read a CORL checkpoint and say what was converted; no code of the file is run.

    Args:
        file: The checkpoint.
        dataset: Name that D4RL gives its data, for example "hopper-medium-v2".
        facts: Further facts to keep with the teacher.

    Raises:
        TeacherProblem: It cannot be read, or its authors published it for another dataset.
    """
    mean, std = d4rl_statistics(dataset)
    known = {"dataset": D4RL + dataset, "environment": d4rl_environment(dataset)}
    teacher = import_corl(file, observation_mean=mean, observation_std=std, facts=known | facts)
    _check_published(file, D4RL + dataset, teacher.facts["checkpoint_sha256"])
    if converted := teacher.facts.get("checkpoint_converted"):
        err.print(f"{file}: {converted}.")
    return teacher


def _check_published(file: Path, dataset: str, sha256: str) -> None:
    """Refuse the authors' checkpoint of another dataset, and say where one is none of theirs."""
    from results.author_files import published_teacher  # here: only an import needs it

    published = published_teacher(sha256)
    if published is None:
        err.print(
            f"{file} (sha256 {sha256[:16]}) is none of the checkpoints that the papers' authors "
            f"published: runs with it do not count as runs with the papers' teacher."
        )
    elif published.dataset != dataset:
        raise TeacherProblem(
            f"{file} (sha256 {sha256[:16]}) is the checkpoint that the papers' authors published "
            f"for {published.dataset}, not for {dataset}. Import it with --dataset "
            f"{published.dataset}, or take their file for {dataset}."
        )


def measure_and_save(
    teachers: Mapping[str, NetworkTeacher], episodes: int, target: Path | None = None
) -> None:
    """Measure imported teachers by D4RL dataset, and then write their files.

    Args:
        teachers: Teachers by the name that D4RL gives their data.
        episodes: Episodes of the measurement.
        target: File to write; None for the one in the cache, where runs find it.
    """
    measured = {
        dataset: evaluate_teacher(
            teacher, d4rl_environment(dataset), d4rl_reference(dataset), episodes, seed=0
        )
        for dataset, teacher in teachers.items()
    }
    for dataset, teacher in teachers.items():
        path = target or imported_path(D4RL + dataset)
        _save(teacher, measured[dataset], path)


@app.command(name="list")
def list_teachers() -> None:
    """List shipped, trained and imported teachers."""
    table = Table(
        Column("dataset", no_wrap=True), "recipe", "steps", "normalized return", "where", "file"
    )
    for where, paths in (("shipped", shipped_teachers()), ("local", local_teachers())):
        for path in paths:
            try:
                facts = load_teacher(path).facts
            except TeacherProblem as error:
                table.add_row("", "", "", "", f"broken: {error}", path.name)
                continue
            seed = f":{facts['seed']}" if facts.get("seed") else ""
            steps = facts.get("parameters", {}).get("steps")
            table.add_row(
                facts.get("dataset", ""),
                facts.get("recipe", "") + seed,
                "" if steps is None else f"{steps:,}",
                _score(measured_return(facts)),
                where,
                path.name,
            )
    out.print(table)


@app.command(name="eval")
def evaluate(
    dataset: Annotated[str | None, typer.Argument(help="A dataset of the local store.")] = None,
    all_: Annotated[
        bool,
        typer.Option("--all", help="Evaluate every dataset of the store that has such a teacher."),
    ] = False,
    recipe: Annotated[str, typer.Option(help="Recipe, or recipe:seed.")] = "td3_bc",
    episodes: Episodes = 100,
) -> None:
    """Measure the return of one dataset's teacher, or of all."""
    if all_ == (dataset is not None):
        raise TeacherProblem(
            "Give the name of one dataset, or --all to evaluate every one in the store."
        )
    if dataset is not None:
        data = load_dataset(DatasetName.parse(dataset))
        measured = _measured(find_teacher(data, recipe), data, episodes)
        out.print(_sentence(measured))
        return
    out.print(_evaluate_all(recipe, episodes))


def _evaluate_all(recipe: str, episodes: int) -> Table:
    """The returns of the teachers next to those of the data that they learned from."""
    table = Table(
        Column("dataset", no_wrap=True),
        *(
            "data, mean",
            "data, best episode",
            "teacher",
            "sd",
            "teacher's return",
            "recipe",
            "steps",
        ),
        title=f"Normalized returns; teachers over {episodes} episodes of the deterministic policy",
    )
    names = local_datasets()
    with progress_bar("Evaluating teachers", "datasets", len(names)) as bar:
        for done, name in enumerate(names, start=1):
            data = load_dataset(name)
            try:
                teacher = find_teacher(data, recipe)
            except TeacherProblem:
                bar.update(done, f"{name} has no {recipe} teacher")
                continue
            measured = _measured(teacher, data, episodes)
            table.add_row(*_row(name, data, teacher, measured))
            bar.update(done, str(name))
    return table


def _row(
    name: DatasetName, data: Dataset, teacher: NetworkTeacher, measured: dict[str, float]
) -> tuple[str, ...]:
    returns = dataset_card(name)["returns"]
    span = data.reference.expert - data.reference.random
    steps = teacher.facts.get("parameters", {}).get("steps")
    return (
        str(name),
        f"{data.reference.normalise(returns['mean']):.1f}",
        f"{data.reference.normalise(returns['max']):.1f}",
        f"{measured['normalized_return']:.1f}",
        f"{100 * measured['return_sd'] / span:.1f}",
        f"{measured['return']:.0f}",
        str(teacher.facts.get("recipe", "")),
        "" if steps is None else f"{steps:,}",
    )


def _measured(teacher: NetworkTeacher, data: Dataset, episodes: int) -> dict[str, float]:
    return evaluate_teacher(
        teacher, data.env_id, data.reference, episodes, seed=0, threads=os.cpu_count() or 1
    )


def _save(teacher: NetworkTeacher, measured: dict[str, float], path: Path) -> None:
    rule = contact_rule(teacher.facts.get("environment"))
    facts = {**teacher.facts, "evaluation": measured, **({"contacts": rule} if rule else {})}
    save_teacher(dataclasses.replace(teacher, facts=facts), path)
    err.print(f"{path}: {_sentence(measured)}")


def _score(measured: Mapping[str, float]) -> str:
    if not measured:
        return ""
    return f"{measured['normalized_return']:.1f} ({measured['episodes']:.0f} episodes)"


def _sentence(measured: dict[str, float]) -> str:
    return (
        f"return {measured['return']:.1f} (sd {measured['return_sd']:.1f}), normalized return "
        f"{measured['normalized_return']:.1f} over {measured['episodes']:.0f} episodes"
    )

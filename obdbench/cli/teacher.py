"""`obdbench teacher`: train, import, list and evaluate teachers."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from benchmark.config import build
from benchmark.datasets.dataset import Dataset
from benchmark.datasets.store import DatasetName, load_dataset
from benchmark.errors import did_you_mean
from benchmark.teachers.corl import d4rl_environment, d4rl_reference, d4rl_statistics, import_corl
from benchmark.teachers.evaluation import evaluate_teacher
from benchmark.teachers.recipe import TEACHERS
from benchmark.teachers.store import cached_path, find_teacher, shipped_teachers, teacher_cache
from benchmark.teachers.teacher import NetworkTeacher, TeacherProblem, load_teacher, save_teacher
from obdbench.cli.console import err, out, progress_bar

app = typer.Typer(help="Teachers: train, import, list, evaluate.", no_args_is_help=True)

Episodes = Annotated[int, typer.Option(help="Episodes of the deterministic policy.")]


@app.command()
def train(
    dataset: Annotated[str, typer.Argument(help="A dataset of the local store.")],
    recipe: Annotated[str, typer.Option(help="Registered teacher recipe.")] = "td3_bc",
    seed: Annotated[int, typer.Option(help="Of initialisation and minibatches.")] = 0,
    steps: Annotated[int | None, typer.Option(help="Gradient steps.")] = None,
    target: Annotated[
        Path | None, typer.Option(help="File to write instead of the cache's.")
    ] = None,
    episodes: Episodes = 100,
) -> None:
    """Train a teacher offline; a killed training goes on from its saved state."""
    data = load_dataset(DatasetName.parse(dataset))
    settings = TEACHERS[recipe]
    algorithm = build(settings, {} if steps is None else {"steps": steps}, f"recipe {recipe}")
    path = target or cached_path(data, recipe, seed)
    state = path.with_suffix(".state")
    total = dataclasses.asdict(algorithm)["steps"]
    with progress_bar(f"Training {recipe} on {dataset}", "steps", total) as bar:

        def report(step: int, _: int, losses: dict[str, float], score: float | None) -> None:
            shown = ", ".join(f"{name} loss {value:.3g}" for name, value in losses.items())
            note = f"{shown}, normalized return {score:.1f}" if score is not None else shown
            bar.update(step, note)

        teacher = algorithm.train(
            data,
            seed,
            state=state,
            progress=report,
            evaluate=lambda t: _measured(t, data, 5)["normalized_return"],
        )
    _save_measured(teacher, data, path, episodes)
    state.unlink(missing_ok=True)


@app.command(name="import")
def import_(
    file: Annotated[Path, typer.Argument(help="A CORL-format Cal-QL checkpoint (.pt).")],
    dataset: Annotated[str, typer.Option(help="Its D4RL dataset, e.g. hopper-medium-replay-v2.")],
    episodes: Episodes = 10,
    target: Annotated[
        Path | None, typer.Option(help="File to write instead of the cache's.")
    ] = None,
) -> None:
    """Take in a CORL checkpoint; nothing in the file is executed."""
    mean, std = d4rl_statistics(dataset)
    environment, reference = d4rl_environment(dataset), d4rl_reference(dataset)
    facts = {"recipe": "cal_ql", "dataset": dataset, "environment": environment}
    teacher = import_corl(file, observation_mean=mean, observation_std=std, facts=facts)
    measured = evaluate_teacher(teacher, environment, reference, episodes, seed=0)
    path = target or teacher_cache() / f"{dataset}.cal_ql.safetensors"
    save_teacher(
        dataclasses.replace(teacher, facts={**teacher.facts, "evaluation": measured}), path
    )
    _say(path, measured)


@app.command(name="list")
def list_teachers() -> None:
    """List shipped, trained and imported teachers."""
    table = Table("teacher", "recipe", "dataset", "normalized return", "where")
    local = sorted(teacher_cache().glob("*.safetensors"))
    for where, paths in (("shipped", shipped_teachers()), ("local", local)):
        for path in paths:
            facts = load_teacher(path).facts
            measured = facts.get("evaluation") or {}
            score = measured.get("normalized_return")
            shown = f"{score:.1f} ({measured['episodes']} episodes)" if score is not None else ""
            table.add_row(
                path.stem, facts.get("recipe", ""), facts.get("dataset", ""), shown, where
            )
    out.print(table)


@app.command(name="eval")
def evaluate(
    dataset: Annotated[str, typer.Argument(help="A dataset of the local store.")],
    recipe: Annotated[str, typer.Option(help="Registered teacher recipe.")] = "td3_bc",
    episodes: Episodes = 100,
) -> None:
    """Measure the return of a dataset's teacher."""
    if recipe not in TEACHERS:
        raise TeacherProblem(f"No teacher recipe {recipe!r}. {did_you_mean(recipe, TEACHERS)}")
    data = load_dataset(DatasetName.parse(dataset))
    teacher = find_teacher(data, recipe)
    measured = _measured(teacher, data, episodes)
    out.print(_sentence(measured), highlight=False)


def _measured(teacher: NetworkTeacher, data: Dataset, episodes: int) -> dict[str, float]:
    return evaluate_teacher(teacher, data.env_id, data.reference, episodes, seed=0)


def _save_measured(teacher: NetworkTeacher, data: Dataset, path: Path, episodes: int) -> None:
    measured = _measured(teacher, data, episodes)
    facts = {**teacher.facts, "evaluation": measured}
    save_teacher(dataclasses.replace(teacher, facts=facts), path)
    _say(path, measured)


def _say(path: Path, measured: dict[str, float]) -> None:
    err.print(f"{path}: {_sentence(measured)}", highlight=False)


def _sentence(measured: dict[str, float]) -> str:
    return (
        f"return {measured['return']:.1f} (sd {measured['return_sd']:.1f}), normalized return "
        f"{measured['normalized_return']:.1f} over {measured['episodes']:.0f} episodes"
    )

"""`obdbench density`: fit, import and list log densities of datasets."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from benchmark.datasets.catalog import load_dataset, local_datasets
from benchmark.datasets.source import DatasetName
from benchmark.density.density import DensityProblem, effective_support
from benchmark.density.log_densities import (
    IMPORTED,
    Fit,
    LogDensity,
    find_or_fit,
    import_log_density,
    stored_densities,
)
from benchmark.spec import LARGEST_SEED
from obdbench.cli.console import err, out, progress_bar
from obdbench.cli.options import Force, check_free

app = typer.Typer(help="Log densities of states: fit, import, list.", no_args_is_help=True)


@app.command()
def fit(
    dataset: Annotated[str, typer.Argument(help="A dataset of the local store.")],
    recipe: Annotated[str, typer.Option(help="Registered density recipe.")] = "maf",
    seed: Annotated[
        int,
        typer.Option(
            help="Seed of the fit and of the held-out episodes.", min=0, max=LARGEST_SEED - 1
        ),
    ] = 0,
    epochs: Annotated[
        int | None,
        typer.Option(help="Passes over the states (maf). Runs use the recipe's default.", min=1),
    ] = None,
) -> None:
    """Fit a density, or check the stored one; a killed fit goes on from its last epoch."""
    data = load_dataset(DatasetName.parse(dataset))
    chosen = Fit.of(recipe, {} if epochs is None else {"epochs": epochs}, seed)
    total = chosen.parameters.get("epochs", 1)
    with progress_bar(f"Fitting {recipe} on {dataset}", "epochs", total) as bar:

        def report(epoch: int, _: int, held_out: float | None) -> None:
            bar.update(epoch, "" if held_out is None else f"held-out {held_out:.3f} nats")

        density = find_or_fit(data, chosen, report)
        bar.update(total)
    _say(chosen.path(data), density)


@app.command(name="import")
def import_(
    file: Annotated[
        Path, typer.Argument(help="A numpy array (.npy) with one value per transition.")
    ],
    dataset: Annotated[str, typer.Option(help="The dataset whose states they belong to.")],
    force: Force = False,
) -> None:
    """Import log densities made elsewhere; runs use them with the density recipe "imported"."""
    data = load_dataset(DatasetName.parse(dataset))
    path = Fit.of(IMPORTED).path(data)
    check_free(path, force)
    _say(path, import_log_density(file, data))


@app.command(name="list")
def list_densities() -> None:
    """List the log densities in the local store."""
    table = Table(
        "dataset", "recipe", "settings", "held-out nats", "fitted-on nats", "not finite", "seconds"
    )
    for name, _, facts in stored_densities(local_datasets()):
        if isinstance(facts, DensityProblem):
            table.add_row(name, "", f"broken: {facts}")
            continue
        settings = ", ".join(f"{k}={v}" for k, v in facts["parameters"].items())
        table.add_row(
            name,
            facts["recipe"],
            f"{settings}{', ' if settings else ''}seed={facts['seed']}",
            _likelihood(facts["held_out"]),
            _likelihood(facts["train"]),
            str(facts["not_finite"]["count"]),
            "" if facts["seconds"] is None else f"{facts['seconds']:.0f}",
        )
    out.print(table)


def _likelihood(facts: dict[str, Any] | None) -> str:
    """The mean with its standard error over episodes, for example "3.214 ± 0.050"."""
    if facts is None:
        return ""
    error = facts["standard_error"]
    return f"{facts['mean']:.3f}" + ("" if error is None else f" ± {error:.3f}")


def _say(path: Path, density: LogDensity) -> None:
    values, facts = density.values, density.facts
    bad = facts["not_finite"]
    parts = [f"{path}: log density {values.min():.1f} to {values.max():.1f} nats"]
    if facts["held_out"]:
        fitted = facts["train"]["mean"]
        parts.append(f"held-out {_likelihood(facts['held_out'])}, fitted-on {fitted:.3f}")
    support = effective_support(values, 0.25, floor_quantile=0.01)
    parts.append(f"effective support of p^-0.25, floored at 1 %, {support:.3f}")
    if bad["count"]:
        parts.append(f"{bad['count']} values were not finite ({bad['rule']})")
    err.print("; ".join(parts))

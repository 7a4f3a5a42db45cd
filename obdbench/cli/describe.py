"""`obdbench data describe`: what datasets look like, in figures and numbers."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from benchmark.datasets.catalog import load_dataset, local_datasets
from benchmark.datasets.dataset import DatasetProblem
from benchmark.datasets.source import DatasetName
from benchmark.density.log_densities import Fit, find_or_fit
from benchmark.files import write_atomic
from obdbench.cli.console import err, out, progress_bar
from paper_figures.dataset_overview import DatasetDescription, dataset_overview, dataset_table
from paper_figures.figure import write_figure


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
            path = folder / f"{str(name).replace('/', '-')}.png"
            write_figure(dataset_overview(description), path)
            err.print(f"{path}", highlight=False)
            descriptions.append(description)
            bar.update(done, str(name))
    written = dataset_table(descriptions)
    out.print(written.rich())
    if table is not None:
        write_atomic(table, getattr(written, forms[table.suffix])())


def _described(name: DatasetName, density: str) -> DatasetDescription:
    dataset = load_dataset(name)
    log_density = find_or_fit(dataset, Fit.of(density))
    return DatasetDescription.of(dataset, density, log_density.values)

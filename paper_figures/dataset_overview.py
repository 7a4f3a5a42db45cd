"""Overview of a dataset: returns, episode lengths, and where its states are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from benchmark.datasets.dataset import Dataset
from benchmark.datasets.diversity import (
    FLOOR_QUANTILE,
    NEIGHBOURS,
    Diversity,
    PrincipalComponents,
    diversity,
    normalised_states,
)
from benchmark.seeds import numpy_generator
from paper_figures.figure import SETTINGS, canvas, density_cloud, finish, open_frame
from paper_figures.palette import BLUE
from paper_figures.table import Cell, Table

SHOWN_STATES = 6_000
COLOUR_QUANTILES = (0.01, 0.99)


@dataclass(frozen=True)
class DatasetDescription:
    """A dataset, the log density of its states `[M]` by some recipe, and how diverse they are."""

    dataset: Dataset
    density: str
    log_density: Tensor
    diversity: Diversity

    @classmethod
    def of(cls, dataset: Dataset, density: str, log_density: Tensor) -> DatasetDescription:
        """Measure the diversity of a dataset."""
        return cls(dataset, density, log_density, diversity(dataset, log_density))


def dataset_overview(description: DatasetDescription) -> Figure:
    """Draw histograms of returns and episode lengths, and the states' two first components.

    The states are a random sample of 6,000, coloured by log density between its 1st and 99th
    percentile; dense states are drawn last.
    """
    dataset = description.dataset
    with mpl.rc_context(SETTINGS):
        figure = canvas(9.6, 2.8)
        returns, lengths, coverage = figure.subplots(1, 3, width_ratios=(1, 1, 1.25))
        _histogram(returns, dataset.episode_returns, "return of an episode")
        upper = returns.secondary_xaxis(
            "top", functions=(dataset.reference.normalise, _denormalise(dataset))
        )
        upper.set_xlabel("normalized return")
        _histogram(lengths, dataset.lengths, "steps of an episode")
        _coverage(coverage, description)
        return finish(
            figure,
            f"{dataset.name}: returns, episode lengths and states",
            f"{len(dataset):,} transitions, {len(dataset.lengths):,} episodes, {dataset.env_id}. "
            f"States: a random sample of at most {SHOWN_STATES:,}, dense ones drawn last.",
        )


def dataset_table(descriptions: Sequence[DatasetDescription]) -> Table:
    """Tabulate size, returns and diversity, one row per dataset."""
    columns = (
        "dataset", "transitions", "episodes", "return", "normalized", "best",
        "distance", "entropy", "support",
    )  # fmt: skip
    densities = sorted({description.density for description in descriptions})
    return Table(
        columns=columns,
        groups=(tuple(_row(description) for description in descriptions),),
        caption=(
            "Return: mean (sd) over episodes; normalized and best: the mean and the best episode's "
            "normalized return. Diversity of normalised states: distance, mean Euclidean distance "
            "between two states; entropy in nats by the distance to the "
            f"{NEIGHBOURS}th neighbour; support, effective sample size of weights 1/p as a "
            f"fraction of the states, log p by {', '.join(densities)} floored at its "
            f"{FLOOR_QUANTILE:.0%} quantile."
        ),
        alignment="l" + "r" * (len(columns) - 1),
        data=pd.DataFrame([_numbers(description) for description in descriptions]),
    )


def _row(description: DatasetDescription) -> tuple[Cell, ...]:
    n = _numbers(description)
    return (
        Cell(n["dataset"]),
        Cell(f"{n['transitions']:,}"),
        Cell(f"{n['episodes']:,}"),
        Cell(f"{n['return']:.0f}", f"({n['return_sd']:.0f})"),
        Cell(f"{n['normalized_return']:.1f}"),
        Cell(f"{n['best_normalized_return']:.1f}"),
        Cell(f"{n['pairwise_distance']:.2f}"),
        Cell(f"{n['entropy']:.1f}"),
        Cell(f"{n['support']:.3f}"),
    )


def _numbers(description: DatasetDescription) -> dict[str, Any]:
    dataset = description.dataset
    returns, normalise = dataset.episode_returns, dataset.reference.normalise
    return {
        "dataset": dataset.name,
        "transitions": len(dataset),
        "episodes": len(dataset.lengths),
        "return": float(returns.mean()),
        "return_sd": float(returns.std()),
        "normalized_return": float(normalise(returns.mean())),
        "best_normalized_return": float(normalise(returns.max())),
        "pairwise_distance": description.diversity.pairwise_distance,
        "entropy": description.diversity.entropy,
        "support": description.diversity.support,
        "density": description.density,
    }


def _histogram(axes: Axes, values: Any, label: str) -> None:
    axes.hist(values, bins=40, color=BLUE)
    axes.set(xlabel=label, ylabel="episodes")
    open_frame(axes)


def _coverage(axes: Axes, description: DatasetDescription) -> None:
    dataset = description.dataset
    generator = numpy_generator(dataset=dataset.name, purpose="coverage picture")
    rows = generator.permutation(len(dataset))[:SHOWN_STATES]
    states = normalised_states(dataset, rows)
    plane = PrincipalComponents.of(states)
    points, shares = plane.at(states), plane.shares
    log_density = description.log_density.numpy()
    low, high = np.quantile(log_density, COLOUR_QUANTILES)
    density_cloud(
        axes, points, log_density[rows], (low, high), size=2,
        label=f"log density ({description.density}), nats",
    )  # fmt: skip
    axes.set_xlabel(f"first component ({shares[0]:.0%} of variance)")
    axes.set_ylabel(f"second component ({shares[1]:.0%})")
    open_frame(axes)


def _denormalise(dataset: Dataset) -> Any:
    span = dataset.reference.expert - dataset.reference.random
    return lambda normalized: dataset.reference.random + normalized * span / 100

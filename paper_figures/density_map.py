"""The density that SDW-OBD weights with, and where synthetic states lie (arXiv 2512.06692)."""

from __future__ import annotations

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from paper_figures.figure import SETTINGS, canvas, density_cloud, quiet, require_rows

MARKERS = {"av_pbc": ("o", "#d55e00"), "sdw_obd": ("^", "#cc79a7")}
ROW_INCHES = 2.5


def state_density(measured: pd.DataFrame) -> Figure:
    """Draw every dataset's states by log p, the synthetic ones, and a histogram of log p.

    Args:
        measured: The study `state_density`'s rows.

    Raises:
        FigureError: The study has no rows.
    """
    require_rows(measured, "state_density")
    datasets = sorted(set(measured["item"]))
    with mpl.rc_context(SETTINGS):
        figure = canvas(8.6, ROW_INCHES * len(datasets) + 0.4)
        for row, dataset in enumerate(datasets):
            rows = measured[measured["item"] == dataset]
            facts = rows[rows["whose"] == "facts"].iloc[0]
            states = rows[rows["whose"] == "dataset"]
            first, second, third = (
                figure.add_subplot(len(datasets), 3, 3 * row + place) for place in (1, 2, 3)
            )
            _colored(first, states, facts, dataset)
            _synthetic(second, states, rows)
            _histogram(third, states, facts)
        figure.suptitle(
            f"{len(states):,} states of each dataset on their first two principal components; "
            f"synthetic states of one seed",
            fontsize=8,
        )
    return figure


def _colored(axes: Axes, states: pd.DataFrame, facts: pd.Series, dataset: str) -> None:
    log_density = states["log_density"].to_numpy()
    density_cloud(
        axes, states[["x", "y"]].to_numpy(), log_density,
        (facts["floor"], np.quantile(log_density, 0.99)), size=3, label="log p (nats)",
    )  # fmt: skip
    axes.set_title(f"{dataset}: {facts['explained']:.0%} of variance", fontsize=8)
    axes.set(xlabel="first component", ylabel="second component")
    quiet(axes)


def _synthetic(axes: Axes, states: pd.DataFrame, rows: pd.DataFrame) -> None:
    axes.scatter(states["x"], states["y"], s=2, color="#c8c8c8", linewidths=0, rasterized=True)
    for whose, (marker, color) in MARKERS.items():
        mine = rows[rows["whose"] == whose]
        axes.scatter(
            mine["x"], mine["y"], s=11, marker=marker, facecolors="none", edgecolors=color,
            linewidths=0.8, label=f"{whose} ({len(mine)})",
        )  # fmt: skip
    axes.legend(frameon=False, fontsize=6.5)
    axes.set(xlabel="first component", ylabel="second component")
    axes.set_title("synthetic states", fontsize=8)
    quiet(axes)


def _histogram(axes: Axes, states: pd.DataFrame, facts: pd.Series) -> None:
    values = states["log_density"].to_numpy()
    low = min(facts["floor"], float(np.quantile(values, 0.005)))
    axes.hist(values.clip(low), bins=40, color="#0072b2", alpha=0.8)
    axes.axvline(facts["floor"], color="black", linewidth=1, linestyle="--")
    axes.set(xlabel="log p (nats), floored at the dashed line", ylabel="states")
    axes.set_title(f"effective support of the weights {facts['support']:.0%}", fontsize=8)
    quiet(axes)

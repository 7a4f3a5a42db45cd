"""Heat maps of HaDES's sets under students they were not evolved for (arXiv 2406.15042)."""

from __future__ import annotations

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from paper_figures import caption
from paper_figures.figure import SETTINGS, canvas, require_rows
from results.statistics import LEVEL, mean

GRIDS = {"architecture": ("depth", "width"), "training": ("learning_rate", "steps")}
NAMES = {"learning_rate": "learning rate", "steps": "gradient steps"}
PANEL_INCHES = (3.6, 2.3)


def transfer(measured: pd.DataFrame, played: str, *, seed: int = 0) -> Figure:
    """Draw two heat maps per environment: mean return over sets, with its interval.

    Args:
        measured: The study `transfer`'s rows.
        played: Who played how many episodes on each set, in words.
        seed: Seed of the bootstrap's random draws.

    Raises:
        FigureError: The study has no rows.
    """
    require_rows(measured, "transfer")
    kinds = sorted(set(zip(measured["environment"], measured["pairs"], strict=True)))
    with mpl.rc_context(SETTINGS):
        figure = canvas(2 * PANEL_INCHES[0], PANEL_INCHES[1] * len(kinds) + 0.4)
        for row, (environment, pairs) in enumerate(kinds):
            rows = measured[(measured["environment"] == environment) & (measured["pairs"] == pairs)]
            students = rows.groupby(["grid", *GRIDS["architecture"], *GRIDS["training"]])
            best = float(students["return"].mean().max())
            for column, grid in enumerate(GRIDS):
                axes = figure.add_subplot(len(kinds), 2, 2 * row + column + 1)
                _heat_map(axes, rows[rows["grid"] == grid], *GRIDS[grid], best, seed)
                axes.set_title(
                    f"{environment}, {pairs} pairs, {rows['item'].nunique()} sets", fontsize=8
                )
        figure.suptitle(
            f"Mean return over sets ({played} each) with {caption.percent(LEVEL)} bootstrap "
            f"interval\nFramed: the student that the sets were evolved for",
            fontsize=8,
        )
    return figure


def _heat_map(
    axes: Axes, rows: pd.DataFrame, down: str, across: str, best: float, seed: int
) -> None:
    downs, acrosses = sorted(set(rows[down])), sorted(set(rows[across]))
    values = np.full((len(downs), len(acrosses)), np.nan)
    for (y, x), cell in rows.groupby([down, across]):
        i, j = downs.index(y), acrosses.index(x)
        found = mean(list(cell["return"]), seed=seed)
        values[i, j] = found.value
        color = "white" if found.value < 0.55 * best else "black"
        axes.text(j, i - 0.12, f"{found.value:.0f}", ha="center", va="center", color=color)
        if found.has_interval:
            axes.text(
                j, i + 0.26, f"{found.low:.0f} to {found.high:.0f}", ha="center", va="center",
                color=color, fontsize=5.5,
            )  # fmt: skip
        if bool(cell["home"].any()):
            frame = Rectangle((j - 0.46, i - 0.46), 0.92, 0.92, fill=False, lw=1.6, color="#d55e00")
            axes.add_patch(frame)
    axes.imshow(values, cmap="viridis", vmin=0, vmax=best, aspect="auto")
    axes.set_xticks(range(len(acrosses)), [f"{value:g}" for value in acrosses])
    axes.set_yticks(range(len(downs)), [f"{value:g}" for value in downs])
    axes.set(xlabel=NAMES.get(across, across), ylabel=NAMES.get(down, down))

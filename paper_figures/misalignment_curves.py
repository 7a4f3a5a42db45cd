"""Which states are better to learn from, at which training loss (SDW-OBD, arXiv 2512.06692)."""

from __future__ import annotations

import matplotlib as mpl
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FormatStrFormatter, LogLocator, NullFormatter

from paper_figures import caption
from paper_figures.figure import SETTINGS, band, canvas, quiet, require_rows
from results.statistics import LEVEL, mean

PANELS = {
    "normalized_return": "normalized return",
    "pivotal_error": "pivotal error",
    "surrounding_error": "surrounding error",
}
COLORS = {"medium-expert": "#0072b2", "medium-replay": "#d55e00"}
MARKERS = {"medium-expert": "o", "medium-replay": "s"}
PANEL_INCHES = (2.5, 2.1)


def misalignment(measured: pd.DataFrame, played: str, *, seed: int = 0) -> Figure:
    """Draw return, pivotal and surrounding error against the training loss of every environment.

    Training goes from left to right: the loss falls. A point is the mean over policies.

    Args:
        measured: The study `misalignment`'s rows.
        played: How many policies played how many episodes at each stage, in words.
        seed: Seed of the bootstrap's random draws.

    Raises:
        FigureError: The study has no rows.
    """
    require_rows(measured, "misalignment")
    environments = sorted(set(measured["environment"]))
    with mpl.rc_context(SETTINGS):
        figure = canvas(PANEL_INCHES[0] * len(PANELS), PANEL_INCHES[1] * len(environments) + 0.5)
        for row, environment in enumerate(environments):
            rows = measured[measured["environment"] == environment]
            for column, (quantity, name) in enumerate(PANELS.items()):
                axes = figure.add_subplot(
                    len(environments), len(PANELS), row * len(PANELS) + column + 1
                )
                for kind, mine in rows.groupby("kind", sort=True):
                    _line(axes, mine, str(kind), quantity, seed)
                _describe(axes, environment, name, quantity)
                if row == column == 0:
                    axes.legend(frameon=False, fontsize=7)
        figure.suptitle(
            f"States of quality (medium-expert) and of diversity (medium-replay), labelled by one "
            f"teacher; training goes to the right\nMean over policies ({played}) with "
            f"{caption.percent(LEVEL)} bootstrap band; errors are mean squares in the unit box",
            fontsize=8,
        )
    return figure


def _line(axes: Axes, rows: pd.DataFrame, kind: str, quantity: str, seed: int) -> None:
    losses, found = [], []
    for _, stage in rows.groupby("steps", sort=True):
        losses.append(float(stage["training_loss"].mean()))
        found.append(mean(list(stage[quantity]), seed=seed))
    look = {"marker": MARKERS.get(kind, "^"), "markersize": 2.5, "linewidth": 1.1}
    band(axes, losses, found, COLORS.get(kind, "black"), label=kind, **look)


def _describe(axes: Axes, environment: str, name: str, quantity: str) -> None:
    axes.set_xscale("log")
    axes.invert_xaxis()
    if quantity != "normalized_return":
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 3)))
        axes.yaxis.set_major_formatter(FormatStrFormatter("%g"))
        axes.yaxis.set_minor_formatter(NullFormatter())
    axes.set(xlabel="training loss", ylabel=name)
    axes.set_title(environment, fontsize=8)
    quiet(axes)

"""Normalized return against outer step or number of synthetic pairs, one panel per dataset.

Against outer step, a method with several checkpoints is a line with its confidence band, over the
steps that all of its runs have; where runs end at different steps, their last points are drawn at
the mean of those. One with a single checkpoint (random, teacher, bc_whole) is a horizontal line, as
it does not depend on the outer step. Where there are too many methods the best are drawn, and the
figure says so.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import matplotlib as mpl
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from paper_figures import caption
from paper_figures.figure import SETTINGS, FigureError, band, canvas, quiet
from results.labels import natural_order
from results.statistics import LEVEL, Estimate, mean

COLUMNS = 3
MOST_LINES = 24
PANEL_INCHES = (3.3, 2.5)
# At 8 points: one line of the legend, an entry without its text, and a character of its text.
LEGEND_ROW_INCHES = 0.17
LEGEND_ENTRY_INCHES = 0.65
CHARACTER_INCHES = 0.068

# References are grey: colour belongs to the methods under comparison.
REFERENCE_GREYS = ((0.15, 0.15, 0.15), (0.5, 0.5, 0.5))
LINE_STYLES = ("-", "--", "-.", (0, (1, 1)), (0, (5, 1, 1, 1, 1, 1)))
MARKERS = ("o", "s", "^", "D", "v", "P", "X")


@dataclass(frozen=True)
class Style:
    """Look of one method in every panel: colour, dashes and marker tell it apart.

    ``marker`` is empty for a method that is a horizontal line in all panels.
    """

    color: tuple[float, float, float]
    linestyle: Any
    marker: str


def convergence(curves: pd.DataFrame, *, seed: int = 0, level: float = LEVEL) -> Figure:
    """Draw normalized return against outer step.

    Args:
        curves: What `results.curves_frame` gives. Failed runs are left out; a panel's title says
            how many.
        seed: Seed of the bootstrap's random draws.
        level: Level of the pointwise confidence bands over seeds.

    Raises:
        FigureError: No complete run has a checkpoint.
    """
    complete = curves[curves["status"] == "complete"]
    if complete.empty:
        raise FigureError(
            f"None of the {curves['run_id'].nunique()} runs given is complete; expected at least "
            "one complete run with checkpoints. Look at the failed records' errors first."
        )
    with mpl.rc_context(SETTINGS):
        return _draw(curves, complete, seed=seed, level=level)


def sizes(runs: pd.DataFrame, *, seed: int = 0) -> Figure:
    """Draw normalized return against the number of synthetic pairs (OBD, Table 5).

    Args:
        runs: What `results.runs_frame` gives.
        seed: Seed of the bootstrap's random draws.

    Raises:
        FigureError: No method has complete runs at two sizes.
    """
    complete = runs[(runs["status"] == "complete") & runs["synthetic_size"].notna()]
    several = complete.groupby("method")["synthetic_size"].nunique()
    methods = sorted(several[several > 1].index)
    if not methods:
        raise FigureError("No method has complete runs at two synthetic sizes or more.")
    complete = complete[complete["method"].isin(methods)]
    mixed = complete.groupby(["method", "dataset", "synthetic_size"])["cell_id"].nunique()
    if (mixed > 1).any():
        method, dataset, size = mixed[mixed > 1].index[0]
        raise FigureError(
            f"{method} on {dataset} has several cells of {size} pairs, which differ in other "
            f"settings; a curve over sizes needs one. Give it a sweep of one student and protocol."
        )
    failed = runs[(runs["status"] != "complete") & runs["method"].isin(methods)]
    datasets = sorted(set(complete["dataset"]))
    with mpl.rc_context(SETTINGS):
        figure = canvas(PANEL_INCHES[0] * len(datasets) + 1.2, PANEL_INCHES[1] + 0.6)
        palette = sns.color_palette("colorblind", len(methods))
        for place, dataset in enumerate(datasets, start=1):
            axes = figure.add_subplot(1, len(datasets), place)
            for method, color in zip(methods, palette, strict=True):
                mine = complete[(complete["method"] == method) & (complete["dataset"] == dataset)]
                found = {
                    int(size): mean(list(rows["normalized_return"]), seed=seed)
                    for size, rows in mine.groupby("synthetic_size", sort=True)
                }
                band(axes, list(found), list(found.values()), color, marker="o", markersize=3,
                     label=method)  # fmt: skip
            axes.set_xscale("log", base=2)
            ticks = sorted({int(size) for size in complete["synthetic_size"]})
            axes.set_xticks(ticks, [str(size) for size in ticks])
            axes.set(xlabel="synthetic pairs", ylabel="normalized return", title=dataset)
            quiet(axes)
        axes.legend(frameon=False)
        seeds = complete.groupby(["dataset", "label"])["seed"].nunique()
        left_out = f"; {len(failed)} failed runs left out" if len(failed) else ""
        figure.suptitle(
            f"Mean over {caption.seeds(seeds)} with {caption.percent(LEVEL)} band{left_out}",
            fontsize=8,
        )
    return figure


def _draw(curves: pd.DataFrame, complete: pd.DataFrame, *, seed: int, level: float) -> Figure:
    datasets = sorted(set(curves["dataset"]))
    complete, left_out = _best(complete)
    styles = _styles(complete)
    figure, panels = _canvas(len(datasets), list(styles))
    for dataset, axes in zip(datasets, panels, strict=True):
        shown = complete[complete["dataset"] == dataset]
        for label, runs in shown.groupby("label", sort=True):
            _line(axes, runs, styles[str(label)], seed=seed, level=level)
        if shown.empty:
            axes.set(xticks=[], yticks=[])
        axes.set_title(_title(curves[curves["dataset"] == dataset]), fontsize=8.5)
        axes.set(xlabel="outer step", ylabel="normalized return")
        axes.margins(x=0.02)
        quiet(axes)
    figure.suptitle(
        f"{caption.protocols(complete['protocol_detail'])}\n"
        f"Mean over seeds with {caption.percent(level)} band"
        + (f"; {left_out} methods of lower mean are not drawn" if left_out else ""),
        fontsize=8,
    )
    _legend(figure, styles)
    return figure


def _best(complete: pd.DataFrame) -> tuple[pd.DataFrame, int]:
    """Select the rows of the labels that are drawn, and count the other labels.

    References are kept, and the methods with the highest mean over last checkpoints.
    """
    last = complete.sort_values("outer_step").groupby(["label", "reference", "run_id"]).last()
    means = last["normalized_return"].groupby(["label", "reference"]).mean().reset_index()
    methods = means[~means["reference"]].sort_values(
        ["normalized_return", "label"], ascending=[False, True]
    )
    dropped = set(methods["label"].iloc[MOST_LINES:])
    return complete[~complete["label"].isin(dropped)], len(dropped)


def _canvas(panels: int, labels: list[str]) -> tuple[Figure, list[Axes]]:
    columns = 2 if panels == 4 else min(panels, COLUMNS)
    rows = math.ceil(panels / columns)
    # A single panel is widened so that the headline and the legend fit.
    width = max(columns * PANEL_INCHES[0], 4.8)
    legend_rows = math.ceil(len(labels) / _legend_columns(width, labels))
    legend_rows *= max(_wrapped(label, width).count("\n") + 1 for label in labels)
    height = rows * PANEL_INCHES[1] + 0.5 + LEGEND_ROW_INCHES * legend_rows
    figure = canvas(width, height)
    return figure, [figure.add_subplot(rows, columns, i + 1) for i in range(panels)]


def _styles(complete: pd.DataFrame) -> dict[str, Style]:
    """Map each label to its style, methods first, in natural order."""
    reference = complete["reference"]
    methods = sorted(set(complete.loc[~reference, "label"]), key=natural_order)
    references = sorted(set(complete.loc[reference, "label"]), key=natural_order)
    several = complete.groupby(["dataset", "label"])["outer_step"].nunique() > 1
    curved = {label for (_, label), is_curve in several.items() if is_curve}
    palette = sns.color_palette("colorblind", 10)
    colors = [palette[i % len(palette)] for i in range(len(methods))]
    colors += [REFERENCE_GREYS[i % len(REFERENCE_GREYS)] for i in range(len(references))]
    return {
        label: Style(
            color,
            LINE_STYLES[i % len(LINE_STYLES)],
            MARKERS[i % len(MARKERS)] if label in curved else "",
        )
        for i, (label, color) in enumerate(zip(methods + references, colors, strict=True))
    }


def _line(axes: Axes, runs: pd.DataFrame, style: Style, *, seed: int, level: float) -> None:
    seeds = runs["run_id"].nunique()
    points = {
        float(step): mean(list(rows["normalized_return"]), seed=seed, level=level)
        for step, rows in runs.groupby(_steps(runs), sort=True)
        if len(rows) == seeds
    }
    if len(points) == 1:
        _horizontal(axes, next(iter(points.values())), style)
    else:
        band(axes, list(points), list(points.values()), **asdict(style), markersize=3)


def _steps(runs: pd.DataFrame) -> pd.Series:
    """Outer steps at which checkpoints are drawn: a run's last one at the mean of all last ones.

    Runs with a budget end at different steps; drawn there, a point would show a single seed.
    """
    steps = runs["outer_step"].astype("float64")
    last = steps.groupby(runs["run_id"]).transform("max")
    end = float(last.groupby(runs["run_id"]).first().mean())
    before = steps.where(steps < end)  # not every run has a later step
    return before.where(steps < last, end)


def _horizontal(axes: Axes, point: Estimate, style: Style) -> None:
    axes.axhline(point.value, color=style.color, linestyle=style.linestyle, linewidth=1.2)
    if point.has_interval:
        axes.axhspan(point.low, point.high, color=style.color, alpha=0.1, linewidth=0)


def _title(runs: pd.DataFrame) -> str:
    """Name the dataset, the seeds behind its lines, and what was left out."""
    seeds = runs[runs["status"] == "complete"].groupby("label")["seed"].nunique()
    text = f"{runs['dataset'].iloc[0]} ({caption.seeds(seeds)})"
    failed = runs[runs["status"] != "complete"]["run_id"].nunique()
    return f"{text}\n{failed} failed run{'s' if failed > 1 else ''} left out" if failed else text


def _legend(figure: Figure, styles: Mapping[str, Style]) -> None:
    width = float(figure.get_size_inches()[0])
    handles = [
        Line2D([], [], **asdict(style), markersize=3, linewidth=1.2, label=_wrapped(label, width))
        for label, style in styles.items()
    ]
    columns = _legend_columns(width, list(styles))
    figure.legend(handles=handles, loc="outside lower center", ncols=columns, frameon=False)


def _legend_columns(width: float, labels: list[str]) -> int:
    """Number of entries as wide as the longest that fit next to each other, one to four."""
    longest = max(len(line) for label in labels for line in _wrapped(label, width).split("\n"))
    fit = int(width / (LEGEND_ENTRY_INCHES + CHARACTER_INCHES * longest))
    return min(max(fit, 1), 4, len(labels))


def _wrapped(label: str, width: float) -> str:
    """Break the label into lines that fit a figure of this width in inches."""
    return textwrap.fill(label, int((width - LEGEND_ENTRY_INCHES) / CHARACTER_INCHES))

"""Methods across datasets: aggregates with intervals, profiles, improvement, ranks, cost."""

from __future__ import annotations

import itertools
import textwrap

import matplotlib as mpl
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from paper_figures import caption
from paper_figures.curves import MARKERS
from paper_figures.figure import SETTINGS, FigureError, band, canvas, quiet
from results.aggregate import CommonScores, common_scores, rank_probabilities
from results.statistics import (
    LEVEL,
    iqm_over_runs,
    mean_over_tasks,
    performance_profile,
    probability_of_improvement,
    stratified,
)

ROW_INCHES = 0.21
THRESHOLDS = 60
MOST_METHODS = 24
PROFILES = 6
PALETTE = sns.color_palette("colorblind", 10)


def aggregate(runs: pd.DataFrame, *, seed: int = 0) -> Figure:
    """Draw interquartile mean and mean over datasets, with intervals over the seeds of each.

    Args:
        runs: What `results.runs_frame` gives.
        seed: Seed of the bootstrap's random draws.

    Raises:
        FigureError: No method has runs on every dataset.
    """
    common = _common(runs)
    labels, left = _best(common)
    with mpl.rc_context(SETTINGS):
        figure = canvas(6.5, 1.2 + ROW_INCHES * len(labels))
        for place, (name, statistic) in enumerate(
            (("IQM", iqm_over_runs), ("mean", mean_over_tasks)), start=1
        ):
            axes = figure.add_subplot(1, 2, place)
            for row, label in enumerate(labels):
                found = stratified(common.scores[label], statistic, seed=seed)
                if found.has_interval:
                    axes.plot(
                        [found.low, found.high], [row, row], color=_color(common, label), lw=4,
                        solid_capstyle="butt",  # a bar ends where its interval does
                    )  # fmt: skip
                axes.plot(found.value, row, "|", color="black", markersize=8)
            axes.set_yticks(range(len(labels)), labels if place == 1 else [""] * len(labels))
            axes.set_xlabel(f"{name} of normalized return")
            axes.set_ylim(len(labels) - 0.5, -0.5)
            quiet(axes)
        figure.suptitle(_headline(common, left), fontsize=8)
    return figure


def profiles(runs: pd.DataFrame, *, seed: int = 0) -> Figure:
    """Draw the fraction of runs above every score, with pointwise bands (Agarwal et al. 2021).

    Args and errors as `aggregate`; references are left out.
    """
    common = _common(runs)
    labels, left = _best(common, PROFILES, references=False)  # more bands hide each other
    every = [s for label in labels for task in common.scores[label].values() for s in task]
    taus = np.linspace(min(every) - 1, max(every) + 1, THRESHOLDS)
    with mpl.rc_context(SETTINGS):
        figure = canvas(6.0, 3.4)
        axes = figure.add_subplot()
        for label, color in zip(labels, PALETTE, strict=False):
            found = performance_profile(common.scores[label], list(taus), seed=seed).estimates
            band(axes, list(taus), found, color, label=label)
        axes.set(xlabel="normalized return", ylabel="fraction of runs above", ylim=(-0.02, 1.02))
        axes.legend(frameon=False, loc="upper right")
        quiet(axes)
        figure.suptitle(_headline(common, left), fontsize=8)
    return figure


def improvement(runs: pd.DataFrame, *, seed: int = 0) -> Figure:
    """Draw the probability that a run of the row's method beats one of the column's.

    Args and errors as `aggregate`. A pair whose interval excludes one half is in bold.
    """
    common = _common(runs)
    labels, left = _best(common)
    with mpl.rc_context(SETTINGS):
        side = 1.6 + 0.36 * len(labels)
        figure = canvas(max(side + 0.8, 4.2), side)  # wide enough for the headline
        axes = figure.add_subplot()
        values = np.full((len(labels), len(labels)), 0.5)
        for (i, x), (j, y) in itertools.combinations(enumerate(labels), 2):
            found = probability_of_improvement(common.scores[x], common.scores[y], seed=seed)
            sure = found.has_interval and (found.low > 0.5 or found.high < 0.5)
            values[i, j], values[j, i] = found.value, 1 - found.value
            for row, column in ((i, j), (j, i)):
                axes.text(
                    column, row, f"{100 * values[row, column]:.0f}", ha="center", va="center",
                    fontsize=6.5, fontweight="bold" if sure else "normal",
                    color="white" if abs(found.value - 0.5) > 0.35 else "black",
                )  # fmt: skip
        axes.imshow(values, cmap="RdBu_r", vmin=0, vmax=1)
        axes.set_xticks(range(len(labels)), labels, rotation=90)
        axes.set_yticks(range(len(labels)), labels)
        figure.suptitle(
            f"P(row's run > column's run), %; bold: the {caption.percent(LEVEL)} interval excludes "
            f"50\n{_headline(common, left)}",
            fontsize=8,
        )
    return figure


def ranks(runs: pd.DataFrame, *, seed: int = 0) -> Figure:
    """Draw how stable the ranking by mean is: a bar of rank probabilities per method.

    Args and errors as `aggregate`; references are left out.
    """
    common = _common(runs)
    labels, left = _best(common, references=False)
    found = rank_probabilities({label: common.scores[label] for label in labels}, seed=seed)
    colors = sns.color_palette("viridis", len(labels))
    with mpl.rc_context(SETTINGS):
        figure = canvas(6.0, 1.4 + ROW_INCHES * len(labels))
        axes = figure.add_subplot()
        edge = np.zeros(len(labels))
        for rank in found.columns:
            share = found.loc[labels, rank].to_numpy()
            axes.barh(labels, share, left=edge, color=colors[rank - 1], label=str(rank), height=0.8)
            edge += share
        axes.set(
            xlim=(0, 1), xlabel="probability of rank (dark: first) when the seeds are drawn again"
        )
        axes.invert_yaxis()
        quiet(axes)
        figure.suptitle(_headline(common, left), fontsize=8)
    return figure


def cost(runs: pd.DataFrame, *, seed: int = 0) -> Figure:
    """Draw mean score against mean seconds per run, with the methods that no cheaper one beats.

    Args and errors as `aggregate`; references are left out. Seconds are those of the processor,
    which other work on the machine lengthens less than wall time. They leave out scoring,
    training teachers and fitting densities. Runs of a pack share its seconds.
    """
    common = _common(runs)
    complete = runs[runs["status"] == "complete"]
    seconds = complete.groupby("label")["cpu_seconds"].mean()
    labels, left = _best(common, references=False)
    with mpl.rc_context(SETTINGS):
        figure = canvas(6.5, 3.6)
        axes = figure.add_subplot()
        found = {label: stratified(common.scores[label], seed=seed) for label in labels}
        for place, label in enumerate(labels):
            e = found[label]
            axes.errorbar(
                seconds[label], e.value, label=label,
                yerr=[[e.value - e.low], [e.high - e.value]] if e.has_interval else None,
                fmt=MARKERS[place % len(MARKERS)], color=PALETTE[place % len(PALETTE)],
                markersize=4, linewidth=0.8,
            )  # fmt: skip
        front: list[tuple[float, float]] = []
        for label in sorted(labels, key=lambda name: (seconds[name], name)):
            if not front or found[label].value > front[-1][1]:
                front.append((float(seconds[label]), found[label].value))
        axes.step(*zip(*front, strict=True), where="post", color="0.6", linewidth=0.8, ls="--")
        axes.set(xscale="log", xlabel="processor seconds per run", ylabel="normalized return")
        quiet(axes)
        figure.legend(loc="outside right upper", frameon=False)
        figure.suptitle(
            f"{_headline(common, left)}\nDashed: no cheaper method scores higher", fontsize=8
        )
    return figure


def _common(runs: pd.DataFrame) -> CommonScores:
    common = common_scores(runs)
    if not common.scores:
        raise FigureError(
            "No method has a complete run on every dataset of these records; nothing can be "
            "compared across them."
        )
    return common


def _best(
    common: CommonScores, most: int = MOST_METHODS, *, references: bool = True
) -> tuple[list[str], int]:
    """Labels from the highest mean down, and how many are left out beyond the first `most`.

    Raises:
        FigureError: References do not count, and there is nothing else.
    """

    def order(label: str) -> tuple[float, str]:
        scores = (np.asarray(task) for task in common.scores[label].values())
        return -float(mean_over_tasks(*scores)), label

    labels = [
        x for x in sorted(common.scores, key=order) if references or x not in common.references
    ]
    if not labels:
        raise FigureError("These records hold only references; there is nothing to compare.")
    return labels[:most], max(0, len(labels) - most)


def _headline(common: CommonScores, left: int = 0) -> str:
    count = len(common.datasets)
    where = common.datasets[0] if count == 1 else f"{count} datasets"
    text = f"{where}, {caption.seeds(common.seeds)}; {caption.percent(LEVEL)} intervals"
    if common.left_out:
        text += f"; not on every dataset: {', '.join(common.left_out)}"
    if left:
        text += f"; {left} methods of lower mean are not drawn"
    return textwrap.fill(text, 100)


def _color(common: CommonScores, label: str) -> tuple[float, float, float]:
    return (0.55, 0.55, 0.55) if label in common.references else PALETTE[0]

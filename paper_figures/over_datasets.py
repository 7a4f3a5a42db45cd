"""Methods across datasets: aggregates with intervals, profiles, improvement, ranks, cost."""

from __future__ import annotations

import itertools
import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import replace

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.cm import ScalarMappable
from matplotlib.colors import BoundaryNorm, ListedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from paper_figures import caption
from paper_figures.figure import (
    SETTINGS,
    FigureError,
    band,
    canvas,
    finish,
    plain_numbers,
    quiet,
)
from paper_figures.palette import NEUTRAL, Look, looks, on_color
from results.aggregate import CommonScores, common_scores, rank_probabilities
from results.bootstrap import iqm_over_runs, mean_over_tasks
from results.statistics import (
    Estimate,
    performance_profile,
    probability_of_improvement,
    stratified,
)

ROW_INCHES = 0.21
THRESHOLDS = 60
MOST_METHODS = 24
PROFILES = 6
NAME_CHARACTERS = 28
"""Characters of a label in one line; with its settings it may be longer than a figure is wide."""
PLAIN_CHARACTERS = 22
"""Characters of the longest name of the suite's methods, for which there is room on both sides."""
LINE_INCHES = 0.14
CHARACTER_INCHES = 0.062
WRITTEN_SHARE = 0.07
"""Smallest share of a bar of ranks in which the rank is written."""


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
    styles = _looks(runs, labels)
    with mpl.rc_context(SETTINGS):
        names = _names(labels)
        figure = canvas(6.5, 0.7 + _rows_inches(names))
        drawn: list[Estimate] = []
        for place, (name, statistic) in enumerate(
            (("IQM", iqm_over_runs), ("mean", mean_over_tasks)), start=1
        ):
            axes = figure.add_subplot(1, 2, place)
            for row, label in enumerate(labels):
                look = styles[label]
                found = stratified(common.scores[label], statistic, seed=seed)
                drawn.append(found)
                if found.has_interval:
                    axes.plot(
                        [found.low, found.high], [row, row], color=look.color, lw=6, alpha=0.35,
                        solid_capstyle="butt",  # a bar ends where its interval does
                    )  # fmt: skip
                axes.plot(found.value, row, **look.dots | {"markersize": 3.5})
            axes.set_yticks(range(len(labels)), names if place == 1 else [""] * len(labels))
            axes.set_xlabel(f"{name} of normalized return")
            axes.set_ylim(len(labels) - 0.5, -0.5)
            quiet(axes)
        return finish(
            figure,
            f"Normalized return over {_where(common)}",
            _caption(runs, common, labels, left, drawn),
        )


def profiles(runs: pd.DataFrame, *, seed: int = 0) -> Figure:
    """Draw the fraction of runs above every score, with pointwise bands (Agarwal et al. 2021).

    Args and errors as `aggregate`; references are left out.
    """
    common = _common(runs)
    labels, left = _best(common, PROFILES, references=False)  # more bands hide each other
    every = [s for label in labels for task in common.scores[label].values() for s in task]
    taus = np.linspace(min(every) - 1, max(every) + 1, THRESHOLDS)
    with mpl.rc_context(SETTINGS):
        names = _names(labels)
        figure = canvas(6.5, max(3.0, 0.3 + LINE_INCHES * sum(map(_lines, names))))
        axes = figure.add_subplot()
        drawn: list[Estimate] = []
        for place, (label, look) in enumerate(_looks(runs, labels).items()):
            found = performance_profile(common.scores[label], list(taus), seed=seed).estimates
            drawn += found
            # Markers of different lines stand at different places, or they would hide each other.
            every_tenth = (2 * place % 10, 10)
            band(axes, list(taus), found, label=names[place], markevery=every_tenth, **look.line)
        axes.set(xlabel="normalized return", ylabel="fraction of runs above", ylim=(-0.02, 1.02))
        # Given by hand: matplotlib leaves out names that begin with "_".
        figure.legend(handles=axes.get_lines(), loc="outside right center", handlelength=3.2)
        quiet(axes)
        return finish(
            figure,
            f"Fraction of runs above each normalized return, {_where(common)}",
            _caption(runs, common, labels, left, drawn),
        )


def improvement(runs: pd.DataFrame, *, seed: int = 0) -> Figure:
    """Draw the probability that a run of the row's method beats one of the column's.

    Args and errors as `aggregate`. A pair whose interval excludes one half is in bold.
    """
    common = _common(runs)
    labels, left = _best(common)
    colors = mpl.colormaps["RdBu_r"]
    with mpl.rc_context(SETTINGS):
        names = _names(labels)
        beyond = max(len(line) for name in names for line in name.split("\n")) - PLAIN_CHARACTERS
        room = CHARACTER_INCHES * max(0, beyond)
        side = 1.2 + max(0.3 * len(labels), 1.3 * _rows_inches(names)) + room
        figure = canvas(max(side + 1.0, 4.2 + room), side)
        axes = figure.add_subplot()
        values = np.full((len(labels), len(labels)), 50.0)
        drawn: list[Estimate] = []
        for (i, x), (j, y) in itertools.combinations(enumerate(labels), 2):
            found = probability_of_improvement(common.scores[x], common.scores[y], seed=seed)
            drawn.append(found)
            sure = found.has_interval and (found.low > 0.5 or found.high < 0.5)
            values[i, j], values[j, i] = 100 * found.value, 100 * (1 - found.value)
            for row, column in ((i, j), (j, i)):
                axes.text(
                    column, row, f"{values[row, column]:.0f}", ha="center", va="center",
                    fontsize=6.5, fontweight="bold" if sure else "normal",
                    color=on_color(colors(values[row, column] / 100)),
                )  # fmt: skip
        image = axes.imshow(values, cmap=colors, vmin=0, vmax=100)
        axes.set_xticks(range(len(labels)), names, rotation=90)
        axes.set_yticks(range(len(labels)), names)
        axes.set(xlabel="... a run of this method", ylabel="A run of this method beats ...")
        bar = figure.colorbar(image, ax=axes, shrink=0.6, aspect=25)
        bar.set_label("probability (%)")
        return finish(
            figure,
            f"Probability of improvement over {_where(common)}",
            f"{_caption(runs, common, labels, left, drawn)} Bold: the interval excludes 50 %, "
            f"each pair by itself.",
        )


def ranks(runs: pd.DataFrame, *, seed: int = 0) -> Figure:
    """Draw how stable the ranking by mean is: a bar of rank probabilities per method.

    Args and errors as `aggregate`; references are left out.
    """
    common = _several_seeds(_common(runs))
    labels, left = _best(common, references=False)
    found = rank_probabilities({label: common.scores[label] for label in labels}, seed=seed)
    colors = mpl.colormaps["viridis"].resampled(len(labels))
    with mpl.rc_context(SETTINGS):
        names = _names(labels)
        figure = canvas(6.5, 0.8 + _rows_inches(names))
        axes = figure.add_subplot()
        edge = np.zeros(len(labels))
        for rank in found.columns:
            share = found.loc[labels, rank].to_numpy()
            color = colors(rank - 1)
            axes.barh(
                names, share, left=edge, color=color, label=str(rank), height=0.85,
                edgecolor=on_color(color), linewidth=0.2,
            )  # fmt: skip
            for row in np.flatnonzero(share >= WRITTEN_SHARE):
                axes.text(
                    edge[row] + share[row] / 2, float(row), str(rank), ha="center", va="center",
                    fontsize=6, color=on_color(color),
                )  # fmt: skip
            edge += share
        axes.set(xlim=(0, 1), xlabel="probability of each rank when the seeds are drawn again")
        axes.invert_yaxis()
        axes.margins(y=0.01)
        quiet(axes)
        scale = BoundaryNorm(np.arange(len(labels) + 1) + 0.5, len(labels))
        bar = figure.colorbar(
            ScalarMappable(scale, ListedColormap(colors(range(len(labels))))),
            ax=axes, aspect=30, ticks=MaxNLocator(integer=True),
        )  # fmt: skip
        bar.set_label("rank (1: highest mean)")
        bar.ax.invert_yaxis()
        return finish(
            figure,
            f"Stability of the ranks by mean normalized return, {_where(common)}",
            _caption(runs, common, labels, left, ()),
        )


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
        names = _names(labels)
        lines = len(labels) + sum(_lines(name) - 1 for name in names)
        figure = canvas(6.5, max(3.2, 0.3 + 0.16 * lines))
        axes = figure.add_subplot()
        found = {label: stratified(common.scores[label], seed=seed) for label in labels}
        points = []
        for (label, look), name in zip(_looks(runs, labels).items(), names, strict=True):
            e = found[label]
            points.append(axes.errorbar(
                seconds[label], e.value, label=name, elinewidth=0.8, **look.dots,
                yerr=[[e.value - e.low], [e.high - e.value]] if e.has_interval else None,
            ))  # fmt: skip
        front: list[tuple[float, float]] = []
        for label in sorted(labels, key=lambda name: (seconds[name], name)):
            if not front or found[label].value > front[-1][1]:
                front.append((float(seconds[label]), found[label].value))
        axes.step(*zip(*front, strict=True), where="post", color=NEUTRAL, linewidth=0.8, ls="--")
        axes.set(xscale="log", xlabel="processor seconds per run", ylabel="normalized return")
        plain_numbers(axes)
        quiet(axes)
        figure.legend(
            handles=points, loc="outside right center", title="from the highest score down"
        )
        return finish(
            figure,
            f"Normalized return against cost, {_where(common)}",
            f"{_caption(runs, common, labels, left, found.values())} "
            f"Dashed: no cheaper method scores higher.",
        )


def _common(runs: pd.DataFrame) -> CommonScores:
    """Scores on the datasets that were begun."""
    begun = set(runs.loc[runs["status"] != "missing", "dataset"])
    common = common_scores(runs[runs["dataset"].isin(begun)])
    if not common.scores:
        raise FigureError(
            "No method has a complete run on every dataset of these records; nothing can be "
            "compared across them."
        )
    return common


def _several_seeds(common: CommonScores) -> CommonScores:
    """Without labels that have one seed on some dataset, whose rank resampling would call certain.

    Raises:
        FigureError: None has more.
    """
    several = {
        label: tasks
        for label, tasks in common.scores.items()
        if min(map(len, tasks.values())) > 1 or label in common.references
    }
    if not several.keys() - common.references:
        raise FigureError(
            "Every method has a single seed on some dataset; how stable ranks are when seeds are "
            "drawn again takes two."
        )
    left_out = (*common.left_out, *(common.scores.keys() - several.keys()))
    return replace(common, scores=several, left_out=tuple(sorted(left_out)))


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


def _looks(runs: pd.DataFrame, labels: Sequence[str]) -> dict[str, Look]:
    """Looks of these labels, in their order."""
    methods = dict(zip(runs["label"], runs["method"], strict=True))
    found = looks({label: methods[label] for label in labels})
    return {label: found[label] for label in labels}


def _names(labels: Sequence[str]) -> list[str]:
    """Labels as they are written: in several lines where they are long."""
    return [textwrap.fill(label, NAME_CHARACTERS) for label in labels]


def _lines(name: str) -> int:
    return name.count("\n") + 1


def _rows_inches(names: Sequence[str]) -> float:
    """Height of one row per name, as high as the longest takes."""
    most = max(map(_lines, names))
    return len(names) * (ROW_INCHES + LINE_INCHES * (most - 1))


def _where(common: CommonScores) -> str:
    count = len(common.datasets)
    return common.datasets[0] if count == 1 else f"{count} datasets"


def _caption(
    runs: pd.DataFrame,
    common: CommonScores,
    labels: Sequence[str],
    left: int,
    drawn: Iterable[Estimate],
) -> str:
    """Say what was run, and how the intervals of the estimates that are drawn were made.

    Args:
        runs: Runs of all labels.
        common: Scores that could be drawn.
        labels: Labels that are drawn, whose seeds count.
        left: Number of labels of lower mean that are not drawn.
        drawn: Estimates that are drawn.
    """
    seeds = [len(task) for label in labels for task in common.scores[label].values()]
    text = f"{caption.setting(runs)} {_where(common)}, {caption.seeds(seeds)}"
    text += f"{caption.spread(';', 'intervals', drawn)}."
    compared = runs["label"].isin(common.scores) & runs["dataset"].isin(common.datasets)
    if differing := caption.settings_of_datasets(runs[compared]):
        text += f" {differing}"
    if common.left_out:
        text += f" Without enough runs on every dataset: {', '.join(common.left_out)}."
    if left:
        text += f" {left} methods of lower mean are not drawn."
    own = runs[runs["label"].isin(labels)]
    for more in (caption.several_files(own), caption.short_of_runs(runs)):
        text += f" {more}" if more else ""
    return text

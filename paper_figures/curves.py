"""Normalized return against outer step, processor seconds or number of pairs, panel by dataset.

A method with several checkpoints is a line with its confidence band, over the outer steps that all
of its runs have and the last one of each run. Each is drawn at the mean of its runs' places: runs
spend other seconds until the same step, and end at different steps. A method with a single
checkpoint (random, teacher, bc_whole) is a horizontal line, as it does not depend on the outer
step, with one marker that carries the interval. Many methods are drawn in a row of panels per
family, with random pairs, Av-PBC and the teacher in each.
"""

from __future__ import annotations

import math
import textwrap
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import EngFormatter

from paper_figures import caption
from paper_figures.figure import (
    SETTINGS,
    FigureError,
    band,
    canvas,
    check_one_cell,
    fill_bands,
    finish,
    plain_numbers,
    quiet,
)
from paper_figures.palette import COMMON, NEUTRAL, Look, by_family, family, looks
from results.labels import dataset_order, natural_order
from results.statistics import LEVEL, Estimate, estimates, mean

Published = Mapping[str, Mapping[str, float]]
"""Normalized returns that a paper prints, by dataset and description."""
_Run = dict[int, tuple[float, float]]
"""Place and normalized return of every checkpoint of a run, by outer step."""
COLUMNS = 3
MOST_TOGETHER = 8
"""Labels in one panel; with more of them, a family has panels of its own."""
MOST_OF_A_FAMILY = 12
FAR_ABOVE = 1.5
"""A reference above this multiple of everything else in a panel is written, not drawn."""
LONG_NUMBER = 1e5
UP = "\u2191"
PANEL_INCHES = (2.5, 2.05)
TICKS = 4
"""Steps between ticks at most, where families have rows of panels."""
LEGEND_CHARACTERS = 26
# At 7 points: an entry of the legend without its text, and a character of its text.
LEGEND_ENTRY_INCHES = 0.6
CHARACTER_INCHES = 0.062
LEGEND_LINE_INCHES = 0.15
LEGEND: dict[str, Any] = {
    "fontsize": 7, "title_fontsize": 7.5, "alignment": "left",
    "handlelength": 3.2,
}  # fmt: skip


def convergence(
    curves: pd.DataFrame,
    *,
    seed: int = 0,
    level: float = LEVEL,
    column: str = "outer_step",
    across: str = "outer step",
    published: Published | None = None,
) -> Figure:
    """Draw normalized return against outer step, or against what was spent until then.

    Args:
        curves: What `results.curves_frame` gives. Failed runs are left out, and there may be runs
            without a record; a panel's title says how many. The caption names datasets without any
            record.
        seed: Seed of the bootstrap's random draws.
        level: Level of the pointwise confidence bands over seeds.
        column: Column of the places of checkpoints along the axis across.
        across: Name of that axis.
        published: Ends that a paper prints, drawn as dotted lines.

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
        return _draw(
            curves, complete, seed=seed, level=level, column=column, across=across,
            published=published or {},
        )  # fmt: skip


def against_seconds(curves: pd.DataFrame, *, seed: int = 0) -> Figure:
    """Draw normalized return against the processor seconds of distillation so far.

    A checkpoint's mean over seeds is drawn at their mean seconds. Args and errors as `convergence`;
    references are left out.

    Raises:
        FigureError: A run is of an earlier version, which kept no seconds of its checkpoints.
    """
    methods = curves[~curves["reference"]]
    _check_known(methods, "cpu_seconds", "seconds")
    across = "processor seconds of distillation"
    return convergence(methods, seed=seed, column="cpu_seconds", across=across)


def against_environment_steps(
    curves: pd.DataFrame, published: Published, *, seed: int = 0
) -> Figure:
    """Draw normalized return against the environment steps so far, next to published ends.

    Args:
        curves: What `results.curves_frame` gives.
        published: Ends that a paper prints.
        seed: Seed of the bootstrap's random draws.

    Raises:
        FigureError: No run is complete, or one is of an earlier version, which kept no environment
            steps of its checkpoints.
    """
    column, across = "environment_steps", "environment steps"
    _check_known(curves, column, across)
    return convergence(curves, seed=seed, column=column, across=across, published=published)


def _check_known(curves: pd.DataFrame, column: str, what: str) -> None:
    """Check that every complete run tells what its checkpoints cost.

    Raises:
        FigureError: A complete run has no such cost of its checkpoints.
    """
    complete = curves[curves["status"] == "complete"]
    without = complete.loc[complete[column].isna(), "run_id"].unique()
    if len(without):
        raise FigureError(
            f"The records of {len(without)} runs, such as {without[0]}, have no {what} of their "
            f"checkpoints: an earlier version made them. Run them again (obdbench sweep)."
        )


def sizes(runs: pd.DataFrame, *, seed: int = 0) -> Figure:
    """Draw normalized return against the number of synthetic pairs (OBD, Table 5).

    Args:
        runs: What `results.runs_frame` gives. Runs that failed or have no record are counted.
        seed: Seed of the bootstrap's random draws.

    Raises:
        FigureError: No method has complete runs at two sizes.
    """
    complete = runs[(runs["status"] == "complete") & runs["synthetic_size"].notna()]
    several = complete.groupby("method")["synthetic_size"].nunique()
    methods = sorted(several[several > 1].index)
    if not methods:
        raise FigureError("No method has complete runs at two synthetic sizes or more.")
    return _against(
        complete[complete["method"].isin(methods)],
        "synthetic_size",
        ("method", looks({method: method for method in methods})),
        ("synthetic pairs", "the size of the set", 2),
        absent=_absent(runs[runs["method"].isin(methods)]),
        seed=seed,
    )


def pruning(runs: pd.DataFrame, *, seed: int = 0) -> Figure:
    """Draw normalized return against the share of the data that a set was distilled from.

    Args:
        runs: What `results.runs_frame` gives, with the columns "fraction" and "criterion" of the
            method `pruned`. Runs on all of the data are a point of every criterion's line; runs
            that failed or have no record are counted.
        seed: Seed of the bootstrap's random draws.

    Raises:
        FigureError: No criterion has complete runs at two fractions.
    """
    runs = runs[runs["method"] == "pruned"]
    complete = runs[runs["status"] == "complete"]
    whole = complete["fraction"] == 1
    parts = complete[~whole]
    criteria = sorted(set(parts["criterion"]))
    spread = pd.concat(
        [parts, *(complete[whole].assign(criterion=criterion) for criterion in criteria)]
    )
    if not criteria or spread.groupby("criterion")["fraction"].nunique().max() < 2:
        raise FigureError("No criterion of pruned has complete runs at two fractions or more.")
    return _against(
        spread.assign(percent=100 * spread["fraction"]),
        "percent",
        ("criterion", looks(dict.fromkeys(criteria, "pruned"))),
        ("% of the transitions kept", "the share of the data that is kept", 10),
        absent=_absent(runs),
        seed=seed,
    )


def _against(
    complete: pd.DataFrame,
    setting: str,
    lines: tuple[str, dict[str, Look]],
    words: tuple[str, str, int],
    *,
    absent: str,
    seed: int,
) -> Figure:
    """Draw normalized return against a number, one panel per dataset.

    Args:
        complete: Complete runs.
        setting: Column of the number.
        lines: Column whose values have a line each, and their looks.
        words: Name of the axis, what the title says, and base of the axis's logarithm.
        absent: What the caption says of runs that failed or have no record.
        seed: Seed of the bootstrap's random draws.

    Raises:
        FigureError: A point would be of several cells.
    """
    (column, styles), (across, title, base) = lines, words
    for (line, dataset, value), rows in complete.groupby([column, "dataset", setting]):
        check_one_cell(rows["cell_id"], f"{line} on {dataset} at {value:g} {across}")
    datasets = sorted(set(complete["dataset"]), key=dataset_order)
    with mpl.rc_context(SETTINGS):
        figure, panels = _canvas(len(datasets), [list(styles)])
        drawn: list[Estimate] = []
        for dataset, axes in zip(datasets, panels, strict=True):
            for name, look in styles.items():
                mine = complete[(complete[column] == name) & (complete["dataset"] == dataset)]
                found = {
                    float(value): mean(list(rows["normalized_return"]), seed=seed)
                    for value, rows in mine.groupby(setting, sort=True)
                }
                band(axes, list(found), list(found.values()), label=name, **look.line)
                drawn += found.values()
            axes.set_xscale("log", base=base)
            ticks = sorted({float(value) for value in complete[setting]})
            plain_numbers(axes)
            axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
            axes.set_title(dataset)
            quiet(axes)
        _label_outer(panels, across)
        figure.legend(handles=_handles(styles, list(styles)), loc="outside right center", **LEGEND)
        seeds = complete.groupby(["dataset", "label"])["seed"].nunique()
        return finish(
            figure,
            f"Normalized return against {title}",
            f"{caption.setting(complete)} Mean over {caption.seeds(seeds)}"
            f"{caption.spread(' with', 'band', drawn)}.{absent}",
        )


def _draw(
    curves: pd.DataFrame,
    complete: pd.DataFrame,
    *,
    seed: int,
    level: float,
    column: str,
    across: str,
    published: Published,
) -> Figure:
    begun = set(curves.loc[curves["status"] != "missing", "dataset"])
    datasets = sorted(begun, key=dataset_order)
    not_begun = sorted(set(curves["dataset"]) - begun, key=dataset_order)
    methods = dict(zip(complete["label"], complete["method"], strict=True))
    groups, left_out = _panels(complete, methods)
    drawn = {label: methods[label] for labels in groups.values() for label in labels}
    styles = looks(drawn)
    references = set(complete.loc[complete["reference"], "label"])
    points = _points(complete, list(drawn), column, seed=seed, level=level)
    figure, panels = _canvas(len(datasets), list(groups.values()))
    for row, (name, labels) in enumerate(groups.items()):
        in_row = panels[row * len(datasets) : (row + 1) * len(datasets)]
        guests = {label for label in labels if name and family(methods[label]) != name}
        for dataset, axes in zip(datasets, in_row, strict=True):
            shown = {
                label: _last(points[dataset, label]) if label in guests else points[dataset, label]
                for label in labels
                if (dataset, label) in points
            }
            _fill(axes, shown, styles, references & guests if name else references)
            _mark_published(axes, published.get(dataset, {}))
            if axes.get_xlim()[1] > LONG_NUMBER:
                axes.xaxis.set_major_formatter(EngFormatter(sep=""))  # 600k
            if name and shown:  # small panels, and every tick is laid out and drawn for each format
                axes.locator_params(nbins=TICKS)
            if row == 0:
                axes.set_title(_title(curves[curves["dataset"] == dataset]))
        if name:
            in_row[-1].legend(
                handles=_handles(styles, labels), title=name, loc="center left",
                bbox_to_anchor=(1.02, 0.5), **LEGEND,
            )  # fmt: skip
    if len(groups) == 1:
        figure.legend(handles=_handles(styles, list(drawn)), loc="outside right center", **LEGEND)
    for start in range(0, len(panels), len(datasets) if len(groups) > 1 else len(panels)):
        # Families have rows of their own, whose steps differ.
        _label_outer(panels[start : start + len(datasets)], across)
    seeds = complete.groupby(["dataset", "label"])["seed"].nunique()
    found = [point for line in points.values() for point in line.values()]
    how = caption.spread(" with", "band", found, level)
    notes = [f"Mean over {caption.seeds(seeds)}{how}."]
    if any(axes.containers for axes in panels):
        notes.append("A horizontal line: one score, its marker has the interval.")
    if len(groups) > 1:
        notes.append("Methods of another family: their last checkpoint.")
    if any(text.get_text().startswith(UP) for axes in panels for text in axes.texts):
        notes.append(f"{UP}: references far above the panel, with their mean.")
    if left_out:
        notes.append(f"{left_out} methods of lower mean are not drawn.")
    if not_begun:
        notes.append(f"Without a record: {', '.join(not_begun)}.")
    return finish(
        figure,
        f"Normalized return against {across}" + (", by family of methods" * (len(groups) > 1)),
        " ".join([caption.setting(complete), *notes]),
    )


def _panels(complete: pd.DataFrame, methods: dict[str, str]) -> tuple[dict[str, list[str]], int]:
    """Family -> the labels in its row of panels; also count the labels that are left out.

    Few labels, or those of one family, share one row, whose name is "". References are kept, and of
    each family the labels with the highest mean over last checkpoints. A common method of several
    settings is one of its family like any other.
    """
    last = complete.sort_values("outer_step").groupby(["label", "run_id"]).last()
    means = last.groupby("label")["normalized_return"].mean()
    found = Counter(methods.values())
    common = [x for x in methods if methods[x] in COMMON and found[methods[x]] == 1]
    always = {*common, *complete.loc[complete["reference"], "label"]}
    groups = by_family(methods)
    kept = set(methods)
    if len(methods) > MOST_TOGETHER:
        for labels in groups.values():
            rest = [label for label in labels if label not in always]
            rest.sort(key=lambda label: (-means[label], natural_order(label)))
            kept.difference_update(rest[MOST_OF_A_FAMILY:])
    groups = {name: [x for x in labels if x in kept] for name, labels in groups.items()}
    alone = [name for name, labels in groups.items() if set(labels) - set(common)]
    if len(methods) <= MOST_TOGETHER or len(alone) < 2:
        return {"": list(chain(*groups.values()))}, len(methods) - len(kept)
    rows = {
        name: groups[name] + [x for x in sorted(common, key=natural_order) if x not in groups[name]]
        for name in alone
    }
    return rows, len(methods) - len(kept)


def _points(
    complete: pd.DataFrame, labels: Sequence[str], column: str, *, seed: int, level: float
) -> dict[tuple[str, str], dict[float, Estimate]]:
    """(dataset, label) -> means over seeds, by their place in the column."""
    shown = complete[complete["label"].isin(labels)]
    columns = ("dataset", "label", "run_id", "outer_step", column, "normalized_return")
    cells: dict[tuple[str, str], dict[str, _Run]] = defaultdict(lambda: defaultdict(dict))
    for dataset, label, run, step, place, value in zip(
        *(shown[name] for name in columns), strict=True
    ):
        cells[dataset, label][run][step] = (place, value)
    values = {
        (cell, place): values
        for cell, runs in cells.items()
        for place, values in _by_place(list(runs.values())).items()
    }
    found: dict[tuple[str, str], dict[float, Estimate]] = {cell: {} for cell in cells}
    means = estimates(list(values.values()), seed=seed, level=level)
    for (cell, place), estimate in zip(values, means, strict=True):
        found[cell][place] = estimate
    return found


def _by_place(runs: Sequence[_Run]) -> dict[float, list[float]]:
    """Values of all runs by the mean of their places, from the first outer step to the last.

    Checkpoints of one outer step belong together, and so do the last ones of all runs: runs with a
    budget end at different steps. What stands at another step in some run is left out, so that
    every run is once in every point.
    """
    lasts = [max(run) for run in runs]
    common = set.intersection(*({*run} - {last} for run, last in zip(runs, lasts, strict=True)))
    together = [[run[step] for run in runs] for step in sorted(common)]
    together.append([run[last] for run, last in zip(runs, lasts, strict=True)])
    # Of checkpoints in the same place, where nothing was spent in between, the last is drawn.
    return {
        float(np.mean([place for place, _ in points])): [value for _, value in points]
        for points in together
    }


def _fill(
    axes: Axes,
    shown: dict[str, dict[float, Estimate]],
    styles: dict[str, Look],
    references: set[str],
) -> None:
    """Draw the labels of one panel: curves, and horizontal lines whose markers stand apart.

    References that would press all else to the bottom are named with their mean at the top.
    """
    tops = {label: max(_top(point) for point in points.values()) for label, points in shown.items()}
    highest = max((top for label, top in tops.items() if label not in references), default=math.inf)
    far = [
        label
        for label, points in shown.items()
        if label in references
        and max(point.value for point in points.values()) > FAR_ABOVE * highest > 0
    ]
    if far:
        means = ", ".join(
            f"{label} {max(shown.pop(label).values(), key=_top).value:.0f}" for label in far
        )
        axes.text(
            0.02, 0.98, f"{UP} {means}", transform=axes.transAxes, ha="left", va="top", fontsize=6.5
        )
    flat = [label for label, points in shown.items() if len(points) == 1]
    curves = {label: points for label, points in shown.items() if label not in flat}
    for label, points in shown.items():
        if label in flat:
            (point,) = points.values()
            _horizontal(axes, point, styles[label], (flat.index(label) + 0.5) / len(flat))
        else:
            axes.plot([*points], [point.value for point in points.values()], **styles[label].line)
    fill_bands(axes, (([*x], [*x.values()], styles[y].color) for y, x in curves.items()))
    if not shown:
        axes.set(xticks=[], yticks=[])
    elif len(flat) == len(shown):
        axes.set_xticks([])
    axes.margins(x=0.02, y=0.16 if far else None)
    quiet(axes)


def _mark_published(axes: Axes, ends: Mapping[str, float]) -> None:
    for text, value in ends.items():
        axes.axhline(value, color=NEUTRAL, linestyle=":", linewidth=1.0)
        axes.annotate(
            text, (0.98, value), xycoords=axes.get_yaxis_transform(), ha="right", va="bottom",
            fontsize=6.5, color=NEUTRAL,
        )  # fmt: skip


def _top(point: Estimate) -> float:
    return point.high if point.has_interval else point.value


def _last(points: dict[float, Estimate]) -> dict[float, Estimate]:
    return {max(points): points[max(points)]}


def _horizontal(axes: Axes, p: Estimate, look: Look, place: float) -> None:
    """Draw a line across the panel, and its marker and interval at a fraction of the width."""
    axes.axhline(p.value, color=look.color, linestyle=look.linestyle, linewidth=1.0)
    axes.errorbar(
        place, p.value, transform=axes.get_yaxis_transform(), elinewidth=0.9, **look.dots,
        yerr=[[p.value - p.low], [p.high - p.value]] if p.has_interval else None,
    )  # fmt: skip


def _title(runs: pd.DataFrame) -> str:
    """Name the dataset, and what was left out."""
    return "\n".join([runs["dataset"].iloc[0], *_short(runs)])


def _absent(runs: pd.DataFrame) -> str:
    """What a caption says of the runs that failed or have no record; nothing where none did."""
    return "".join(f" {text}." for text in _short(runs))


def _short(runs: pd.DataFrame) -> list[str]:
    """Count the runs that failed and those without a record, in words."""
    failed, missing = (
        runs.loc[runs["status"] == word, "run_id"].nunique() for word in ("failed", "missing")
    )
    texts = []
    if failed:
        texts.append(f"{failed} failed run{'s' if failed > 1 else ''} left out")
    if missing:
        texts.append(f"{missing} run{'s' if missing > 1 else ''} without a record")
    return texts


def _canvas(datasets: int, legends: Sequence[Sequence[str]]) -> tuple[Figure, list[Axes]]:
    """Make a canvas of panels, row by row, with room for the legends on their right.

    With one legend the panels fill a block; with several, of families, each has a row of panels.

    Args:
        datasets: Number of panels of a legend.
        legends: Labels of each legend.
    """
    several = len(legends) > 1
    columns = datasets if several else (2 if datasets == 4 else min(datasets, COLUMNS))
    rows = math.ceil(datasets * len(legends) / columns)
    lines = [[line for label in one for line in _wrapped(label).split("\n")] for one in legends]
    longest = max(len(line) for one in lines for line in one)
    legend = LEGEND_ENTRY_INCHES + CHARACTER_INCHES * longest
    tallest = LEGEND_LINE_INCHES * (max(map(len, lines)) + several) + 0.2
    row = max(PANEL_INCHES[1], tallest) if several else PANEL_INCHES[1]
    # A single panel is widened so that the title fits.
    figure = canvas(
        max(columns * PANEL_INCHES[0], 3.4) + legend,
        rows * row + 0.3 if several else max(rows * row + 0.3, tallest),
    )
    count = datasets * len(legends)
    return figure, [figure.add_subplot(rows, columns, place + 1) for place in range(count)]


def _label_outer(panels: Sequence[Axes], across: str) -> None:
    """Name the axes of the panels at the left and at the bottom; the others have the same."""
    for place, axes in enumerate(panels):
        spec = axes.get_subplotspec()
        assert spec is not None
        columns = spec.get_gridspec().ncols
        if spec.is_first_col():
            axes.set_ylabel("normalized return")
        if place + columns >= len(panels) and axes.get_xticks().size:
            axes.set_xlabel(across)


def _handles(styles: dict[str, Look], labels: Sequence[str]) -> list[Line2D]:
    return [Line2D([], [], label=_wrapped(label), **styles[label].line) for label in labels]


def _wrapped(label: str) -> str:
    return textwrap.fill(label, LEGEND_CHARACTERS)

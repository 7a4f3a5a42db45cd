"""Robustness: the share of a policy's return that disturbances leave, as a table and as curves."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.figure import Figure

from paper_figures import caption
from paper_figures.figure import SETTINGS, band, canvas, finish, quiet, require_rows
from paper_figures.palette import INK, family_order, look
from paper_figures.table import NOTHING, Cell, Table, estimate_cell
from results.labels import dataset_order
from results.statistics import Estimate, mean

NONE = "none"
PANELS = {
    "observation noise": ("noise on observations", "sd of the dataset", 0.0),
    "attack": ("attack on observations", "sd of the dataset", 0.0),
    "action noise": ("noise on actions", "half ranges", 0.0),
    "mass": ("mass", "factor", 1.0),
    "friction": ("friction", "factor", 1.0),
}
"""Title, unit of the size, and the size that changes nothing, per kind of disturbance."""
PANEL_INCHES = (1.8, 1.7)
SIZES = (
    "Sizes of noise (standard deviation, normal) and of the attack (largest change, one signed "
    "gradient step from a random start) on observations are in standard deviations of the dataset, "
    "those of noise on actions in half ranges, the others factors."
)


def kept(disturbed: Sequence[float], undisturbed: Sequence[float], *, seed: int = 0) -> Estimate:
    """Percentage of the mean score that a disturbance leaves, over runs that are paired.

    A ratio of means r = mean(y) / mean(x): a single run's ratio may divide by next to nothing. Its
    interval is that of the mean of the linearised ratios r + (y - r x) / mean(x), whose mean is r.
    It is of no use where mean(x) may be zero.

    Args:
        disturbed: Scores y of the runs.
        undisturbed: Scores x of the same runs.
        seed: Seed of the bootstrap's random draws.
    """
    y, x = np.array(disturbed), np.array(undisturbed)
    ratio = y.mean() / x.mean()
    return mean(list(100 * (ratio + (y - ratio * x) / x.mean())), seed=seed)


Shares = dict[tuple[str, str, str, float], Estimate | None]


def _shares(measured: pd.DataFrame, seed: int) -> Shares:
    """Estimates by dataset, method, kind and size: the score itself of `NONE`, else what is kept.

    None where the undisturbed score is not above zero for sure.
    """
    found: Shares = {}
    for (dataset, method), rows in measured.groupby(["dataset", "method"]):
        scores = rows.set_index(["kind", "size", "seed"])["normalized_return"].sort_index()
        plain = scores[NONE].droplevel("size")
        undisturbed = mean(list(plain), seed=seed)
        found[str(dataset), str(method), NONE, 0.0] = undisturbed
        sure = undisturbed.has_interval and undisturbed.low > 0
        for kind, size in sorted({(kind, size) for kind, size, _ in scores.index} - {(NONE, 0.0)}):
            mine = scores[kind, size].reindex(plain.index)
            share = kept(list(mine), list(plain), seed=seed) if sure else None
            found[str(dataset), str(method), kind, float(size)] = share
    return found


def _orders(measured: pd.DataFrame) -> tuple[list[str], list[str]]:
    datasets = sorted(set(measured["dataset"]), key=dataset_order)
    return datasets, sorted(set(measured["method"]), key=lambda name: (family_order(name), name))


def robustness_table(measured: pd.DataFrame, played: str, *, seed: int = 0) -> Table:
    """One row per dataset and disturbance, one column per method.

    Args:
        measured: The study `robustness`'s rows.
        played: Who played how many episodes, in words.
        seed: Seed of the bootstrap's random draws.

    Raises:
        FigureError: The study has no rows.
    """
    require_rows(measured, "robustness")
    shares = _shares(measured, seed)
    datasets, methods = _orders(measured)
    order = (NONE, *PANELS)
    conditions = sorted({key[2:] for key in shares}, key=lambda c: (order.index(c[0]), c[1]))
    groups, data = [], []
    for dataset in datasets:
        rows = []
        for kind, size in conditions:
            title = "normalized return" if kind == NONE else PANELS[kind][0]
            cells = [Cell(dataset), Cell(title), Cell("" if kind == NONE else f"{size:g}")]
            for method in methods:
                e = shares.get((dataset, method, kind, size))
                decimals = 1 if kind == NONE else 0
                cells.append(
                    Cell(NOTHING) if e is None
                    else estimate_cell(e.value, e.low, e.high, decimals=decimals)
                )  # fmt: skip
                if e is not None:
                    data.append(
                        {"dataset": dataset, "method": method, "kind": kind, "size": size}
                        | e.columns
                    )
            rows.append(tuple(cells))
        groups.append(tuple(rows))
    found = [e for e in shares.values() if e is not None]
    return Table(
        columns=("dataset", "disturbed", "size", *methods),
        groups=tuple(groups),
        caption=f"First row of each dataset: normalized return undisturbed; others: % of it that "
        f"is left, a ratio of means over {caption.seeds(e.n for e in found)} ({played})"
        f"{caption.spread(', with', 'interval', found)}. {NOTHING}: the undisturbed "
        f"return is not above 0 for sure. {SIZES} Seeds of the teacher are other episodes of one "
        f"policy.",
        alignment="lll" + "r" * len(methods),
        data=pd.DataFrame(data),
    )


def robustness(measured: pd.DataFrame, played: str, *, seed: int = 0) -> Figure:
    """Draw what is kept against the size of each kind of disturbance, one row per dataset.

    Args:
        measured: The study `robustness`'s rows.
        played: Who played how many episodes, in words.
        seed: Seed of the bootstrap's random draws.

    Raises:
        FigureError: The study has no rows.
    """
    require_rows(measured, "robustness")
    shares = _shares(measured, seed)
    datasets, methods = _orders(measured)
    drawn: list[Estimate] = []
    with mpl.rc_context(SETTINGS):
        figure = canvas(PANEL_INCHES[0] * len(PANELS), PANEL_INCHES[1] * len(datasets) + 0.3)
        panels = figure.subplots(len(datasets), len(PANELS), sharey="row", squeeze=False)
        handles: dict[str, Artist] = {}
        for row, dataset in zip(panels, datasets, strict=True):
            for axes, (kind, (title, unit, neutral)) in zip(row, PANELS.items(), strict=True):
                axes.axhline(100, color=INK, linewidth=0.5)
                for method in methods:
                    found = {
                        size: e
                        for (d, m, k, size), e in shares.items()
                        if (d, m, k) == (dataset, method, kind) and e is not None
                    }
                    if found:
                        found[neutral] = Estimate(100.0, 100.0, 100.0, found[min(found)].n, 0.95)
                        places = sorted(found)
                        band(axes, places, [found[x] for x in places], label=method,
                             **look(method).line)  # fmt: skip
                        drawn += found.values()
                        handles[method] = axes.lines[-1]
                axes.set_xlabel(unit if dataset == datasets[-1] else "")
                axes.set_title(title if dataset == datasets[0] else "", fontsize=7.5)
                quiet(axes)
            row[0].set_ylabel(f"{dataset}\n% of return left", fontsize=7)
            row[0].set_ylim(bottom=0)
        figure.legend(handles.values(), handles, loc="outside right center", fontsize=7)
        return finish(
            figure,
            "What noise, attacks and changed physics leave of the return",
            f"% of the undisturbed normalized return ({played}), a ratio of "
            f"means over {caption.seeds(e.n for e in drawn)}"
            f"{caption.spread(' with', 'band', drawn)}. {SIZES} Left out: a method whose "
            f"undisturbed return is not above 0 for sure.",
        )

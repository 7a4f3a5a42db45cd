"""Use: warm starts from sets, as curves and as a table of what they save."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from paper_figures import caption
from paper_figures.figure import SETTINGS, band, canvas, finish, quiet, require_rows
from paper_figures.palette import INK, Look, family_order, look
from paper_figures.table import NOTHING, Cell, Table, estimate_cell
from results.labels import dataset_order
from results.statistics import Estimate, mean

SCRATCH = "scratch"
"""The study's name of the start without a set."""
SHARE_OF_FINAL = 0.9
"""Share of the final score from scratch whose first stage counts as reaching it."""
COLUMNS = ("start", "end", "mean", "mean_less", "steps", "steps_less")
PANEL_INCHES = (2.9, 2.4)


def use_table(measured: pd.DataFrame, played: str, *, seed: int = 0) -> Table:
    """One row per dataset and start: scores, the mean over the steps, and steps to the target.

    Args:
        measured: The study `use`'s rows.
        played: Who played how many episodes at each stage, in words.
        seed: Seed of the bootstrap's random draws.

    Raises:
        FigureError: The study has no rows.
    """
    require_rows(measured, "use")
    groups, data, drawn = [], [], []
    for dataset in sorted(set(measured["dataset"]), key=dataset_order):
        curves = _curves(measured[measured["dataset"] == dataset])
        rows = []
        for start, found in _summaries(curves, seed).items():
            reached, estimates = found
            cells = [Cell(dataset), Cell(_label(start))]
            for column in COLUMNS:
                e = estimates.get(column)
                cells.append(
                    Cell(NOTHING) if e is None else
                    estimate_cell(e.value, e.low, e.high, decimals=0 if "steps" in column else 1,
                                  sign="+" if "less" in column else "")
                )  # fmt: skip
                if e is not None:
                    drawn.append(e)
                    data.append({"dataset": dataset, "start": start, "what": column} | e.columns)
            reaches = f"{reached} of {len(curves[start])}" if "steps" in estimates else NOTHING
            rows.append((*cells, Cell(reaches)))
        groups.append(tuple(rows))
    last = int(measured["steps"].max())
    return Table(
        columns=(
            "dataset", "start", "at 0 steps", f"at {last:,}", "mean over steps", "less scratch",
            f"steps to {SHARE_OF_FINAL:.0%}", "less scratch", "reached",
        ),
        groups=tuple(groups),
        caption=f"Cloning of 1 % of the data by Adam from a student of a set, or from its "
        f"initialisation (scratch): normalized return, mean over "
        f"{caption.seeds(e.n for e in drawn)} ({played} at each stage)"
        f"{caption.spread(', with', 'interval', drawn)}; differences are paired by "
        f"seed. Mean over steps: area under the curve, by trapezoids, over its length. Steps "
        f"to {SHARE_OF_FINAL:.0%}: the first stage with that share of the mean final return from "
        f"scratch; a seed that never gets there counts with the last stage.",
        alignment="ll" + "r" * (len(COLUMNS) + 1),
        data=pd.DataFrame(data),
    )  # fmt: skip


def use(measured: pd.DataFrame, played: str, *, seed: int = 0) -> Figure:
    """Draw the return against gradient steps from every start, one panel per dataset.

    Args:
        measured: The study `use`'s rows.
        played: Who played how many episodes at each stage, in words.
        seed: Seed of the bootstrap's random draws.

    Raises:
        FigureError: The study has no rows.
    """
    require_rows(measured, "use")
    datasets = sorted(set(measured["dataset"]), key=dataset_order)
    drawn: list[Estimate] = []
    with mpl.rc_context(SETTINGS):
        figure = canvas(PANEL_INCHES[0] * len(datasets), PANEL_INCHES[1])
        panels = figure.subplots(1, len(datasets), squeeze=False)[0]
        for axes, dataset in zip(panels, datasets, strict=True):
            for start, curve in _curves(measured[measured["dataset"] == dataset]).items():
                found = [mean(list(curve[step]), seed=seed) for step in curve]
                band(axes, list(curve), found, label=_label(start), **_look(start).line)
                drawn += found
            stages = sorted(set(measured["steps"]))
            axes.set_xscale("symlog", linthresh=min(step for step in stages if step))
            axes.set_xticks(stages[::3], [f"{step:,}" for step in stages[::3]])
            axes.minorticks_off()
            axes.set(xlabel="gradient steps", title=dataset)
            quiet(axes)
        panels[0].set_ylabel("normalized return")
        figure.legend(handles=panels[0].get_legend_handles_labels()[0], loc="outside right center")
        return finish(
            figure,
            "Cloning 1 % of the data: what a start from a set is worth",
            f"Mean over {caption.seeds(e.n for e in drawn)} ({played} at each stage)"
            f"{caption.spread(' with', 'band', drawn)}. Starts of a seed have initialisation, data "
            f"and minibatches in common.",
        )


def _label(start: str) -> str:
    return "from scratch" if start == SCRATCH else start


def _look(start: str) -> Look:
    return Look(INK, "-", "*") if start == SCRATCH else look(start)


def _curves(rows: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Scores by start: a row per seed that has all starts, a column per stage; scratch first."""
    curves = rows.pivot_table(index="seed", columns=["start", "steps"], values="normalized_return")
    curves = curves.dropna()
    starts = sorted(
        set(rows["start"]), key=lambda name: (name != SCRATCH, family_order(name), name)
    )
    return {start: curves[start].sort_index(axis=1) for start in starts}


def _summaries(
    curves: dict[str, pd.DataFrame], seed: int
) -> dict[str, tuple[int, dict[str, Estimate]]]:
    """Seeds that reach the target, and an estimate per column of `COLUMNS`, by start."""
    scratch = curves[SCRATCH]
    stages = [int(step) for step in scratch.columns]
    target = SHARE_OF_FINAL * float(scratch[stages[-1]].mean())
    values: dict[str, dict[str, Sequence[float]]] = {}
    reached: dict[str, int] = {}
    for start, curve in curves.items():
        scores = curve.to_numpy()
        over = scores >= target
        reached[start] = int(over.any(1).sum())
        first = np.where(over.any(1), over.argmax(1), len(stages) - 1)
        values[start] = {
            "start": list(scores[:, 0]),
            "end": list(scores[:, -1]),
            "mean": list(np.trapezoid(scores, stages, axis=1) / (stages[-1] - stages[0])),
        }
        if target > 0:  # else every policy would be there, the random one too
            values[start]["steps"] = list(np.array(stages, float)[first])
    found: dict[str, tuple[int, dict[str, Estimate]]] = {}
    for start, mine in values.items():
        estimates = {name: mean(sample, seed=seed) for name, sample in mine.items()}
        if start != SCRATCH:
            for name in [name for name in ("mean", "steps") if name in mine]:
                less = np.subtract(mine[name], values[SCRATCH][name])
                estimates[f"{name}_less"] = mean(list(less), seed=seed)
        found[start] = reached[start], estimates
    return found

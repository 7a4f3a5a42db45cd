"""Two settings of one method at every checkpoint, and their difference seed by seed."""

from __future__ import annotations

import math
from typing import NamedTuple

import pandas as pd

from paper_figures import caption
from paper_figures.figure import FigureError
from paper_figures.table import NOTHING, Cell, Table, estimate_cell
from results.differences import Difference, difference, holm
from results.labels import dataset_order
from results.statistics import LEVEL, mean


class _Checkpoint(NamedTuple):
    """Scores by seed of the seeds that both settings have."""

    dataset: str
    step: int
    one: dict[int, float]
    other: dict[int, float]
    found: Difference


def paired_curves(curves: pd.DataFrame, runs: pd.DataFrame) -> Table:
    """One row per dataset and outer step: both settings, and the second less the first.

    Args:
        curves: What `results.curves_frame` gives, of two labels.
        runs: What `results.runs_frame` gives of the same sweep, so that runs that failed or have no
            record are named.

    Raises:
        FigureError: There are not two labels, or no dataset has complete runs of both.
    """
    complete = curves[curves["status"] == "complete"]
    names = sorted(set(complete["label"]))
    if len(names) != 2:
        raise FigureError(f"Expected complete runs of two settings; found {names}.")
    compared = []
    for (dataset, step), found in complete.groupby(["dataset", "outer_step"]):
        one, other = (
            found[found["label"] == name].set_index("seed")["normalized_return"].to_dict()
            for name in names
        )
        common = sorted(one.keys() & other.keys())
        if common:
            one, other = ({seed: scores[seed] for seed in common} for scores in (one, other))
            compared.append(
                _Checkpoint(str(dataset), int(step), one, other, difference(other, one))
            )
    compared.sort(key=lambda checkpoint: (dataset_order(checkpoint.dataset), checkpoint.step))
    if not compared:
        raise FigureError(f"{names[0]} and {names[1]} have no dataset and seed in common.")
    adjusted = holm([checkpoint.found.p for checkpoint in compared])
    rows, data = [], []
    for (dataset, step, one, other, found), p in zip(compared, adjusted, strict=True):
        means = [mean(list(scores.values())).value for scores in (one, other)]
        gap = found.estimate
        rows.append(
            (
                Cell(dataset), Cell(f"{step:,}"), *(Cell(f"{value:.1f}") for value in means),
                estimate_cell(gap.value, gap.low, gap.high), Cell(_apart(p)),
            )
        )  # fmt: skip
        data.append(
            {"dataset": dataset, "outer step": step, "seeds": len(one)}
            | dict(zip(names, means, strict=True))
            | {"difference": gap.value, "low": gap.low, "high": gap.high, "p, Holm": p}
        )
    counts = [len(checkpoint.one) for checkpoint in compared]
    short = caption.short_of_runs(runs)
    return Table(
        columns=("dataset", "outer step", *names, "difference", "apart"),
        groups=(tuple(rows),),
        caption=f"Normalized return over {caption.seeds(counts)}; the second less the first, seed "
        f"by seed, with {caption.percent(LEVEL)} interval (Student's t). Apart: the difference is "
        f"not zero at {caption.percent(LEVEL)}, corrected over the rows (Holm). {NOTHING}: a "
        f"single seed.{f' {short}' if short else ''}",
        alignment="lrrrrl",
        data=pd.DataFrame(data),
    )


def _apart(p: float) -> str:
    if math.isnan(p):
        return NOTHING
    return "yes" if p < 1 - LEVEL else "no"

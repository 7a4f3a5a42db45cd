"""The main table: every method's score next to its cost.

Up to two datasets: one row per (dataset, method). More: one row per method, one column per dataset,
and the mean over datasets last, as the papers print it.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from benchmark.datasets.dataset import ReferenceReturns
from paper_figures import caption
from paper_figures.palette import family_order
from paper_figures.table import DAGGER, NOTHING, Cell, Table, estimate_cell
from results.aggregate import COSTS, Best, best_and_ties
from results.comparison import d4rl_scale
from results.labels import dataset_order, natural_order
from results.statistics import Estimate, stratified

LONG_LAYOUT_DATASETS = 2
ALL_DATASETS = "mean over datasets"
D4RL_SCALE = "mean, D4RL's scale"
"""Mean of the same returns, normalized by D4RL's references instead of the suite's."""
SECONDS = "seconds are a run's share of wall time without scoring"
COST_HEADINGS = ("seconds", "outer steps", "environment steps")

Cells = tuple[Cell, ...]
Row = dict[str, Any]
"""One row of what `results.cell_table` gives."""


def main_table(table: pd.DataFrame, *, seed: int = 0) -> Table:
    """Draw up the main table from what `results.cell_table` gives.

    Args:
        table: One row per (dataset, label). The same rows in any order give the same bytes.
        seed: Seed of the bootstrap over datasets (wide layout, and many seeds, only).

    The best distillation method of every dataset is bold; methods that are not apart from it carry
    a dagger (`results.aggregate.best_and_ties`). The caption states seeds, level, protocol, the
    teacher's own return, and every cell that lacks seeds.
    """
    ordered = _in_order(table)
    best = best_and_ties(ordered)
    if ordered["dataset"].nunique() <= LONG_LAYOUT_DATASETS:
        return _long(ordered, best)
    return _wide(ordered, best, seed=seed)


def _long(table: pd.DataFrame, best: Mapping[str, Best]) -> Table:
    groups = [
        tuple(_dataset_row(row, best) for row in rows.to_dict("records"))
        for _, dataset in table.groupby("dataset", sort=False)
        for rows in _methods_and_references(dataset)
    ]
    return Table(
        columns=("dataset", "method", f"score {_interval(table)}", "n", *COST_HEADINGS, "used"),
        groups=tuple(groups),
        caption=_caption(table, f"Costs are means over complete runs; {SECONDS}."),
        alignment="llrrrrrl",
        data=_data(table),
    )


def _dataset_row(row: Row, best: Mapping[str, Best]) -> Cells:
    n = f"{row['n']}" if row["n"] >= row["n_expected"] else f"{row['n']}/{row['n_expected']}"
    names = Cell(row["dataset"]), Cell(row["label"])
    costs = _costs([row[name] for name in COSTS])
    return (*names, _score(row, best), Cell(n), *costs, Cell(row["used"] or NOTHING))


def _wide(table: pd.DataFrame, best: Mapping[str, Best], *, seed: int) -> Table:
    datasets = list(table["dataset"].unique())
    scales = {name: scale for name in datasets if (scale := d4rl_scale(name))}
    means = ["mean"] + [D4RL_SCALE] * (len(scales) == len(datasets))
    groups = []
    averages = []
    for rows in _methods_and_references(table):
        by_label: dict[str, list[Row]] = defaultdict(list)
        for row in rows.to_dict("records"):
            by_label[row["label"]].append(row)
        lines = []
        for cells in sorted(by_label.values(), key=lambda cells: _place(cells[0])):
            found = {}
            for name in means:
                average = _average(cells, datasets, scales if name == D4RL_SCALE else {}, seed=seed)
                averages.append(_average_data(cells, average, name))
                found[name] = average
            lines.append(_method_row(cells, datasets, best, list(found.values())))
        groups.append(tuple(lines))
    note = (
        f"Costs are means over a method's datasets and complete runs; {SECONDS}. Mean: "
        f"over datasets, interval from the seeds inside every one; {NOTHING} unless every "
        f"dataset has a score. {NOTHING} under a dataset: no such cell."
    )
    if D4RL_SCALE in means:
        note += " " + _units(datasets, scales)
    if differing := caption.settings_of_datasets(table, teachers=False):
        note += " " + differing
    return Table(
        columns=("method", "used", *COST_HEADINGS, *datasets, *means),
        groups=tuple(groups),
        caption=_caption(table, note),
        alignment="ll" + "r" * (len(COST_HEADINGS) + len(datasets) + len(means)),
        data=pd.concat([_data(table), pd.DataFrame(averages)], ignore_index=True),
    )


def _units(datasets: list[str], scales: Mapping[str, ReferenceReturns]) -> str:
    experts = {name.partition("/")[0]: scales[name].expert for name in datasets}
    returns = ", ".join(f"{expert:,.0f} on {task}" for task, expert in experts.items())
    return (
        f"On D4RL's scale: the same returns normalized by D4RL's references, of which 100 is a "
        f"return of {returns}."
    )


def _method_row(
    cells: Sequence[Row],
    datasets: list[str],
    best: Mapping[str, Best],
    averages: list[Estimate | None],
) -> Cells:
    by_dataset = {row["dataset"]: row for row in cells}
    used = ", ".join(sorted({row["used"] for row in cells if row["used"]})) or NOTHING
    scores = (
        _score(by_dataset[name], best) if name in by_dataset else Cell(NOTHING) for name in datasets
    )
    last = (estimate_cell(x.value, x.low, x.high) if x else Cell(NOTHING) for x in averages)
    names = Cell(cells[0]["label"]), Cell(used)
    return (*names, *_costs([_mean(cells, name) for name in COSTS]), *scores, *last)


def _mean(cells: Sequence[Row], name: str) -> float:
    """Mean of a number over the cells that have it."""
    known = [cell[name] for cell in cells if not math.isnan(cell[name])]
    return float(np.mean(known)) if known else math.nan


def _average(
    cells: Sequence[Row], datasets: list[str], scales: Mapping[str, ReferenceReturns], *, seed: int
) -> Estimate | None:
    """Average a method over all datasets; None where it lacks a score, as no mean is comparable."""
    scores = {row["dataset"]: row["scores"] for row in cells if row["n"] > 0}
    if scales:
        returns = {row["dataset"]: row["returns"] for row in cells}
        scores = {
            name: [float(scales[name].normalise(x)) for x in returns[name]] for name in scores
        }
    if set(scores) != set(datasets):
        return None
    return stratified(scores, seed=seed, level=cells[0]["level"])


def _average_data(cells: Sequence[Row], average: Estimate | None, name: str) -> Row:
    where = ALL_DATASETS if name == "mean" else name
    row: Row = {"dataset": where, "level": cells[0]["level"]}
    row |= {name: cells[0][name] for name in ("method", "label")}
    row |= {name: sum(cell[name] for cell in cells) for name in ("n", "n_expected", "n_failed")}
    row |= {name: _mean(cells, name) for name in COSTS}
    if average is not None:
        row |= {name: getattr(average, name) for name in ("value", "low", "high", "interval")}
    return row


def _score(row: Row, best: Mapping[str, Best]) -> Cell:
    if row["n"] == 0:
        return Cell("failed" if row["n_failed"] else "missing", f"(0 of {row['n_expected']})")
    standing = best[row["dataset"]]
    cell = estimate_cell(row["value"], row["low"], row["high"])
    details = [cell.detail] if cell.detail else []
    if row["n"] < row["n_expected"]:
        details.append(f"(n={row['n']} of {row['n_expected']})")
    elif row["n"] == 1:
        details.append("(n=1)")
    is_best, is_tied = row["label"] == standing.best, row["label"] in standing.ties
    return Cell(cell.text, " ".join(details), best=is_best, tied=is_tied)


def _costs(costs: Sequence[float]) -> Cells:
    wall, *steps = costs
    seconds = NOTHING if math.isnan(wall) else f"{wall:,.1f}"
    return (Cell(seconds), *(Cell(NOTHING if math.isnan(n) else f"{n:,.0f}") for n in steps))


def _interval(table: pd.DataFrame) -> str:
    return f"[{caption.percent(float(table['level'].iloc[0]))} CI]" if len(table) else "[CI]"


def _caption(table: pd.DataFrame, note: str) -> str:
    if table.empty:
        return "No run on record."
    present = sorted(set(table.loc[table["reference"], "method"]))
    which = f" ({' and '.join(present)} are references)" if present else ""
    sentences = (
        caption.intervals(table),
        caption.protocols(table["protocol"]),
        caption.students(table["student"]),
        f"Bold: highest mean among distillation methods of a dataset{which}; {DAGGER}: not apart "
        f"from it, {caption.APART}.",
        "Used: what a method declares that it needs; costs leave out training teachers and fitting "
        "densities.",
        note,
        caption.teachers(table),
        caption.several_files(table),
        caption.missing(table),
    )
    return " ".join(filter(None, sentences))


def _methods_and_references(table: pd.DataFrame) -> list[pd.DataFrame]:
    reference = table["reference"]
    return [rows for rows in (table[~reference], table[reference]) if len(rows)]


def _in_order(table: pd.DataFrame) -> pd.DataFrame:
    keys = [(dataset_order(str(row["dataset"])), *_place(row)) for row in table.to_dict("records")]
    order = sorted(range(len(keys)), key=keys.__getitem__)
    return table.iloc[order].reset_index(drop=True)


def _place(row: Mapping[Any, Any]) -> tuple[int, Any]:
    """Sorting key of a method's row: its family, then its label."""
    return family_order(str(row["method"])), natural_order(str(row["label"]))


def _data(table: pd.DataFrame) -> pd.DataFrame:
    return table.assign(**{
        name: [" ".join(repr(float(value)) for value in found) for found in table[name]]
        for name in ("scores", "returns")
    })  # fmt: skip

"""Scores at equal CPU seconds: every method with what its runs took, ordered by families."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from paper_figures import caption
from paper_figures.figure import FigureError, check_one_cell
from paper_figures.palette import FAMILIES, OTHER, family
from paper_figures.table import DAGGER, NOTHING, Cell, Table, estimate_cell
from results.aggregate import Best, best_and_ties, cell_table
from results.labels import dataset_order, natural_order

YARDSTICK = "av_pbc"
"""The method whose seconds the others are given."""
TOLERANCE = 0.2
"""Share by which the seconds of a method may be off before the table says so."""


def equal_seconds(runs: pd.DataFrame) -> Table:
    """One row per method, in groups by family: score and CPU seconds on every dataset.

    Args:
        runs: What `results.runs_frame` gives; with a row for each run that has no record, a cell
            without any is shown as missing.

    Raises:
        FigureError: No run is complete, or av_pbc has several cells on a dataset.
    """
    complete = runs[runs["status"] == "complete"]
    if complete.empty:
        raise FigureError("No run is complete; the sweep all_methods_seconds makes them.")
    cells = cell_table(runs)
    for dataset, several in cells[cells["method"] == YARDSTICK].groupby("dataset"):
        check_one_cell(several["cell_id"], f"{YARDSTICK} on {dataset}")
    cells = cells.join(_taken(complete), on=["dataset", "label"])
    cells["family"] = [family(method) for method in cells["method"]]
    datasets = sorted(set(cells["dataset"]), key=dataset_order)
    best = best_and_ties(cells)

    rows: dict[tuple[str, str], dict[str, dict[str, Any]]] = {}
    for cell in cells.to_dict("records"):
        rows.setdefault((cell["family"], cell["label"]), {})[cell["dataset"]] = cell
    groups = []
    for name in (*FAMILIES, OTHER):
        members = sorted((key for key in rows if key[0] == name), key=lambda x: natural_order(x[1]))
        groups.append(tuple(_row(*key, rows[key], datasets, best) for key in members))
    return Table(
        columns=("family", "method", "outer steps",
                 *(column for name in datasets for column in ("seconds", name))),
        groups=tuple(group for group in groups if group),
        caption=_caption(cells, complete["device"]),
        alignment="llr" + "rr" * len(datasets),
        data=cells.drop(columns=["scores", "returns", "seeds"]),
    )  # fmt: skip


def _taken(complete: pd.DataFrame) -> pd.DataFrame:
    """Mean CPU seconds by dataset and label, and mean share of the yardstick's.

    Args:
        complete: Complete runs. Each is held against the yardstick's runs on its own processor.
    """
    aim = complete[complete["method"] == YARDSTICK].groupby(["dataset", "device"])["cpu_seconds"]
    seconds = complete.join(aim.mean().rename("aim"), on=["dataset", "device"])
    seconds["share"] = seconds["cpu_seconds"] / seconds["aim"]
    return seconds.groupby(["dataset", "label"])[["cpu_seconds", "share"]].mean()


def _processors(devices: pd.Series) -> str:
    """On what the seconds were taken, where it is not one processor."""
    counts = devices.value_counts()
    if len(counts) < 2:
        return ""
    of_each = ", ".join(f"{count:,} on {device}" for device, count in counts.items())
    return (
        f"Seconds are means over runs on {len(counts)} kinds of processor ({of_each}); multiples "
        f"compare runs on the same one."
    )


def _row(
    family: str,
    label: str,
    found: Mapping[str, dict[str, Any]],
    datasets: Sequence[str],
    best: Mapping[str, Best],
) -> tuple[Cell, ...]:
    steps = sorted({cell["outer_steps"] for cell in found.values() if cell["outer_steps"] > 0})
    row = [Cell(family), Cell(label), Cell(", ".join(f"{n:,.0f}" for n in steps) or NOTHING)]
    for dataset in datasets:
        if (cell := found.get(dataset)) is None:
            row += [Cell(NOTHING), Cell(NOTHING)]
        else:
            row += [_seconds(cell), _score(cell, best[dataset])]
    return tuple(row)


def _off(cell: dict[str, Any]) -> bool:
    return not math.isnan(cell["share"]) and abs(cell["share"] - 1) > TOLERANCE


def _seconds(cell: dict[str, Any]) -> Cell:
    if math.isnan(cell["cpu_seconds"]):
        return Cell(NOTHING)
    return Cell(f"{cell['cpu_seconds']:.1f}", f"({cell['share']:.2f}x)" if _off(cell) else "")


def _score(cell: dict[str, Any], best: Best) -> Cell:
    if not cell["n"]:
        return Cell("failed" if cell["n_failed"] else "missing")
    score = estimate_cell(cell["value"], cell["low"], cell["high"])
    is_best, is_tied = cell["label"] == best.best, cell["label"] in best.ties
    return Cell(score.text, score.detail, best=is_best, tied=is_tied)


def _caption(cells: pd.DataFrame, devices: pd.Series) -> str:
    done = cells[cells["n"] > 0].to_dict("records")
    iterative = [cell for cell in done if cell["outer_steps"] > 0]
    off = sum(_off(cell) for cell in iterative)
    rule = (
        f"Each iterative method has the outer steps that its cost, measured beforehand, makes of "
        f"{YARDSTICK}'s CPU seconds; scoring is not among them, nor the training of teachers and "
        f"the fit of densities. In brackets: the seconds as a multiple of {YARDSTICK}'s on the "
        f"same dataset, where they are off by more than {100 * TOLERANCE:.0f} %, as in {off} of "
        f"{len(iterative)} cells of iterative methods. Selection and references end when they are "
        f"done, and have nothing to spend the rest on."
    )
    if unknown := sorted({cell["dataset"] for cell in done if math.isnan(cell["share"])}):
        rule += (
            f" On {', '.join(unknown)} no run of {YARDSTICK} is complete, so that nothing says "
            f"there whose seconds are off."
        )
    sentences = (
        caption.intervals(cells),
        caption.protocols(cells["protocol"]),
        caption.students(cells["student"]),
        rule,
        _processors(devices),
        f"Bold: highest mean among distillation methods of a dataset; {DAGGER}: not apart from "
        f"it, {caption.APART}.",
        caption.teachers(cells),
        caption.several_files(cells),
        caption.missing(cells),
    )
    return " ".join(filter(None, sentences))

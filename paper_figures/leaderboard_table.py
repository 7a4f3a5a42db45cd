"""The leaderboard: shipped runs and accepted submissions, one group of rows per task.

Scores compare only where the data, the protocol and the student that is scored are the same: that
is a task. Cells of one origin are never pooled with those of another.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from typing import Any

import pandas as pd

from benchmark.record import Record
from paper_figures import caption
from paper_figures.table import NOTHING, Cell, Table, estimate_cell
from results import cell_table, natural_order, runs_frame
from results.labels import cell_settings, dataset_order, labels
from results.leaderboard import Submission

SHIPPED_BY = "shipped"


def leaderboard(
    shipped: Iterable[Record], submissions: Sequence[Submission], datasets: Collection[str] = ()
) -> Table:
    """Draw up the leaderboard, best mean first within every task, references last.

    Args:
        shipped: Records of the suite's own runs.
        submissions: What was accepted; every row of it says by whom, when, and what of it was
            scored again.
        datasets: Datasets to show; all of them where empty.
    """
    origins: list[tuple[Submission | None, Sequence[Record]]] = [(None, list(shipped))]
    origins += [(submission, submission.records) for submission in submissions]
    origins = [
        (who, [r for r in records if not datasets or r.spec.dataset in datasets])
        for who, records in origins
    ]
    everything = {r.cell_id: r for _, records in origins for r in records}
    names = labels(
        {cell: (r.spec, cell_settings(r.spec, r.parameters)) for cell, r in everything.items()}
    )
    tables = [_rows(who, records, names) for who, records in origins if records]
    if not tables:
        return Table(("dataset",), (), "No run on record.", "l", pd.DataFrame())
    data = pd.concat(tables, ignore_index=True)
    groups: dict[tuple[Any, ...], list[dict[str, Any]]] = defaultdict(list)
    for row in data.to_dict("records"):
        groups[row["task"]].append({str(key): value for key, value in row.items()})
    level = caption.percent(float(data["level"].iloc[0]))
    return Table(
        columns=("dataset", "method", "by", f"score [{level} CI]", "n", "pairs", "scored again"),
        groups=tuple(_group(groups[task]) for task in sorted(groups, key=_task_order)),
        caption=f"{caption.intervals(data)} Ordered by mean within a task: one dataset's content, "
        f"protocol and student; references last. Rows that are {SHIPPED_BY} are the suite's. All "
        f"others are of those who submitted them: the score follows from their own returns, and "
        f"came back within the tolerance for as many runs as were scored again here (in brackets "
        f"the mean change). What their runs cost and used cannot be checked and is left out.",
        alignment="lllrrrr",
        data=data.drop(columns=["task", "scores", "returns", "seeds"]),
    )


def _rows(who: Submission | None, records: Sequence[Record], names: dict[str, str]) -> pd.DataFrame:
    """Cells of one origin, with their task, the pairs of their sets, and what was scored again."""
    runs = runs_frame(records)
    runs = runs.assign(label=[names[cell] for cell in runs["cell_id"]])
    cells = cell_table(runs)
    of_cell: dict[str, list[Record]] = defaultdict(list)
    for record in records:
        of_cell[record.cell_id].append(record)
    found = [of_cell[cell] for cell in cells["cell_id"]]
    return cells.assign(
        task=[_task(same[0]) for same in found],
        student=[dict(zip(runs["cell_id"], runs["student"], strict=True))[c] for c in of_cell],
        by=who.by if who else SHIPPED_BY,
        pairs=[_pairs(who, same) for same in found],
        scored_again=[_scored_again(who, same) for same in found],
    )


def _task(record: Record) -> tuple[Any, ...]:
    """What two scores must share to be compared."""
    spec, reference = record.spec, record.normalisation
    returns = (reference.random, reference.expert) if reference else ()
    return (
        spec.dataset,
        record.provenance.dataset_sha256,
        tuple(round(value, 6) for value in returns),
        spec.protocol,
        spec.scoring_student,
    )


def _task_order(task: tuple[Any, ...]) -> tuple[Any, ...]:
    return dataset_order(task[0]), *map(str, task[1:])


def _pairs(who: Submission | None, records: Sequence[Record]) -> int | None:
    """Pairs of the largest set of a cell: counted in submissions, as declared by shipped ones."""
    if who is None:
        size = records[0].parameters.get("synthetic_size")
        return size if isinstance(size, int) else None
    return max(who.pairs[record.run_id] for record in records)


def _scored_again(who: Submission | None, records: Sequence[Record]) -> str:
    if who is None or who.accepted is None:
        return NOTHING
    again = [one for r in records if (one := who.accepted.rescored.get(r.run_id)) is not None]
    if not again:
        return f"0 of {len(records)}"
    change = sum(one.found - one.recorded for one in again) / len(again)
    return f"{len(again)} of {len(records)} ({change:+.1f})"


def _group(rows: list[dict[str, Any]]) -> tuple[tuple[Cell, ...], ...]:
    """Rows of a task; the first one says what the task is."""
    shown = [row for row in rows if row["n"]]
    shown.sort(key=lambda row: (row["reference"], -row["value"], natural_order(row["label"])))
    cells = []
    for place, row in enumerate(shown):
        task = f"{row['protocol']}; {row['student']}" if place == 0 else ""
        pairs = (
            NOTHING if row["pairs"] is None or math.isnan(row["pairs"]) else f"{row['pairs']:.0f}"
        )
        reference = "reference" if row["reference"] else ""
        cells.append(
            (
                Cell(row["dataset"], task),
                Cell(row["label"], reference),
                Cell(row["by"]),
                estimate_cell(row["value"], row["low"], row["high"]),
                Cell(str(row["n"])),
                Cell(pairs),
                Cell(row["scored_again"]),
            )
        )
    return tuple(cells)

"""The leaderboard: shipped runs and accepted submissions, one group of rows per task.

Scores compare only where the data, the protocol and the student that is scored are the same: that
is a task. Cells of one origin are never pooled with those of another.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Collection, Hashable, Iterable, Mapping, Sequence
from typing import Any

import pandas as pd

from benchmark.record import Record
from benchmark.students.spec import StudentSpec, describe_student
from paper_figures import caption
from paper_figures.table import NOTHING, Cell, Table, estimate_cell
from results import cell_table, natural_order, runs_frame
from results.aggregate import COSTS, TEACHER_RETURNS
from results.frames import declared_pairs
from results.labels import cell_settings, dataset_order, labels
from results.leaderboard import Submission

SHIPPED_BY = "shipped"
UNCHECKED = [*COSTS, "used", "teacher", *TEACHER_RETURNS]
"""Columns that nobody but the submitter vouches for: empty in rows of others."""
Task = tuple[Any, ...]
"""What two scores must share to be compared."""


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
    tasks: dict[Task, dict[Submission | None, list[Record]]] = defaultdict(
        lambda: defaultdict(list)
    )
    for who, records in [(None, shipped), *((one, one.records) for one in submissions)]:
        for record in records:
            if not datasets or record.spec.dataset in datasets:
                tasks[_task(record)][who].append(record)
    if not tasks:
        return Table(("dataset",), (), "No run on record.", "l", pd.DataFrame())
    groups = [_rows(tasks[task]) for task in sorted(tasks, key=_task_order)]
    data = pd.concat(groups, ignore_index=True)
    data[UNCHECKED] = data[UNCHECKED].where(data["by"] == SHIPPED_BY)
    level = caption.percent(float(data["level"].iloc[0]))
    short = f" {caption.missing(data)}" if (data["n"] < data["n_expected"]).any() else ""
    return Table(
        columns=("dataset", "method", "by", f"score [{level} CI]", "n", "pairs", "scored again"),
        groups=tuple(_group(rows.to_dict("records")) for rows in groups),
        caption=f"{caption.intervals(data)} Ordered by mean within a task: one dataset's content, "
        f"protocol and student; references last. Rows that are {SHIPPED_BY} are the suite's. All "
        f"others are of those who submitted them: the score follows from their own returns, and "
        f"came back within the tolerance for as many runs as were scored again here (in brackets "
        f"the mean change). What their runs cost and used cannot be checked and is left out."
        f"{short}",
        alignment="lllrrrr",
        data=data.drop(columns=["scores", "returns", "seeds"]),
    )


def _rows(origins: Mapping[Submission | None, Sequence[Record]]) -> pd.DataFrame:
    """Cells of a task, each with whose it is, the pairs of its sets, and what was scored again."""
    everything = {r.cell_id: r for records in origins.values() for r in records}
    names = labels(
        {cell: (r.spec, cell_settings(r.spec, r.parameters)) for cell, r in everything.items()}
    )
    tables = []
    for who, records in origins.items():
        runs = runs_frame(records)
        cells = cell_table(runs.assign(label=[names[cell] for cell in runs["cell_id"]]))
        found = [[r for r in records if r.cell_id == cell] for cell in cells["cell_id"]]
        tables.append(
            cells.assign(
                student=_scored(records[0].spec.scoring_student),
                by=who.by if who else SHIPPED_BY,
                pairs=[_pairs(who, same) for same in found],
                scored_again=[_scored_again(who, same) for same in found],
            )
        )
    return pd.concat(tables, ignore_index=True)


def _task(record: Record) -> Task:
    spec = record.spec
    # The digest covers environment and reference returns as well (`Dataset.sha256`).
    content = record.provenance.dataset_sha256
    return spec.dataset, content, spec.protocol, spec.scoring_student


def _scored(student: StudentSpec) -> str:
    """The student that a task scores, with what tells two of one architecture apart."""
    rate = "" if student.schedule == "learned" else f", rate {student.learning_rate:g}"
    momentum = f", momentum {student.momentum:g}" if student.momentum else ""
    return f"{describe_student(student)}{rate}{momentum}"


def _task_order(task: Task) -> tuple[Any, ...]:
    return dataset_order(task[0]), *map(str, task[1:])


def _pairs(who: Submission | None, records: Sequence[Record]) -> int | None:
    """Pairs of the largest set of a cell: counted in submissions, as declared by shipped ones."""
    if who is None:
        return declared_pairs(records[0].parameters)
    return max(who.pairs[record.run_id] for record in records)


def _scored_again(who: Submission | None, records: Sequence[Record]) -> str:
    if who is None or who.accepted is None:
        return NOTHING
    again = [one for r in records if (one := who.accepted.rescored.get(r.run_id)) is not None]
    if not again:
        return f"0 of {len(records)}"
    change = sum(one.found - one.recorded for one in again) / len(again)
    return f"{len(again)} of {len(records)} ({change:+.1f})"


def _group(rows: Sequence[Mapping[Hashable, Any]]) -> tuple[tuple[Cell, ...], ...]:
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

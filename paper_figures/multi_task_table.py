"""One student for several tasks next to one per task (HaDES, zero-shot multi-task training)."""

from __future__ import annotations

import pandas as pd

from paper_figures import caption
from paper_figures.figure import require_rows
from paper_figures.table import Cell, Table, estimate_cell
from results.statistics import LEVEL, mean


def multi_task(measured: pd.DataFrame, played: str, *, seed: int = 0) -> Table:
    """Compare the returns of students of a task's own set and of the merged sets.

    One row per method and task.

    Args:
        measured: The study `multi_task`'s rows.
        played: Who played how many episodes on each set, in words.
        seed: Seed of the bootstrap's random draws.

    Raises:
        FigureError: The study has no rows.
    """
    require_rows(measured, "multi_task")
    groups: dict[str, list[tuple[Cell, ...]]] = {}
    data = []
    for (method, task), rows in measured.groupby(["method", "task"], sort=True):
        by_item = rows.pivot_table(index="item", columns="trained_on", values="return")
        paired = by_item.dropna()
        found = {
            "own": mean(list(by_item["own"].dropna()), seed=seed),
            "merged": mean(list(by_item["merged"].dropna()), seed=seed),
            "difference": mean(list(paired["merged"] - paired["own"]), seed=seed),
        }
        cells = [
            estimate_cell(e.value, e.low, e.high, decimals=0, sign="+" * (what == "difference"))
            for what, e in found.items()
        ]
        name = (Cell(str(method)), Cell(str(task)), Cell(str(len(paired))))
        groups.setdefault(str(method), []).append((*name, *cells))
        for what, estimate in found.items():
            data.append(
                {"method": method, "task": task, "what": what, "return": estimate.value,
                 "low": estimate.low, "high": estimate.high, "n": estimate.n}
            )  # fmt: skip
    pairs = sorted(set(measured.loc[measured["trained_on"] == "merged", "pairs"]))
    return Table(
        columns=("method", "task", "n", "its own set", "merged sets", "difference"),
        groups=tuple(tuple(rows) for rows in groups.values()),
        caption=f"Return (not normalized) of students trained on a task's own set, and on the "
        f"merged sets of all tasks ({', '.join(map(str, pairs))} pairs): mean over n seeds, "
        f"{played} each, with {caption.percent(LEVEL)} bootstrap interval; difference paired by "
        f"seed. No student saw an environment; those of merged sets are not told their task.",
        alignment="llrrrr",
        data=pd.DataFrame(data),
    )

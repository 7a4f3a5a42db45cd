"""One student for several tasks, beside one a task (HaDES, zero-shot multi-task training)."""

from __future__ import annotations

import pandas as pd

from paper_figures import caption
from paper_figures.figure import FigureError
from paper_figures.table import NOTHING, Cell, Table
from results.statistics import LEVEL, Estimate, mean


def multi_task(measured: pd.DataFrame, played: str, *, seed: int = 0) -> Table:
    """A row a method and task: return of students of its own set, of the merged one, difference.

    Args:
        measured: The study `multi_task`'s rows.
        played: Who played how many episodes on each set, in words.
        seed: Of the bootstrap.

    Raises:
        FigureError: There are none.
    """
    if measured.empty:
        raise FigureError("The study multi_task has no rows.")
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
        cells = [_cell(found["own"]), _cell(found["merged"]), _cell(found["difference"], "+")]
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


def _cell(found: Estimate, sign: str = "") -> Cell:
    interval = f"[{found.low:.0f}, {found.high:.0f}]" if found.has_interval else NOTHING
    return Cell(f"{found.value:{sign}.0f}", interval)

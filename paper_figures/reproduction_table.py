"""Published next to reproduced: every number of the papers, with a verdict."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict

import pandas as pd

from paper_figures import caption
from paper_figures.table import NOTHING, Cell, Table, estimate_cell
from results.comparison import RULE, Comparison
from results.statistics import LEVEL

REASONS_SHOWN = 3


def reproduction_table(comparisons: Sequence[Comparison]) -> Table:
    """One row per published cell, one group per table of a paper.

    Args:
        comparisons: What `results.comparison.compare` gives.
    """
    groups: dict[tuple[str, str], list[tuple[Cell, ...]]] = {}
    for one in comparisons:
        groups.setdefault((one.published.paper, one.published.table), []).append(_row(one))
    counts = Counter(one.verdict for one in comparisons)
    tally = ", ".join(f"{count} {verdict}" for verdict, count in sorted(counts.items())) or "none"
    here = f"here [{caption.percent(LEVEL)} CI]"
    return Table(
        columns=("paper", "table", "row", "dataset", "published", here, "n", "on", "difference",
                 "verdict"),
        groups=tuple(tuple(rows) for rows in groups.values()),
        caption=f"{len(comparisons)} published numbers: {tally}. {RULE} Here: mean normalized "
        f"return over n seeds of the run that differs in the fewest settings.",
        alignment="llllrrrlrl",
        data=_data(comparisons),
    )  # fmt: skip


def _row(one: Comparison) -> tuple[Cell, ...]:
    published, found = one.published, one.reproduced
    names = (published.paper, published.table, published.row, published.dataset)
    if found is None:
        here = (Cell(NOTHING), Cell("0"), Cell(NOTHING), Cell(NOTHING))
    else:
        here = (
            estimate_cell(found.value, found.low, found.high),
            Cell(str(found.n)),
            Cell(one.dataset or NOTHING),
            Cell(NOTHING if one.difference is None else f"{round(one.difference, 1) + 0.0:+.1f}"),
        )
    more = len(one.reasons) - REASONS_SHOWN
    reasons = "; ".join(one.reasons[:REASONS_SHOWN]) + (f"; {more} more" if more > 0 else "")
    verdict = Cell(one.verdict, f"({reasons})" if reasons else "")
    return (*map(Cell, names), Cell(f"{published.value:,.10g}"), *here, verdict)


def _data(comparisons: Sequence[Comparison]) -> pd.DataFrame:
    rows = []
    for one in comparisons:
        published = asdict(one.published)
        names = ("paper", "source", "table", "row", "dataset")
        found = asdict(one.reproduced) if one.reproduced else {"n": 0}
        rows.append(
            {name: published[name] for name in names}
            | {"published": one.published.value, "reproduced": found.get("value"),
               "low": found.get("low"), "high": found.get("high"), "n": found["n"],
               "reproduced_on": one.dataset, "difference": one.difference,
               "verdict": one.verdict, "reasons": "; ".join(one.reasons)}
        )  # fmt: skip
    return pd.DataFrame(rows)

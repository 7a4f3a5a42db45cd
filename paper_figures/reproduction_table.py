"""Published next to reproduced: every number of the papers, with a verdict."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict

import numpy as np
import pandas as pd

from benchmark.artefacts.score import VARIANTS, ArtefactScore
from paper_figures import caption
from paper_figures.table import NOTHING, Cell, Table, estimate_cell
from results.author_files import AUTHORS_RULE, by_variant, published_rows
from results.comparison import JUDGED, RULE, Comparison
from results.statistics import LEVEL

REASONS_SHOWN = 3


def reproduction_table(comparisons: Sequence[Comparison]) -> Table:
    """One row per published cell, one group per table of a paper; those with a verdict first.

    Args:
        comparisons: What `results.comparison.compare` gives.
    """
    comparisons = sorted(comparisons, key=lambda one: one.verdict not in JUDGED)
    groups: dict[tuple[bool, str, str], list[tuple[Cell, ...]]] = {}
    for one in comparisons:
        key = (one.verdict in JUDGED, one.published.paper, one.published.table)
        groups.setdefault(key, []).append(_row(one))
    here = f"here [{caption.percent(LEVEL)} CI]"
    return Table(
        columns=("paper", "table", "row", "dataset", "published", here, "n", "on", "difference",
                 "verdict"),
        groups=tuple(tuple(rows) for rows in groups.values()),
        caption=f"{tally(comparisons)} {RULE} Here: mean over n seeds of the run that differs in "
        f"the fewest settings; over n students of the authors' files.",
        alignment="llllrrrlrl",
        data=_data(comparisons),
    )  # fmt: skip


def rescored_table(comparisons: Sequence[Comparison], scores: Sequence[ArtefactScore]) -> Table:
    """One row per file of the authors that has a score, one group per environment.

    Args:
        comparisons: What `results.comparison.compare` gives for `file_cells`.
        scores: Scores of the authors' artefacts, files without a stated score among them.
    """
    by_name = by_variant(scores)
    judged = {one.published.row: one for one in comparisons if one.reproduced is not None}
    groups: dict[str, list[tuple[Cell, ...]]] = {}
    rows = []
    for name in sorted({score.artefact for score in scores}):
        found = {
            variant: by_name[name, variant] for variant in VARIANTS if (name, variant) in by_name
        }
        environment = next(iter(found.values())).environment
        one = judged.get(name)
        verdict = one.verdict if one else ""
        stated = one.published.value if one else None
        shown = [_mean(found.get(variant)) for variant in VARIANTS]
        groups.setdefault(environment, []).append(
            (
                Cell(name),
                Cell(NOTHING if stated is None else f"{stated:,.6g}"),
                *(Cell(NOTHING if value is None else f"{value:,.5g}") for value in shown),
                Cell(verdict, f"({'; '.join(one.reasons)})" if one and one.reasons else ""),
            )
        )
        rows.append(
            {"artefact": name, "environment": environment, "stated": stated}
            | dict(zip(VARIANTS, shown, strict=True))
            | {f"{variant}_first": score.first for variant, score in found.items()}
            | {"verdict": verdict}
        )
    kinds = "; ".join(f"{variant}: {text}" for variant, text in VARIANTS.items())
    return Table(
        columns=("artefact", "the file states", *VARIANTS, "verdict"),
        groups=tuple(tuple(rows) for rows in groups.values()),
        caption=f"{tally(comparisons, 'scores that files state')} Mean over students of the "
        f"authors' statistic. {kinds}. {AUTHORS_RULE}",
        alignment="lr" + "r" * len(VARIANTS) + "l",
        data=pd.DataFrame(rows),
    )


def _mean(score: ArtefactScore | None) -> float | None:
    return None if score is None else float(np.mean(published_rows(score)))


def tally(comparisons: Sequence[Comparison], what: str = "published numbers") -> str:
    """The sentence that counts verdicts: "3 of 5 published numbers judged: 1 reproduced, ..."."""
    counts = Counter(one.verdict for one in comparisons)
    judged = ", ".join(
        f"{counts[verdict]} {word}"
        for verdict, word in zip(JUDGED, ("reproduced", "differ", "inconclusive"), strict=True)
    )
    others = "".join(
        f"; {count} {verdict}" for verdict, count in sorted(counts.items()) if verdict not in JUDGED
    )
    return (
        f"{sum(counts[verdict] for verdict in JUDGED)} of {len(comparisons)} {what} judged: "
        f"{judged}{others}."
    )


def _row(one: Comparison) -> tuple[Cell, ...]:
    published, found = one.published, one.reproduced
    names = (published.paper, published.table, published.row, published.dataset)
    decimals = 3 if published.unit == "accuracy" else 1
    if found is None:
        here = (Cell(NOTHING), Cell("0"), Cell(NOTHING), Cell(NOTHING))
    else:
        here = (
            estimate_cell(found.value, found.low, found.high, decimals=decimals),
            Cell(str(found.n)),
            Cell(one.dataset or NOTHING),
            Cell(NOTHING if one.difference is None else _signed(one.difference, decimals)),
        )
    more = len(one.reasons) - REASONS_SHOWN
    reasons = "; ".join(one.reasons[:REASONS_SHOWN]) + (f"; {more} more" if more > 0 else "")
    verdict = Cell(one.verdict, f"({reasons})" if reasons else "")
    return (*map(Cell, names), Cell(f"{published.value:,.10g}"), *here, verdict)


def _signed(number: float, decimals: int) -> str:
    return f"{round(number, decimals) + 0.0:+.{decimals}f}"  # + 0.0 turns -0.0 into 0.0


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

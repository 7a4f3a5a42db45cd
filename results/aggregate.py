"""From runs to cells: one row a (dataset, label), and which method is best on a dataset.

A cell that lacks seeds, or whose seeds failed, keeps its row and says so in ``n``, ``n_expected``,
``n_failed`` and ``errors``.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from benchmark.errors import ObdBenchError
from results.frames import KNOWN_REFERENCES
from results.statistics import LEVEL, iqm, mean

CELL_COLUMNS = {
    "dataset": "str",
    "method": "str",
    "label": "str",
    "reference": "bool",
    "cell_id": "str",
    "protocol": "str",
    "n": "int64",
    "n_expected": "int64",
    "n_failed": "int64",
    "errors": "str",
    "value": "float64",
    "low": "float64",
    "high": "float64",
    "interval": "str",
    "level": "float64",
    "iqm": "float64",
    "iqm_low": "float64",
    "iqm_high": "float64",
    "wall_seconds": "float64",
    "outer_steps": "float64",
    "environment_steps": "float64",
    "used": "str",
    "teacher": "str",
    "teacher_return": "float64",
    "teacher_normalized_return": "float64",
    "scores": "object",
}

COSTS = ("wall_seconds", "outer_steps", "environment_steps")
TEACHER_RETURNS = ("teacher_return", "teacher_normalized_return")


class AggregationError(ObdBenchError):
    """Runs that cannot be put together into cells."""


@dataclass(frozen=True)
class Best:
    """The best distillation method of one dataset, by label.

    ``best`` has the highest mean, and is None where no distillation method has a score. ``ties``
    have an interval that overlaps that of the best. ``undecided`` cannot be told from the best
    because one of the two has a single seed and hence no interval.
    """

    best: str | None
    ties: tuple[str, ...]
    undecided: tuple[str, ...]


def cell_table(
    runs: pd.DataFrame,
    expected_seeds: Mapping[str, int] | None = None,
    *,
    seed: int = 0,
    level: float = LEVEL,
) -> pd.DataFrame:
    """One row a (dataset, label), sorted by them, with the columns of `CELL_COLUMNS`.

    Args:
        runs: what `results.frames.runs_frame` gives.
        expected_seeds: cell id -> number of seeds the sweep asked for. A cell without any record
            gets a row as well. Where it is None, or has no entry for a cell, the runs on record
            are what was expected.
        seed: of the bootstrap.
        level: of the confidence intervals.

    ``value``, ``low``, ``high`` are the mean normalized return over complete runs and its
    interval, NaN where there is none; ``scores`` holds the runs' scores in order of seed. Costs are
    means over complete runs, the teacher's returns over all runs of the cell.

    Raises:
        AggregationError: if two cells share a dataset and label, a complete run's score is not
            finite, or an expected cell's id is not of the form <dataset>.<method>.<digest>.
    """
    expected = dict(expected_seeds or {})
    rows = [
        _cell(cell, expected.pop(str(cell["cell_id"].iloc[0]), len(cell)), seed=seed, level=level)
        for _, cell in runs.groupby(["dataset", "label"], sort=True)
    ]
    rows += _unseen_cells(expected, runs, level)
    data = {
        name: pd.Series([row[name] for row in rows], dtype=kind)
        for name, kind in CELL_COLUMNS.items()
    }
    table = pd.DataFrame(data)
    return table.sort_values(["dataset", "label"], kind="stable", ignore_index=True)


def best_and_ties(table: pd.DataFrame) -> dict[str, Best]:
    """Dataset -> its best distillation method and what ties with it; references do not compete.

    Overlapping intervals are a cautious reading: methods whose intervals overlap a little can still
    differ. Equal means are resolved by label, and the other one is a tie.
    """
    return {str(dataset): _best(rows) for dataset, rows in table.groupby("dataset", sort=True)}


def _best(rows: pd.DataFrame) -> Best:
    competing = rows[~rows["reference"] & (rows["n"] > 0)]
    if competing.empty:
        return Best(None, (), ())
    ordered = competing.sort_values(["value", "label"], ascending=[False, True], kind="stable")
    best = ordered.iloc[0]
    others = ordered.iloc[1:].sort_values("label")
    unknown = others["low"].isna() | math.isnan(best["low"])
    overlap = ~unknown & (others["low"] <= best["high"]) & (best["low"] <= others["high"])
    return Best(
        str(best["label"]),
        tuple(others.loc[overlap, "label"]),
        tuple(others.loc[unknown, "label"]),
    )


def _cell(runs: pd.DataFrame, expected: int, *, seed: int, level: float) -> dict[str, Any]:
    first = runs.iloc[0]
    _one_cell(runs)
    complete = runs[runs["status"] == "complete"].sort_values("seed")
    failed = runs[runs["status"] != "complete"]
    names = ("dataset", "method", "label", "reference", "cell_id", "used")
    row = {name: first[name] for name in names}
    row |= _empty_scores(level)
    row |= {name: _mean(complete[name]) for name in COSTS}
    # The teacher is the same in a failed run, so what it recorded is worth keeping.
    row |= {name: _mean(runs[name]) for name in TEACHER_RETURNS}
    row |= {
        "protocol": first["protocol_detail"],
        "teacher": first["teacher"],
        "n": len(complete),
        "n_expected": expected,
        "n_failed": len(failed),
        "errors": _count_errors(failed["error"]),
    }
    if len(complete):
        row |= _scores(complete, seed=seed, level=level)
    return row


def _one_cell(runs: pd.DataFrame) -> None:
    cells = sorted(set(runs["cell_id"]))
    if len(cells) > 1:
        raise AggregationError(
            f"cells {cells[0]!r} and {cells[1]!r} share the label {runs['label'].iloc[0]!r} on "
            f"{runs['dataset'].iloc[0]!r}. Labels hold within one frame: build it with runs_frame "
            "from all records at once instead of joining frames."
        )


def _scores(complete: pd.DataFrame, *, seed: int, level: float) -> dict[str, Any]:
    scores = [float(score) for score in complete["normalized_return"]]
    for run_id, score in zip(complete["run_id"], scores, strict=True):
        if not math.isfinite(score):
            raise AggregationError(
                f"run {run_id!r} is complete with normalized return {score}; expected a finite "
                "number. Record it as failed or run it again."
            )
    average = mean(scores, seed=seed, level=level)
    middle = iqm(scores, seed=seed, level=level)
    return {
        "value": average.value,
        "low": average.low,
        "high": average.high,
        "interval": average.interval,
        "iqm": middle.value,
        "iqm_low": middle.low,
        "iqm_high": middle.high,
        "scores": tuple(scores),
    }


def _empty_scores(level: float) -> dict[str, Any]:
    names = ("value", "low", "high", "iqm", "iqm_low", "iqm_high", *COSTS, *TEACHER_RETURNS)
    row: dict[str, Any] = dict.fromkeys(names, math.nan)
    return row | {"interval": "none", "level": level, "scores": ()}


def _unseen_cells(
    expected: Mapping[str, int], runs: pd.DataFrame, level: float
) -> list[dict[str, Any]]:
    """Rows for cells of the sweep that left no record; their ids are all that is known."""
    datasets = {str(name).replace("/", "-"): str(name) for name in runs["dataset"]}
    parts = {cell_id: _parts(cell_id) for cell_id in sorted(expected)}
    siblings = Counter((slug, method) for slug, method, _ in parts.values())
    rows = []
    for cell_id, (slug, method, digest) in parts.items():
        dataset = datasets.get(slug, slug)
        known = runs[runs["method"] == method]
        # The bare name is the label as long as nothing else could be meant by it.
        plain = set(known["label"]) <= {method} and dataset not in set(known["dataset"])
        label = method if plain and siblings[slug, method] == 1 else f"{method} #{digest}"
        row = _empty_scores(level) | {"n": 0, "n_expected": expected[cell_id], "n_failed": 0}
        row |= {"dataset": dataset, "method": method, "label": label, "cell_id": cell_id}
        row["reference"] = known["reference"].any() if len(known) else method in KNOWN_REFERENCES
        row |= dict.fromkeys(("protocol", "errors", "used", "teacher"), "")
        rows.append(row)
    return rows


def _parts(cell_id: str) -> tuple[str, str, str]:
    """Dataset (with "-" for "/"), method and digest of a cell id."""
    parts = cell_id.rsplit(".", 2)
    if len(parts) != 3:
        raise AggregationError(
            f"expected_seeds has the cell id {cell_id!r}; expected <dataset>.<method>.<digest>, as "
            "in the records."
        )
    return parts[0], parts[1], parts[2]


def _mean(values: pd.Series) -> float:
    known = values.dropna()
    return float(known.mean()) if len(known) else math.nan


def _count_errors(errors: pd.Series) -> str:
    """For example "MemoryError x2, RuntimeError"."""
    counts = errors.fillna("unknown error").value_counts().sort_index()
    return ", ".join(f"{name} x{n}" if n > 1 else f"{name}" for name, n in counts.items())

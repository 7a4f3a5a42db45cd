"""From runs to cells: one row per (dataset, label), and which method is best on a dataset.

A cell that lacks seeds, or whose seeds failed, keeps its row and says so in ``n``, ``n_expected``,
``n_failed`` and ``errors``.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from benchmark.errors import ObdBenchError
from results.bootstrap import RESAMPLES, iqm_over_runs, mean_over_tasks
from results.differences import Difference, holm, mean_difference
from results.labels import natural_order
from results.statistics import LEVEL, estimates

CELL_COLUMNS = {
    "dataset": "str",
    "method": "str",
    "label": "str",
    "settings": "str",
    "reference": "bool",
    "cell_id": "str",
    "protocol": "str",
    "student": "str",
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
    "density": "str",
    "teacher_sha256": "str",
    "density_sha256": "str",
    "teacher_return": "float64",
    "teacher_normalized_return": "float64",
    "scores": "object",
    "returns": "object",
    "seeds": "object",
}

COSTS = ("wall_seconds", "outer_steps", "environment_steps")
TEACHER_RETURNS = ("teacher_return", "teacher_normalized_return")


class AggregationError(ObdBenchError):
    """Runs that cannot be put together into cells."""


@dataclass(frozen=True)
class Best:
    """The best distillation method of one dataset, by label.

    ``best`` has the highest mean, and is None where no distillation method has a score. ``ties``
    are not apart from it (`results.differences`). ``undecided`` cannot be told from the best
    because one of the two has a single seed and hence no interval.
    """

    best: str | None
    ties: tuple[str, ...]
    undecided: tuple[str, ...]


def cell_table(runs: pd.DataFrame, *, seed: int = 0, level: float = LEVEL) -> pd.DataFrame:
    """One row per (dataset, label), sorted by them, with the columns of `CELL_COLUMNS`.

    Args:
        runs: What `results.frames.runs_frame` gives. Given the runs of a sweep, it has a row for
            each that lacks a record, so that a cell without any record gets a row here as well.
        seed: Seed of the bootstrap.
        level: Level of the confidence intervals.

    ``value``, ``low``, ``high`` are the mean normalized return over complete runs and its
    interval, NaN where there is none; ``scores`` and ``returns`` hold those of the runs in order of
    ``seeds``.
    Costs are means over complete runs, the teacher's returns over all runs of the cell.

    Raises:
        AggregationError: Two cells share a dataset and label, or a complete run's score is not
            finite.
    """
    # Plain rows: pandas takes longer to cut out one cell than all of its statistics do.
    plain = runs.assign(**{name: runs[name].astype("float64") for name in COSTS})
    columns = [plain[name].tolist() for name in plain]
    cells: dict[tuple[str, str], list[dict[str, Any]]] = defaultdict(list)
    for values in zip(*columns, strict=True):
        run = dict(zip(plain, values, strict=True))
        cells[run["dataset"], run["label"]].append(run)
    rows = [_cell(cells[key], level=level) for key in sorted(cells)]
    scored = [row for row in rows if row["scores"]]
    scores = [row["scores"] for row in scored]
    means = estimates(scores, mean_over_tasks, seed=seed, level=level)
    middles = estimates(scores, iqm_over_runs, seed=seed, level=level)
    for row, average, middle in zip(scored, means, middles, strict=True):
        row |= {name: getattr(average, name) for name in ("value", "low", "high", "interval")}
        row |= {"iqm": middle.value, "iqm_low": middle.low, "iqm_high": middle.high}
    data = {
        name: pd.Series([row[name] for row in rows], dtype=kind)
        for name, kind in CELL_COLUMNS.items()
    }
    return pd.DataFrame(data)


def best_and_ties(table: pd.DataFrame) -> dict[str, Best]:
    """Dataset -> its best distillation method and what ties with it; references do not compete.

    Every other method is compared with the best of its dataset, by the difference of their means
    (paired by seed where both have the same seeds). A tie is one that is not apart at the table's
    level after Holm's correction for all of its comparisons. Equal means are resolved by label.

    Args:
        table: Rows of `cell_table`, or rows of means over datasets, whose ``scores`` are by dataset
            and seed.
    """
    best: dict[str, str | None] = {}
    names: list[tuple[str, str]] = []
    found: list[Difference] = []
    datasets: dict[str, list[dict[str, Any]]] = {name: [] for name in sorted(set(table["dataset"]))}
    for row in table.to_dict("records"):
        if not row["reference"] and row["n"] > 0:
            datasets[row["dataset"]].append(row)
    for dataset, rows in datasets.items():
        rows.sort(key=lambda row: (-row["value"], row["label"]))
        scores = [(str(row["label"]), _scores_by_task(row)) for row in rows]
        best[dataset] = scores[0][0] if scores else None
        for label, other in scores[1:]:
            names.append((dataset, label))
            found.append(mean_difference(scores[0][1], other))
    adjusted = dict(zip(names, holm([one.p for one in found]), strict=True))
    alpha = 1 - (float(table["level"].iloc[0]) if len(table) else LEVEL)

    ties: dict[str, list[str]] = {dataset: [] for dataset in best}
    undecided: dict[str, list[str]] = {dataset: [] for dataset in best}
    for (dataset, label), p in sorted(adjusted.items()):
        if p >= alpha:
            ties[dataset].append(label)
        elif math.isnan(p):
            undecided[dataset].append(label)
    return {
        dataset: Best(label, tuple(ties[dataset]), tuple(undecided[dataset]))
        for dataset, label in best.items()
    }


def _scores_by_task(row: Mapping[str, Any]) -> Mapping[str, Mapping[int, float]]:
    if isinstance(row["scores"], Mapping):
        by_task: Mapping[str, Mapping[int, float]] = row["scores"]
        return by_task
    return {row["dataset"]: dict(zip(row["seeds"], row["scores"], strict=True))}


def _cell(runs: list[dict[str, Any]], *, level: float) -> dict[str, Any]:
    first = runs[0]
    _one_cell(runs)
    complete = sorted(
        (run for run in runs if run["status"] == "complete"), key=lambda run: run["seed"]
    )
    failed = [run for run in runs if run["status"] == "failed"]
    names = ("dataset", "method", "label", "settings", "reference", "cell_id")
    row = {name: first[name] for name in names}
    row["used"] = max(run["used"] for run in runs)  # empty in runs without a record
    row |= _empty_scores(level)
    row |= {name: _mean(complete, name) for name in COSTS}
    # The teacher is the same in a failed run, so what it recorded is worth keeping.
    row |= {name: _mean(runs, name) for name in TEACHER_RETURNS}
    row |= {
        "protocol": first["protocol_detail"],
        "student": first["student"],
        "teacher": first["teacher"],
        "density": first["density"],
        "teacher_sha256": _of_any(runs, "teacher_sha256"),
        "density_sha256": _of_any(runs, "density_sha256"),
        "n": len(complete),
        "n_expected": len(runs),
        "n_failed": len(failed),
        "errors": _count_errors(failed),
    }
    if complete:
        row |= _scores(complete)
    return row


def _one_cell(runs: list[dict[str, Any]]) -> None:
    cells = sorted({run["cell_id"] for run in runs})
    if len(cells) > 1:
        raise AggregationError(
            f"cells {cells[0]!r} and {cells[1]!r} share the label {runs[0]['label']!r} on "
            f"{runs[0]['dataset']!r}. Labels hold within one frame: build it with runs_frame "
            "from all records at once instead of joining frames."
        )


def _scores(complete: list[dict[str, Any]]) -> dict[str, Any]:
    scores = [float(run["normalized_return"]) for run in complete]
    for run, score in zip(complete, scores, strict=True):
        if not math.isfinite(score):
            raise AggregationError(
                f"run {run['run_id']!r} is complete with normalized return {score}; expected a "
                "finite number. Record it as failed or run it again."
            )
    return {
        "scores": tuple(scores),
        "returns": tuple(float(run["return"]) for run in complete),
        "seeds": tuple(int(run["seed"]) for run in complete),
    }


def _empty_scores(level: float) -> dict[str, Any]:
    names = ("value", "low", "high", "iqm", "iqm_low", "iqm_high", *COSTS, *TEACHER_RETURNS)
    row: dict[str, Any] = dict.fromkeys(names, math.nan)
    return row | {"interval": "none", "level": level, "scores": (), "returns": (), "seeds": ()}


def _of_any(runs: list[dict[str, Any]], name: str) -> str | None:
    """What the runs that have it have in common; runs without a record, or that failed, may not."""
    return next((run[name] for run in runs if isinstance(run[name], str)), None)


def _mean(runs: list[dict[str, Any]], name: str) -> float:
    known = [run[name] for run in runs if not math.isnan(run[name])]
    return float(np.mean(known)) if known else math.nan


def _count_errors(failed: list[dict[str, Any]]) -> str:
    """For example "MemoryError x2, RuntimeError"."""
    errors = (run["error"] for run in failed)
    counts = Counter("unknown error" if pd.isna(error) else error for error in errors)
    return ", ".join(f"{name} x{n}" if n > 1 else name for name, n in sorted(counts.items()))


Scores = Mapping[str, Mapping[str, Sequence[float]]]
"""Label -> dataset -> normalized returns over seeds."""


@dataclass(frozen=True)
class CommonScores:
    """Scores of the methods that have complete runs on every dataset.

    Args:
        scores: Normalized returns over complete runs, by label and dataset.
        datasets: Every dataset of the runs.
        left_out: Labels that lack a complete run on some dataset.
        references: Labels that are compared with but distil nothing.
    """

    scores: Scores
    datasets: tuple[str, ...]
    left_out: tuple[str, ...]
    references: frozenset[str]


def common_scores(runs: pd.DataFrame) -> CommonScores:
    """Collect the scores of all labels that have complete runs on every dataset of the frame.

    Args:
        runs: What `results.frames.runs_frame` gives.
    """
    complete = runs[runs["status"] == "complete"]
    datasets = tuple(sorted(set(runs["dataset"])))
    columns = (complete[name] for name in ("label", "dataset", "seed", "normalized_return"))
    scores: dict[str, dict[str, list[float]]] = defaultdict(dict)
    for label, dataset, _, score in sorted(zip(*columns, strict=True)):
        scores[label].setdefault(dataset, []).append(float(score))
    whole = {label: tasks for label, tasks in scores.items() if len(tasks) == len(datasets)}
    return CommonScores(
        {label: whole[label] for label in sorted(whole, key=natural_order)},
        datasets,
        tuple(sorted(set(runs["label"]) - whole.keys(), key=natural_order)),
        frozenset(runs.loc[runs["reference"], "label"]),
    )


def rank_probabilities(scores: Scores, *, seed: int = 0) -> pd.DataFrame:
    """Estimate how often each method takes each rank when the seeds are drawn again.

    Seeds are resampled with replacement inside every dataset; methods are ranked by their mean over
    datasets. Equal means share their ranks: of two that are first, each has half of the first rank
    and half of the second. A method whose rank is certain has one entry of 1.

    Args:
        scores: Normalized returns by label; every label has the same datasets.
        seed: Seed of the resampling.

    Returns:
        Probabilities: one row per label, one column per rank, 1 being the best.
    """
    generator = np.random.default_rng(seed)
    # [methods, RESAMPLES]: the mean over datasets of the means over resampled seeds.
    means = np.stack(
        [
            np.mean([_resampled_means(task, generator) for task in tasks.values()], axis=0)
            for tasks in scores.values()
        ]
    )
    count = len(means)
    table = []
    for mine in means:
        # A method has the ranks, from 0, above which others are better, as many as have its mean.
        better, equal = (means > mine).sum(0), (means == mine).sum(0)
        table.append(
            [
                float(np.where((better <= rank) & (rank < better + equal), 1 / equal, 0.0).mean())
                for rank in range(count)
            ]
        )
    return pd.DataFrame(table, index=list(scores), columns=range(1, count + 1))


def _resampled_means(scores: Sequence[float], generator: np.random.Generator) -> np.ndarray:
    """Means `[RESAMPLES]` of the seeds drawn with replacement."""
    values = np.asarray(scores)
    draws = generator.integers(len(values), size=(RESAMPLES, len(values)))
    return np.asarray(values[draws].mean(1))

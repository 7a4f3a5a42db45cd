"""Content of the report as plain values: cells, runs, and published numbers next to them."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from benchmark.datasets.diversity import PrincipalComponents
from benchmark.errors import ObdBenchError
from benchmark.record import Record, check_set
from benchmark.run import run_folder
from benchmark.spec import RunSpec
from benchmark.sweep import Sweep
from benchmark.synthetic_set import load_synthetic_set
from obdbench.sweep_status import SweepStatus
from results import Best, best_and_ties
from results.comparison import RULE, Comparison, compare, published_cells

PIXELS = 1000
"""Number of values that a coordinate of a set's picture can take, from 0."""
FLAT = 1e-9
"""Points that differ by less than this along an axis differ only by rounding."""

Rank = Literal["best", "tie", "undecided", ""]


def content(
    store: Path,
    sweep: Sweep,
    records: Sequence[Record],
    states: SweepStatus,
    table: pd.DataFrame,
) -> dict[str, Any]:
    """Gather everything that the page's script needs, ready for JSON.

    Args:
        store: Folder of records, which holds the sets.
        sweep: Sweep that the report is about.
        records: Records of its runs.
        states: Status of all its runs.
        table: What `results.cell_table` gives for the sweep.
    """
    best = best_and_ties(table)
    provenance: dict[str, int] = {}
    by_id = {record.run_id: record for record in records}
    pictures, altered = _pictures(store, sweep, by_id)
    return {
        "name": sweep.name,
        "description": sweep.description,
        "counts": dict(states.counts),
        "cells": [_cell(row, best[row["dataset"]]) for _, row in table.iterrows()],
        "specs": {cell: _spec(runs[0]) for cell, runs in sweep.cells.items()},
        "labels": dict(zip(table["cell_id"], table["label"], strict=True)),
        "runs": [
            _run(run, by_id.get(run.run_id), states.of(run).state, provenance)
            for run in sweep.runs
        ],
        "pictures": pictures, "altered": altered,
        "provenance": [json.loads(facts) for facts in provenance],
        "published": [_published(one) for one in compare(published_cells(), records)
                      if one.reproduced is not None],
        "rule": RULE,
    }  # fmt: skip


def _cell(row: pd.Series, best: Best) -> dict[str, Any]:
    keys = (
        "cell_id", "dataset", "method", "label", "reference", "value", "low", "high", "n",
        "n_expected", "n_failed", "wall_seconds", "outer_steps", "environment_steps", "used",
        "level",
    )  # fmt: skip
    return {key: _plain(row[key]) for key in keys} | {"rank": _rank(row["label"], best)}


def _rank(label: str, best: Best) -> Rank:
    """Rank a method on its dataset; "" where it is behind or does not compete."""
    if label == best.best:
        return "best"
    if label in best.ties:
        return "tie"
    return "undecided" if label in best.undecided else ""


def _spec(run: RunSpec) -> dict[str, Any]:
    spec = run.as_dict()
    del spec["seed"]
    return spec


def _run(
    run: RunSpec, record: Record | None, state: str, provenance: dict[str, int]
) -> dict[str, Any]:
    row: dict[str, Any] = {"cell": run.cell_id, "seed": run.seed, "state": state}
    if record is None:
        return row
    values = record.as_dict()
    facts = json.dumps({key: v for key, v in values["provenance"].items() if key != "seeds"})
    row |= {
        "score": record.score and record.score.normalized_return,
        "curve": [[c.outer_step, round(c.normalized_return, 3)] for c in record.checkpoints],
        "cost": {key: _plain(value) for key, value in values["cost"].items()},
        "provenance": provenance.setdefault(facts, len(provenance)),
        "sha256": record.checkpoints[-1].sha256 if record.checkpoints else None,
        "finished": record.finished,
    }
    if record.error is not None:
        row["error"] = values["error"]
    return row


def _pictures(
    store: Path, sweep: Sweep, records: Mapping[str, Record]
) -> tuple[dict[str, dict[str, Any]], list[str]]:
    """Picture the first stored set of each cell, by run id; also say which sets were altered."""
    pictures, altered = {}, []
    for runs in sweep.cells.values():
        for run in runs:
            record = records.get(run.run_id)
            if record is None or not record.checkpoints or not record.checkpoints[-1].synthetic_set:
                continue
            folder, last = run_folder(store, run), record.checkpoints[-1]
            if not (folder / str(last.synthetic_set)).exists():
                continue
            try:
                pictures[run.run_id] = picture(check_set(record, last, folder))
            except ObdBenchError as error:
                altered.append(str(error))
                continue
            break
    return pictures, altered


def picture(path: Path) -> dict[str, Any]:
    """Project a set's pairs onto the two directions in which their observations differ most.

    Points `[N, 3]`: x, y, and the action's first component, each scaled to whole numbers.
    """
    found, _, _ = load_synthetic_set(path)
    points, explained = _on_a_plane(found.observations.numpy().astype(np.float64))
    drawn = np.column_stack([points, found.actions.numpy()[:, 0]])
    return {"points": _whole_numbers(drawn).tolist(), "explained": round(explained, 3)}


def _on_a_plane(observations: NDArray[np.float64]) -> tuple[NDArray[np.float64], float]:
    """Project observations `[N, obs_dim]` to places `[N, 2]`; also return the share of variance.

    Observations that do not differ are all at the origin, which shows none of it.
    """
    spread = observations.std(0)
    centred = (observations - observations.mean(0)) / np.where(spread > 0, spread, 1.0)
    places = np.zeros((len(centred), 2))
    if not centred.any():
        return places, 0.0
    plane = PrincipalComponents.of(centred, min(2, centred.shape[1]))
    places[:, : len(plane.axes)] = plane.at(centred)
    return places, float(plane.shares.sum())


def _whole_numbers(points: NDArray[np.float64]) -> NDArray[np.int64]:
    """Scale each column to 0 ... `PIXELS` - 1; one whose values are all the same is 0."""
    from_low = points - points.min(0)
    span = from_low.max(0)
    scaled = np.where(span > FLAT, from_low, 0.0) / np.where(span > FLAT, span, 1.0)
    return (scaled * (PIXELS - 1)).round().astype(np.int64)


def _published(one: Comparison) -> dict[str, Any]:
    assert one.reproduced is not None
    return {
        "source": one.published.source, "table": one.published.table, "row": one.published.row,
        "dataset": one.published.dataset, "published": one.published.value,
        "value": one.reproduced.value, "low": _plain(one.reproduced.low),
        "high": _plain(one.reproduced.high), "n": one.reproduced.n, "on": one.dataset,
        "difference": one.difference, "verdict": one.verdict, "reasons": list(one.reasons),
    }  # fmt: skip


def _plain(value: Any) -> Any:
    """Convert to a number or text that JSON can hold; None where it is not finite."""
    if isinstance(value, np.generic):
        value = value.item()
    if value is pd.NA or (isinstance(value, float) and not math.isfinite(value)):
        return None
    return value

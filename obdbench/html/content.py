"""What the report shows, as plain values: cells, runs, and what was published beside them."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from benchmark.record import Record
from benchmark.run import run_folder
from benchmark.spec import RunSpec
from benchmark.sweep import Sweep
from benchmark.synthetic_set import load_synthetic_set
from obdbench.states import States
from results import cell_table, runs_frame
from results.labels import labels
from results.reproduction import RULE, Comparison, compare, published_cells

PIXELS = 1000
"""Coordinates of a set's picture are whole numbers below this."""


def content(store: Path, sweep: Sweep, records: Sequence[Record], states: States) -> dict[str, Any]:
    """Everything that the page's script needs, ready for JSON.

    Args:
        store: Where sets are looked for.
        sweep: What was asked for.
        records: What there is of it.
        states: Of all its runs.
    """
    frame = runs_frame(records)
    expected = {cell: len(runs) for cell, runs in sweep.cells.items()}
    table = cell_table(frame, expected)
    names = labels(records)
    provenance: dict[str, int] = {}
    by_id = {record["run_id"]: record for record in records}
    return {
        "name": sweep.name,
        "description": sweep.description,
        "counts": dict(states.counts),
        "cells": [_cell(row) for _, row in table.iterrows()],
        "specs": {cell: _spec(runs[0]) for cell, runs in sweep.cells.items()},
        "labels": {cell: names.get(cell, runs[0].method) for cell, runs in sweep.cells.items()},
        "runs": [
            _run(run, by_id.get(run.run_id), states.of(run).state, provenance)
            for run in sweep.runs
        ],
        "pictures": _pictures(store, sweep, by_id),
        "provenance": [json.loads(facts) for facts in provenance],
        "published": [_published(one) for one in compare(published_cells(), records)
                      if one.reproduced is not None],
        "rule": RULE,
    }  # fmt: skip


def _cell(row: pd.Series) -> dict[str, Any]:
    keys = (
        "cell_id", "dataset", "method", "label", "reference", "value", "low", "high", "n",
        "n_expected", "n_failed", "wall_seconds", "outer_steps", "environment_steps", "used",
        "level",
    )  # fmt: skip
    return {key: _plain(row[key]) for key in keys}


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
    facts = json.dumps(
        {key: value for key, value in record["provenance"].items() if key != "seeds"}
    )
    row |= {
        "score": record["score"] and record["score"]["normalized_return"],
        "curve": [
            [c["outer_step"], round(c["normalized_return"], 3)] for c in record["checkpoints"]
        ],
        "cost": {key: _plain(value) for key, value in record["cost"].items()},
        "provenance": provenance.setdefault(facts, len(provenance)),
        "sha256": record["checkpoints"][-1]["sha256"] if record["checkpoints"] else None,
        "finished": record["finished"],
    }
    if record["error"]:
        row["error"] = {
            "type": record["error"]["type"],
            "message": record["error"]["message"],
            "traceback": record["error"].get("traceback"),
        }
    return row


def _pictures(
    store: Path, sweep: Sweep, records: Mapping[str, Record]
) -> dict[str, dict[str, Any]]:
    """Of each cell's first set that is there, by run id."""
    pictures = {}
    for runs in sweep.cells.values():
        for run in runs:
            checkpoints = records.get(run.run_id, {}).get("checkpoints")
            name = checkpoints[-1]["synthetic_set"] if checkpoints else None
            if name and (path := run_folder(store, run) / name).exists():
                pictures[run.run_id] = _picture(path)
                break
    return pictures


def _picture(path: Path) -> dict[str, Any]:
    """The pairs on the two directions in which their observations differ most.

    Points `[N, 3]`: x, y, and the action's first component, each scaled to whole numbers.
    """
    found, _, _ = load_synthetic_set(path)
    observations = found.observations.numpy().astype(np.float64)
    spread = observations.std(0)
    centred = (observations - observations.mean(0)) / np.where(spread > 0, spread, 1.0)
    _, strengths, directions = np.linalg.svd(centred, full_matrices=False)
    flat = np.zeros((len(observations), 3))
    kept = min(2, len(directions))
    flat[:, :kept] = centred @ directions[:kept].T
    flat[:, 2] = found.actions.numpy()[:, 0]
    low, high = flat.min(0), flat.max(0)
    scaled = (flat - low) / np.where(high > low, high - low, 1.0) * (PIXELS - 1)
    explained = float((strengths[:kept] ** 2).sum() / max((strengths**2).sum(), 1e-12))
    return {"points": scaled.round().astype(int).tolist(), "explained": round(explained, 3)}


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
    """A number or text that JSON can hold; None for one that is not finite."""
    if isinstance(value, np.generic):
        value = value.item()
    if value is pd.NA or (isinstance(value, float) and not math.isfinite(value)):
        return None
    return value

"""Content of the report as plain values: cells, runs, and published numbers next to them."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from benchmark.errors import ObdBenchError
from benchmark.record import Summary, check_set, record_folder
from benchmark.spec import RunSpec
from benchmark.sweep import Sweep
from obdbench.sweep_status import SweepStatus
from paper_figures import caption
from paper_figures.reproduction_table import tally
from results import Best, best_and_ties, stratified
from results.aggregate import common_scores
from results.author_files import scores_beside
from results.comparison import RULE, Comparison, compare, published_cells

PIXELS = 1000
"""Number of values that a coordinate of a set's picture can take, from 0."""
FLAT = 1e-9
"""Points that differ by less than this along an axis differ only by rounding."""

LARGEST_EXACT = 2**53 - 1
"""Largest integer that the page's script tells from its neighbours."""

FLOOR = "random"
"""The method that picks pairs at random: it competes, and is shown with the references."""

Rank = Literal["best", "tie", "undecided", ""]


def content(
    store: Path,
    sweep: Sweep,
    records: Sequence[Summary],
    states: SweepStatus,
    table: pd.DataFrame,
    overall: pd.DataFrame,
) -> dict[str, Any]:
    """Gather everything that the page's script needs, ready for JSON.

    Args:
        store: Folder of records, which holds the sets.
        sweep: Sweep that the report is about.
        records: Records of its runs.
        states: Status of all its runs.
        table: What `results.cell_table` gives for the sweep.
        overall: What `over_datasets` gives for it.
    """
    provenance: dict[str, int] = {}
    by_id = {record.run_id: record for record in records}
    pictures, altered = _pictures(store, sweep, by_id)
    return {
        "name": sweep.name,
        "description": sweep.description,
        "counts": dict(states.counts),
        "overall": _cells(overall),
        "cells": _cells(table),
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
        "judged": tally(compare(published_cells(), records, scores_beside(store))),
        "rule": RULE,
    }  # fmt: skip


def over_datasets(runs: pd.DataFrame, table: pd.DataFrame) -> pd.DataFrame:
    """Average each method over the datasets; no rows where there is one dataset.

    Args:
        runs: What `results.runs_frame` gives for the sweep, runs without a record included: labels
            are then those of the table.
        table: What `results.cell_table` gives for it.

    Returns:
        Rows like those of `table`, for the methods with complete runs on every dataset that has
        records: the mean over datasets with its stratified interval, the scores by dataset and
        seed, and the costs' means.
    """
    begun = set(runs.loc[runs["status"] != "missing", "dataset"])
    common, of_all = common_scores(runs[runs["dataset"].isin(begun)]), table["dataset"].nunique()
    if len(common.datasets) < 2:
        return table.iloc[:0]
    count = len(common.datasets)
    where = f"mean over {count}{'' if count == of_all else f' of {of_all}'} datasets"
    rows = []
    cells: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in table.to_dict("records"):
        if row["dataset"] in common.datasets:
            cells[row["label"]].append(row)
    for label, scores in common.scores.items():
        mine, found = cells[label], stratified(scores)
        sums = {key: sum(row[key] for row in mine) for key in ("n", "n_expected", "n_failed")}
        means = {
            key: np.mean([row[key] for row in mine])
            for key in ("wall_seconds", "outer_steps", "environment_steps")
        }
        score = {"value": found.value, "low": found.low, "high": found.high, "dataset": where}
        by_seed = {
            row["dataset"]: dict(zip(row["seeds"], row["scores"], strict=True)) for row in mine
        }
        score |= {"scores": by_seed, "returns": (), "seeds": (), "cell_id": "", "settings": ""}
        rows.append(mine[0] | sums | means | score)
    return pd.DataFrame(rows, columns=table.columns)


def headline(rows: pd.DataFrame) -> str:
    """Say which method scores highest, and what it is to be compared with.

    Args:
        rows: Rows of one dataset, or of the mean over all.
    """
    best = next(iter(best_and_ties(rows).values()), None)
    if best is None or best.best is None or rows["dataset"].nunique() != 1:
        return ""
    by_label = rows.set_index("label")
    row = by_label.loc[best.best]
    text = f"{best.best} scores highest ({row['dataset']}): {row['value']:.1f}"
    if math.isfinite(row["low"]):
        text += f" [{row['low']:.1f}, {row['high']:.1f}]"
    if level := [*best.ties, *best.undecided]:
        text += f"; not told apart from it: {_some(level)}"
    apart = by_label[by_label["reference"] | (by_label["method"] == FLOOR)].dropna(subset="value")
    known = [f"{name} {value:.1f}" for name, value in apart["value"].items() if name != best.best]
    return f"{text}. For comparison: {', '.join(known)}." if known else f"{text}."


def facts(sweep: Sweep, records: Sequence[Summary], runs: pd.DataFrame) -> dict[str, str]:
    """List what was run, when, with which versions, and how it was scored, in words by name."""
    found = {
        "Methods": _some([run.method for run in sweep.runs], 12),
        "Datasets": _some([run.dataset for run in sweep.runs], 3),
        "Seeds": caption.seeds(len(cell) for cell in sweep.cells.values()).removesuffix(" seeds"),
    }
    if not records:
        return found
    made = [record.provenance for record in records]
    seconds = sum(record.cost.evaluation_wall_seconds for record in records)
    seconds += sum(record.cost.wall_seconds for record in records if record.sets_of is None)
    hours = seconds / 3600
    differing = caption.settings_of_datasets(runs)
    commits = _some([f"{m.commit[:7]}{' changed since' * bool(m.dirty)}" for m in made if m.commit])
    return found | {
        "Scored by": _some([text for text in runs["protocol_detail"] if text]),
        "Student": _some([text for text in runs["student"] if text]),
        **({"Settings": differing} if differing else {}),
        "When": f"{_minute(min(r.started for r in records))} to "
                f"{_minute(max(r.finished for r in records))} UTC",
        "Version": "; ".join(f"{name} {_some([m.packages.get(name, 'unknown') for m in made])}"
                             for name in ("obdbench", "torch"))
                   + f"; Python {_some([m.python for m in made])}"
                   + (f"; commit {commits}" if commits else ""),
        "Machine": _some([f"{m.device}, engine {m.engine}" for m in made]),
        "Work": f"{hours:.1f} hours" if hours >= 1 else f"{60 * hours:.1f} minutes",
    }  # fmt: skip


def _minute(moment: str) -> str:
    """Shorten an ISO time to the minute."""
    return moment[:16].replace("T", " ")


def _some(texts: Iterable[str], most: int = 3) -> str:
    """Join the first few different ones, and count those that are left out."""
    found = list(dict.fromkeys(texts))
    more = len(found) - most
    return ", ".join(found[:most]) + (f" and {more} more" if more > 0 else "")


def _cells(table: pd.DataFrame) -> list[dict[str, Any]]:
    best = best_and_ties(table)
    return [_cell(row, best[row["dataset"]]) for row in table.to_dict("records")]


def _cell(row: Mapping[str, Any], best: Best) -> dict[str, Any]:
    keys = (
        "cell_id", "dataset", "method", "label", "reference", "value", "low", "high", "n",
        "n_expected", "n_failed", "wall_seconds", "outer_steps", "environment_steps", "used",
        "level",
    )  # fmt: skip
    apart = bool(row["reference"]) or row["method"] == FLOOR
    return {key: _plain(row[key]) for key in keys} | {
        "rank": _rank(row["label"], best),
        "apart": apart,
    }


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
    run: RunSpec, record: Summary | None, state: str, provenance: dict[str, int]
) -> dict[str, Any]:
    # A script's numbers have 53 bits; beyond them a seed would be shown as another one.
    seed = run.seed if run.seed <= LARGEST_EXACT else str(run.seed)
    row: dict[str, Any] = {"cell": run.cell_id, "seed": seed, "state": state}
    if record is None:
        return row
    made = msgspec.to_builtins(record.provenance)
    facts = json.dumps({key: v for key, v in made.items() if key != "seeds"})
    row |= {
        "score": record.score and record.score.normalized_return,
        "curve": [[c.outer_step, round(c.normalized_return, 3)] for c in record.checkpoints],
        "cost": {
            key: _plain(value)
            for key, value in asdict(record.cost).items()
            if not key.startswith("checkpoint_")
        },
        "provenance": provenance.setdefault(facts, len(provenance)),
        "sha256": record.checkpoints[-1].sha256 if record.checkpoints else None,
        "finished": record.finished,
        "noted": dict(sorted(record.method_facts.items())),
    }
    if record.error is not None:
        row["error"] = msgspec.to_builtins(record.error)
    return row


def _pictures(
    store: Path, sweep: Sweep, records: Mapping[str, Summary]
) -> tuple[dict[str, dict[str, Any]], list[str]]:
    """Picture the first stored set of each cell, by run id; also say which sets were altered."""
    pictures, altered = {}, []
    for runs in sweep.cells.values():
        for run in runs:
            record = records.get(run.run_id)
            if record is None or not record.checkpoints or not record.checkpoints[-1].synthetic_set:
                continue
            folder, last = store / record_folder(run.run_id), record.checkpoints[-1]
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
    from benchmark.synthetic_set import load_synthetic_set  # it takes torch along

    found, _, _ = load_synthetic_set(path)
    points, explained = _on_a_plane(found.observations.numpy().astype(np.float64))
    drawn = np.column_stack([points, found.actions.numpy()[:, 0]])
    return {"points": _whole_numbers(drawn).tolist(), "explained": round(explained, 3)}


def _on_a_plane(observations: NDArray[np.float64]) -> tuple[NDArray[np.float64], float]:
    """Project observations `[N, obs_dim]` to places `[N, 2]`; also return the share of variance.

    Observations that do not differ are all at the origin, which shows none of it.
    """
    from benchmark.datasets.diversity import PrincipalComponents

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

"""Doing a recorded run again from its own spec, and whether the numbers hold."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from benchmark.datasets.catalog import load_dataset
from benchmark.datasets.source import DatasetName
from benchmark.errors import ObdBenchError
from benchmark.record import Provenance, Record
from benchmark.run import Conditions, execute

SAME = ("packages", "python", "device", "threads", "engine")
"""What must be as in the record for the numbers to be the same bits."""
STANDARD_ERRORS = 3.0
LEAST_TOLERANCE = 1.0

Verdict = Literal["exact", "within tolerance", "differs"]


@dataclass(frozen=True)
class Verification:
    """What became of a run that was done again.

    Args:
        verdict: "exact" where every return and set is the same; "within tolerance" where the
            surroundings are others and the scores agree; else "differs".
        recorded: Normalized return of the record.
        found: Normalized return of the new run.
        tolerance: Points within which scores made elsewhere agree: three standard errors of their
            difference over students, at least one point.
        changed: What of the surroundings is not as in the record, "name: recorded -> now".
    """

    verdict: Verdict
    recorded: float
    found: float
    tolerance: float
    changed: tuple[str, ...]


def verify(
    record: Record, folder: Path, on_progress: Callable[[str, int, int], None] | None = None
) -> Verification:
    """Does a record's run again.

    Args:
        record: Complete.
        folder: An empty store for the new run.
        on_progress: Called as the method goes on.

    Raises:
        ObdBenchError: The record failed, its data are others here, or the new run fails.
    """
    spec, _ = record.spec, record.mean_score
    _ = spec.method_instance  # a record of another version of the method says so here
    here = load_dataset(DatasetName.parse(spec.dataset)).sha256
    wanted = str(record.provenance.dataset_sha256)
    if here != wanted:
        raise ObdBenchError(
            f"{record.run_id} was done on {spec.dataset} with sha256 {wanted[:16]}; it has "
            f"{here[:16]} here. The run can be verified only on the same data."
        )
    threads = record.provenance.threads
    (again,) = execute([spec], Conditions(folder, threads=threads, on_progress=on_progress))
    if again.status == "failed":
        error = again.failure
        raise ObdBenchError(f"The run failed this time: {error.type}: {error.message}")
    return compare(record, again)


def compare(record: Record, again: Record) -> Verification:
    """Holds a new record against the old one."""
    changed = tuple(_changes(record.provenance, again.provenance))
    recorded, found = (r.mean_score.normalized_return for r in (record, again))
    error = math.hypot(*(_standard_error(r) for r in (record, again)))
    tolerance = max(LEAST_TOLERANCE, STANDARD_ERRORS * error)
    if _results(record) == _results(again):
        verdict: Verdict = "exact"
    elif changed and abs(found - recorded) <= tolerance:
        verdict = "within tolerance"
    else:
        verdict = "differs"
    return Verification(verdict, recorded, found, tolerance, changed)


def _results(record: Record) -> list[Any]:
    return [(c.outer_step, c.returns, c.sha256) for c in record.checkpoints]


def _standard_error(record: Record) -> float:
    """Standard error of the score over students, in points of normalized return."""
    used = set(record.mean_score.outer_steps_used)
    errors = []
    for checkpoint in record.checkpoints:
        if record.normalisation is None or checkpoint.outer_step not in used:
            continue
        students = np.array(
            [record.normalisation.normalise(float(np.mean(r))) for r in checkpoint.returns]
        )
        if len(students) > 1:
            errors.append(students.std(ddof=1) / math.sqrt(len(students)))
    return float(np.sqrt(np.mean(np.square(errors)))) if errors else 0.0


def _changes(recorded: Provenance, now: Provenance) -> list[str]:
    changes = []
    for key in SAME:
        old, new = getattr(recorded, key), getattr(now, key)
        if isinstance(old, dict):
            changes += [
                f"{name}: {old.get(name)} -> {new.get(name)}"
                for name in sorted(old.keys() | new.keys())
                if old.get(name) != new.get(name)
            ]
        elif old != new:
            changes.append(f"{key}: {old} -> {new}")
    return changes

"""Doing a recorded run again from its own spec, or only its scoring, and whether numbers hold."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np
import torch

from benchmark.datasets.catalog import load_dataset
from benchmark.datasets.dataset import Dataset, ReferenceReturns
from benchmark.datasets.source import DatasetName
from benchmark.environments.jax_tasks import simulator_packages
from benchmark.environments.lookup import action_space
from benchmark.errors import ObdBenchError
from benchmark.evaluation import score
from benchmark.provenance import provenance
from benchmark.record import Checkpoint, Origin, Record, check_set
from benchmark.run import Conditions, execute
from benchmark.scaling import Scaling
from benchmark.synthetic_set import load_synthetic_set
from benchmark.threads import torch_threads

SAME = ("packages", "python", "device", "threads", "engine")
"""What must be as in the record for the numbers to be the same bits."""
STANDARD_ERRORS = 3.0
LEAST_TOLERANCE = 1.0

Verdict = Literal["exact", "within tolerance", "undecided", "differs"]


@dataclass(frozen=True)
class Verification:
    """What became of a run that was done again.

    Args:
        verdict: "exact" where every return and set is the same; "within tolerance" where the
            surroundings are others and the scores agree; "undecided" where they are others and do
            not, but a score is of one policy, so that nobody knows how far such scores spread; else
            "differs".
        recorded: Normalized return of the record.
        found: Normalized return of the new run.
        tolerance: Points within which scores made elsewhere agree: three standard errors of their
            difference over students, at least one point.
        changed: What of the surroundings, the teacher and the log densities is not as in the
            record, "name: recorded -> now", or was other in an earlier attempt at the recorded run.
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
    check_data(record, load_dataset(DatasetName.parse(spec.dataset)))
    threads = record.provenance.threads
    (again,) = execute([spec], Conditions(folder, threads=threads, on_progress=on_progress))
    if again.status == "failed":
        error = again.failure
        raise ObdBenchError(f"The run failed this time: {error.type}: {error.message}")
    return compare(record, again)


def check_data(record: Record, dataset: Dataset) -> None:
    """Hold what a record says of its data against the dataset itself.

    Raises:
        ObdBenchError: It was made on other content, scored in another environment, or normalized
            by other returns.
    """
    found, here = str(record.provenance.dataset_sha256), dataset.sha256
    if found != here:
        raise ObdBenchError(
            f"{record.run_id} was done on {dataset.name} with sha256 {found[:16]}; it has "
            f"{here[:16]} here. The run can be verified only on the same data."
        )
    if record.provenance.environment != dataset.env_id:
        raise ObdBenchError(
            f"{record.run_id} was scored in {record.provenance.environment}; {dataset.name} is of "
            f"{dataset.env_id}. Score it there."
        )
    said, known = record.normalisation, dataset.reference
    if said != known:  # to the bit: the digest above covers them too
        raise ObdBenchError(
            f"{record.run_id} is normalized by {said}; the returns of {dataset.name} are {known}. "
            f"Normalize it by these."
        )


def rescore(record: Record, folder: Path, dataset: Dataset) -> Verification:
    """Score a run's sets again, by its protocol and without its method.

    The record's own spread between students excuses a score that is too low. One that is too high
    it excuses by no more than twice the spread found here: whoever wrote the record may have let
    its returns vary as much as they liked.

    Args:
        record: Complete.
        folder: Folder of the sets that its score counts.
        dataset: Dataset that it names.

    Raises:
        ObdBenchError: A set is not of this dataset, or its students diverge.
    """
    check_data(record, dataset)
    spec, space = record.spec, action_space(dataset.env_id)
    scaling, again = Scaling.of(dataset, space), list[Checkpoint]()
    with torch_threads(min(record.provenance.threads, os.cpu_count() or 1)):
        here = Origin(**provenance("cpu", simulator_packages(dataset.env_id)))
        for checkpoint in record.counted:
            path = check_set(record, checkpoint, folder)
            pairs, own, _ = load_synthetic_set(path)
            _check_scaling(path, own, scaling)
            if (pairs.observations.shape[1], pairs.actions.shape[1]) != (
                dataset.observation_dim,
                dataset.action_dim,
            ):
                raise ObdBenchError(f"{path} has pairs of other dimensions than {dataset.name}.")
            episodes = score(
                pairs,
                protocol=spec.protocol,
                student=spec.scoring_student,
                scaling=own,
                environment=dataset.env_id,
                axes=spec.scoring_axes,
            )
            mean = float(episodes.returns.mean())
            if not math.isfinite(mean):
                raise ObdBenchError(f"{path}: the returns of its students are not finite here.")
            again.append(
                msgspec.structs.replace(
                    checkpoint,
                    returns=episodes.returns.tolist(),
                    mean_return=mean,
                    normalized_return=float(dataset.reference.normalise(mean)),
                )
            )
    recorded = record.mean_score.normalized_return
    found = float(np.mean([checkpoint.normalized_return for checkpoint in again]))
    claimed, error = (_standard_error(dataset.reference, c) for c in (record.counted, again))
    tolerance = _tolerance(min(claimed, 2 * error) if recorded > found else claimed, error)
    verdict: Verdict = "within tolerance" if abs(found - recorded) <= tolerance else "differs"
    if [c.returns for c in again] == [c.returns for c in record.counted]:
        verdict = "exact"
    return Verification(
        verdict, recorded, found, tolerance, tuple(_changes(record.provenance, here))
    )


def _check_scaling(path: Path, found: Scaling, expected: Scaling) -> None:
    """Check that a set was made under its dataset's scaling, which a pair could hide more in."""
    known = expected.tensors()
    for name, values in found.tensors().items():
        if values.shape != known[name].shape or not torch.allclose(
            values.double(), known[name].double(), rtol=1e-4, atol=1e-6
        ):
            raise ObdBenchError(
                f"{path} has another {name} than its dataset. Distil it under the dataset's own."
            )


def compare(record: Record, again: Record) -> Verification:
    """Holds a new record against the old one."""
    earlier = [f"an earlier attempt: {text}" for text in record.provenance.resumed_from]
    changed = (
        *_changes(record.provenance, again.provenance),
        *_other_files(record, again),
        *earlier,
    )
    recorded, found = (r.mean_score.normalized_return for r in (record, again))
    tolerance = _tolerance(*(_standard_error(r.normalisation, r.counted) for r in (record, again)))
    if _results(record) == _results(again):
        verdict: Verdict = "exact"
    elif changed and abs(found - recorded) <= tolerance:
        verdict = "within tolerance"
    elif changed and any(len(c.returns) == 1 for r in (record, again) for c in r.counted):
        verdict = "undecided"
    else:
        verdict = "differs"
    return Verification(verdict, recorded, found, tolerance, changed)


def _other_files(record: Record, again: Record) -> list[str]:
    """Teacher and log densities of the names in the spec that have other content now."""
    files = (
        ("teacher", record.teacher, again.teacher),
        ("log densities", record.density, again.density),
    )
    return [
        f"{what}: sha256 {old.sha256[:16]} -> {new.sha256[:16]}"
        for what, old, new in files
        if old is not None and new is not None and old.sha256 != new.sha256
    ]


def _results(record: Record) -> list[Any]:
    return [(c.outer_step, c.returns, c.sha256) for c in record.checkpoints]


def _tolerance(*errors: float) -> float:
    """Points within which two scores of these standard errors agree."""
    return max(LEAST_TOLERANCE, STANDARD_ERRORS * math.hypot(*errors))


def _standard_error(
    normalisation: ReferenceReturns | None, checkpoints: Sequence[Checkpoint]
) -> float:
    """Standard error of a score over students, in points of normalized return."""
    errors = []
    for checkpoint in checkpoints if normalisation else ():
        assert normalisation is not None
        students = np.array(
            [normalisation.normalise(float(np.mean(r))) for r in checkpoint.returns]
        )
        if len(students) > 1:
            errors.append(students.std(ddof=1) / math.sqrt(len(students)))
    return float(np.sqrt(np.mean(np.square(errors)))) if errors else 0.0


def _changes(recorded: Origin, now: Origin) -> list[str]:
    changes = []
    for key in SAME:
        old = getattr(recorded, key)
        new = getattr(now, key, old)  # what only scores has no engine
        if isinstance(old, dict):
            changes += [
                f"{name}: {old.get(name)} -> {new.get(name)}"
                for name in sorted(old.keys() | new.keys())
                if old.get(name) != new.get(name)
            ]
        elif old != new:
            changes.append(f"{key}: {old} -> {new}")
    return changes

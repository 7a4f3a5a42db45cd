"""From records to tables: one row per run, or one row per checkpoint."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np
import pandas as pd

from benchmark.errors import ObdBenchError
from benchmark.protocol import Protocol
from benchmark.record import Summary
from benchmark.spec import RunSpec
from benchmark.students.spec import describe_student
from results.labels import Cells, cell_settings, labels, settings_of_datasets

RUN_COLUMNS = {
    "run_id": "str",
    "cell_id": "str",
    "status": "str",
    "dataset": "str",
    "method": "str",
    "label": "str",
    "settings": "str",
    "reference": "bool",
    "student": "str",
    "protocol": "str",
    "protocol_detail": "str",
    "seed": "int64",
    "normalized_return": "float64",
    "return": "float64",
    "teacher": "str",
    "density": "str",
    "dataset_sha256": "str",
    "teacher_sha256": "str",
    "density_sha256": "str",
    "teacher_return": "float64",
    "teacher_normalized_return": "float64",
    "wall_seconds": "float64",
    "cpu_seconds": "float64",
    "peak_memory_bytes": "Int64",
    "outer_steps": "Int64",
    "environment_steps": "Int64",
    "used": "str",
    "synthetic_size": "Int64",
    "device": "str",
    "error": "str",
}

RUN_OF_A_CURVE = (
    "run_id", "cell_id", "status", "dataset", "method", "label", "reference", "student",
    "protocol_detail", "seed",
)  # fmt: skip
POINT_COLUMNS = {
    "outer_step": "Int64",
    "normalized_return": "float64",
    "cpu_seconds": "float64",
    "environment_steps": "Int64",
}
CURVE_COLUMNS = {name: RUN_COLUMNS[name] for name in RUN_OF_A_CURVE} | POINT_COLUMNS

NO_POINT = {"outer_step": None, "normalized_return": None}
"""What a curve has of a run without checkpoints."""

COST_COLUMNS = (
    "wall_seconds",
    "cpu_seconds",
    "peak_memory_bytes",
    "outer_steps",
    "environment_steps",
)

# How a table names what a method declared; anything else keeps its own name.
USED_NAMES = {"dataset": "data", "log_density": "density"}


class RecordError(ObdBenchError):
    """Records that cannot be read as one table."""


def runs_frame(
    records: Iterable[Summary], asked: Iterable[RunSpec] = (), *, mixed: bool = False
) -> pd.DataFrame:
    """One row per run, sorted by run id, with the columns of `RUN_COLUMNS`.

    A failed run has a row too: its ``error`` is the exception's type and its scores are missing. So
    has a run that was asked for and has no record: its ``status`` is "missing". The ``settings`` of
    a run are those that differ between the datasets of its label (`labels.settings_of_datasets`).

    Args:
        records: Complete or failed ones.
        asked: The runs of a sweep, where those without a record are to be shown.
        mixed: Whether runs of a cell may differ in what `made_of_several` looks at, and cells of a
            dataset in their data: only where nothing is averaged or compared.

    Raises:
        RecordError: Two records are of one run, those of a cell are mixed, or those of a dataset
            are of different data, and may not be.
    """
    found = _sorted(records, mixed=mixed)
    known = {record.run_id for record in found}
    missing = [spec for spec in asked if spec.run_id not in known]
    cells = _cells(found, missing)
    names = labels(cells)
    settings = settings_of_datasets(cells, names)
    rows = [_run_row(record, names[record.cell_id]) for record in found]
    rows += [_missing_row(spec, names[spec.cell_id]) for spec in missing]
    rows = [row | {"settings": settings[row["cell_id"]]} for row in rows]
    return _frame(sorted(rows, key=lambda row: str(row["run_id"])), RUN_COLUMNS)


def curves_frame(records: Iterable[Summary], asked: Iterable[RunSpec] = ()) -> pd.DataFrame:
    """One row per checkpoint, sorted by run id and outer step, with the columns of `CURVE_COLUMNS`.

    Failed runs are included, their ``status`` says so; one that failed before its first checkpoint
    has a single row without outer step and score. So has a run that was asked for and has no
    record: its ``status`` is "missing".

    Args:
        records: Complete or failed ones.
        asked: The runs of a sweep, where those without a record are to be counted.

    Raises:
        RecordError: Two records are of one run, those of a cell are mixed, or those of a dataset
            are of different data.
    """
    found = _sorted(records)
    known = {record.run_id for record in found}
    missing = [spec for spec in asked if spec.run_id not in known]
    names = labels(_cells(found, missing))
    runs = [_identity(r, r.spec, names[r.cell_id], r.status, r.reference) for r in found]
    curves = [_points(r) for r in found]
    for spec in sorted(missing, key=lambda spec: spec.run_id):
        runs.append(_missing_row(spec, names[spec.cell_id]))
        curves.append([NO_POINT])
    points = _frame([point for curve in curves for point in curve], POINT_COLUMNS)
    # Texts are converted once per run, not once per checkpoint.
    of_run = np.repeat(np.arange(len(runs)), [len(curve) for curve in curves])
    frame = _frame(runs, {name: RUN_COLUMNS[name] for name in RUN_OF_A_CURVE}).take(of_run)
    whole = pd.concat([frame.reset_index(drop=True), points], axis=1)
    return whole.sort_values("run_id", kind="stable", ignore_index=True) if missing else whole


def facts_frame(records: Iterable[Summary]) -> pd.DataFrame:
    """One row per run, sorted by run id: what its method noted of itself, a column per fact.

    Columns ``run_id``, ``dataset``, ``label`` and ``seed`` come first; a fact that a method did not
    note is missing.

    Raises:
        RecordError: Two records are of one run.
    """
    found = _sorted(records, mixed=True)
    names = labels(_cells(found))
    rows = []
    for r in found:
        run = {"run_id": r.run_id, "dataset": r.spec.dataset, "label": names[r.cell_id],
               "seed": r.spec.seed}  # fmt: skip
        rows.append(run | r.method_facts | run)  # first in order, and no fact takes their place
    return pd.DataFrame(rows)


def _cells(found: Iterable[Summary], missing: Iterable[RunSpec] = ()) -> Cells:
    """Every cell of these records and runs."""
    done = {r.cell_id: r for r in found}
    open_ = {spec.cell_id: spec for spec in missing}
    return {cell: (r.spec, cell_settings(r.spec, r.parameters)) for cell, r in done.items()} | {
        cell: (spec, cell_settings(spec)) for cell, spec in open_.items()
    }


def _sorted(records: Iterable[Summary], *, mixed: bool = False) -> list[Summary]:
    found = sorted(records, key=lambda record: record.run_id)
    repeated = [run for run, count in Counter(r.run_id for r in found).items() if count > 1]
    if repeated:
        raise RecordError(
            f"run {min(repeated)!r} has more than one record; a run counts once. Give the records "
            "of one store at a time, or remove the copy."
        )
    by_cell: dict[str, list[Summary]] = defaultdict(list)
    for record in found:
        by_cell[record.cell_id].append(record)
    for cell, group in () if mixed else by_cell.items():
        for what, count in made_of_several(group).items():
            raise RecordError(
                f"the runs of {cell} have {count} {what}, so that a mean over them would be of "
                f"none: {', '.join(record.run_id for record in group)}. Do the older ones again "
                f"(remove their folders first), or keep them in a store of their own."
            )
    if not mixed:
        _check_datasets(found)
    return found


def _check_datasets(records: Iterable[Summary]) -> None:
    """Raise RecordError where cells of one dataset, which are compared, are of different data."""
    first: dict[str, tuple[str, str]] = {}
    for record in records:
        if (content := record.provenance.dataset_sha256) is None:
            continue
        run, known = first.setdefault(record.spec.dataset, (record.run_id, content))
        if content != known:
            raise RecordError(
                f"{run} and {record.run_id} are of different data of the name "
                f"{record.spec.dataset} (sha256 {known[:16]} and {content[:16]}), so that they "
                f"cannot be compared. Do the older ones again (remove their folders first), or "
                f"keep them in a store of their own."
            )


def made_of_several(cell: Iterable[Summary]) -> dict[str, int]:
    """Say of what the records of one cell have several, and how many.

    A spec names data, teachers and densities, and the same name may stand for another file at
    another time. What follows from these and from the method (environment, normalisation, whether
    it is a reference) may still differ in records that were altered, or made by other code.
    """
    found: dict[str, set[object]] = defaultdict(set)
    for record in cell:
        found["datasets of one name"].add(record.provenance.dataset_sha256)
        found["teachers of one name"].add(record.teacher and record.teacher.sha256)
        found["densities of one name"].add(record.density and record.density.sha256)
        found["environments"].add(record.provenance.environment)
        found["normalisations"].add(record.normalisation)
        if record.status == "complete":  # a failed run may not have loaded its method
            found["kinds (reference and method)"].add(record.reference)
    counts = {what: len(values - {None}) for what, values in found.items()}
    return {what: count for what, count in counts.items() if count > 1}


def declared_pairs(settings: Mapping[str, Any]) -> int | None:
    """Pairs per set that a run asked for; None where its method has no such setting.

    A method of somebody else may call something else `synthetic_size`, such as a share of the data.
    """
    size = settings.get("synthetic_size")
    return size if isinstance(size, int) else None


def _identity(
    run: Summary | RunSpec, spec: RunSpec, label: str, status: str, reference: bool
) -> dict[str, Any]:
    return {
        "run_id": run.run_id,  # a record's is at hand, a spec's is a digest
        "cell_id": run.cell_id,
        "status": status,
        "dataset": spec.dataset,
        "method": spec.method,
        "label": label,
        "reference": reference,
        "student": _describe_students(spec),
        "protocol": spec.protocol.name,
        "protocol_detail": _describe_protocol(spec.protocol),
        "seed": spec.seed,
        "teacher": spec.teacher,
        "density": spec.density,
    }


def _run_row(record: Summary, label: str) -> dict[str, Any]:
    row = {
        **_identity(record, record.spec, label, record.status, record.reference),
        "used": ", ".join(sorted(USED_NAMES.get(need, need) for need in record.needs)),
        "synthetic_size": declared_pairs(record.parameters),
        "dataset_sha256": record.provenance.dataset_sha256,
        "teacher_sha256": record.teacher and record.teacher.sha256,
        "density_sha256": record.density and record.density.sha256,
        "device": record.provenance.device,
        "error": record.error and record.error.type,
        **{name: getattr(record.cost, name) for name in COST_COLUMNS},
    }
    if record.score is not None:
        row["normalized_return"] = record.score.normalized_return
        row["return"] = record.score.return_
    if record.teacher is not None:
        row["teacher_return"] = record.teacher.return_
        row["teacher_normalized_return"] = record.teacher.normalized_return
    return row


def _missing_row(spec: RunSpec, label: str) -> dict[str, Any]:
    try:
        reference = spec.method_instance.reference
    except ObdBenchError:  # a method of a plug-in that is not loaded
        reference = False
    settings = cell_settings(spec)
    return {
        **_identity(spec, spec, label, "missing", reference),
        "used": "",
        "synthetic_size": declared_pairs(settings),
    }


def _points(record: Summary) -> list[dict[str, Any]]:
    if not record.checkpoints and record.status == "failed":
        return [NO_POINT]
    unknown = [None] * len(record.checkpoints)
    seconds = record.cost.checkpoint_cpu_seconds or unknown
    steps = record.cost.checkpoint_environment_steps or unknown
    return [
        {"outer_step": c.outer_step, "normalized_return": c.normalized_return, "cpu_seconds": cpu,
         "environment_steps": stepped}
        for c, cpu, stepped in zip(record.checkpoints, seconds, steps, strict=True)
    ]  # fmt: skip


def _describe_students(spec: RunSpec) -> str:
    """What scores the sets, and what they were distilled for where that is another student."""
    scoring, student = spec.scoring_student, spec.student
    text = describe_student(scoring)
    return text if scoring == student else f"{text} (sets made for {describe_student(student)})"


@cache
def _describe_protocol(protocol: Protocol) -> str:
    """For example "quick: 4 students x 10 episodes, last 3 checkpoints"."""
    who = f"ensembles of {protocol.ensemble} students" if protocol.ensemble > 1 else "students"
    many = "s" if protocol.last != 1 else ""
    return (
        f"{protocol.name}: {protocol.students} {who} x {protocol.episodes} episodes, "
        f"last {protocol.last} checkpoint{many}"
        + (f" before the last {protocol.leave_out}" if protocol.leave_out else "")
        + (", sampled actions" if protocol.actions == "sampled" else "")
    )


def _frame(rows: Sequence[Mapping[str, Any]], columns: Mapping[str, str]) -> pd.DataFrame:
    data = {
        name: pd.Series([row.get(name) for row in rows], dtype=kind)
        for name, kind in columns.items()
    }
    return pd.DataFrame(data)

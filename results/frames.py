"""From parsed records to tables: one row a run, or one row a checkpoint."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pandas as pd

from benchmark.errors import ObdBenchError
from results.labels import labels

SCHEMA = "obdbench.record/1"

RUN_COLUMNS = {
    "run_id": "str",
    "cell_id": "str",
    "sweep": "str",
    "status": "str",
    "dataset": "str",
    "method": "str",
    "label": "str",
    "reference": "bool",
    "student": "str",
    "protocol": "str",
    "protocol_detail": "str",
    "seed": "int64",
    "normalized_return": "float64",
    "return": "float64",
    "teacher": "str",
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

CURVE_COLUMNS = {
    "run_id": "str",
    "cell_id": "str",
    "status": "str",
    "dataset": "str",
    "method": "str",
    "label": "str",
    "reference": "bool",
    "protocol_detail": "str",
    "seed": "int64",
    "outer_step": "Int64",
    "normalized_return": "float64",
}

COST_COLUMNS = (
    "wall_seconds",
    "cpu_seconds",
    "peak_memory_bytes",
    "outer_steps",
    "environment_steps",
)

# Records from before they said it themselves.
KNOWN_REFERENCES = ("teacher", "bc_whole", "evolution_strategies", "hades_fixed_init")

# How a table names what a method declared; anything else keeps its own name.
USED_NAMES = {"dataset": "data", "log_density": "density"}


class RecordError(ObdBenchError):
    """Records that cannot be read as one table."""


def runs_frame(records: Iterable[Mapping[str, Any]]) -> pd.DataFrame:
    """One row a run, sorted by run id, with the columns of `RUN_COLUMNS`.

    Args:
        records: parsed JSON records of schema "obdbench.record/1", complete or failed.

    A failed run has a row too: its ``error`` is the exception's type and its scores are missing.
    Returns and normalized returns are those of the record's score; seconds and bytes as recorded.

    Raises:
        RecordError: on another schema, a missing field, or two records of one run.
    """
    checked = _checked(records)
    names = labels(checked)
    return _frame([_run_row(r, names[r["cell_id"]]) for r in checked], RUN_COLUMNS)


def curves_frame(records: Iterable[Mapping[str, Any]]) -> pd.DataFrame:
    """One row a checkpoint, sorted by run id and outer step, with the columns of `CURVE_COLUMNS`.

    Failed runs are included, their ``status`` says so; one that failed before its first checkpoint
    has a single row without outer step and score. Raises RecordError as `runs_frame` does.
    """
    checked = _checked(records)
    names = labels(checked)
    rows = [{**_identity(r, names[r["cell_id"]]), **point} for r in checked for point in _points(r)]
    return _frame(rows, CURVE_COLUMNS)


def _checked(records: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    found = list(records)
    for record in found:
        if record.get("schema") != SCHEMA:
            raise RecordError(
                f"record {record.get('run_id')!r} has schema {record.get('schema')!r}; expected "
                f"{SCHEMA!r}. Was it written by another version of the suite?"
            )
        if record.get("status") not in ("complete", "failed"):
            raise RecordError(
                f"record {record.get('run_id')!r} has status {record.get('status')!r}; expected "
                "'complete' or 'failed'."
            )
        for field in ("run_id", "cell_id", "spec"):
            _need(record, record, field)
    repeated = [run for run, count in Counter(r["run_id"] for r in found).items() if count > 1]
    if repeated:
        raise RecordError(
            f"run {min(repeated)!r} has more than one record; a run counts once. Give the records "
            "of one store at a time, or remove the copy."
        )
    return sorted(found, key=lambda record: str(record["run_id"]))


def _identity(record: Mapping[str, Any], label: str) -> dict[str, Any]:
    spec = record["spec"]
    return {
        "run_id": record["run_id"],
        "cell_id": record["cell_id"],
        "status": record["status"],
        "dataset": _need(record, spec, "dataset"),
        "method": _need(record, spec, "method")["name"],
        "label": label,
        "reference": record.get("reference", spec["method"]["name"] in KNOWN_REFERENCES),
        "protocol_detail": _describe_protocol(_need(record, spec, "protocol")),
        "seed": _need(record, spec, "seed"),
    }


def _run_row(record: Mapping[str, Any], label: str) -> dict[str, Any]:
    spec = record["spec"]
    cost = record.get("cost") or {}
    teacher = record.get("teacher") or {}
    row = {
        **_identity(record, label),
        "sweep": record.get("sweep"),
        "student": _describe_student(_need(record, spec, "student")),
        "protocol": spec["protocol"]["name"],
        "normalized_return": None,
        "return": None,
        "teacher": teacher.get("name", spec.get("teacher")),
        "teacher_return": teacher.get("return"),
        "teacher_normalized_return": teacher.get("normalized_return"),
        "used": ", ".join(sorted(USED_NAMES.get(n, n) for n in record.get("needs") or ())),
        "synthetic_size": spec["method"].get("parameters", {}).get("synthetic_size"),
        "device": (record.get("provenance") or {}).get("device"),
        "error": (record.get("error") or {}).get("type"),
    }
    row |= {name: cost.get(name) for name in COST_COLUMNS}
    if record["status"] == "complete":
        score = _need(record, record, "score")
        row["normalized_return"] = _need(record, score, "normalized_return")
        row["return"] = _need(record, score, "return")
    return row


def _points(record: Mapping[str, Any]) -> list[dict[str, Any]]:
    fields = ("outer_step", "normalized_return")
    points = [
        {field: _need(record, checkpoint, field) for field in fields}
        for checkpoint in record.get("checkpoints") or ()
    ]
    if not points and record["status"] == "failed":
        return [dict.fromkeys(fields)]
    return sorted(points, key=lambda point: int(point["outer_step"]))


def _describe_protocol(protocol: Mapping[str, Any]) -> str:
    """For example "quick: 4 students x 10 episodes, last 3 checkpoints"."""
    text = f"{protocol['name']}"
    if "students" in protocol and "episodes" in protocol:
        text += f": {protocol['students']} students x {protocol['episodes']} episodes"
    if "ensemble" in protocol:
        text = text.replace(" students x", f" ensembles of {protocol['ensemble']} students x")
    if "last" in protocol:
        many = "s" if protocol["last"] != 1 else ""
        text += f", last {protocol['last']} checkpoint{many}"
    return text


def _describe_student(student: Mapping[str, Any]) -> str:
    """For example "mlp 4x64, sampled head, sgd, 50 steps"."""
    parts = [f"{student['name']}"]
    if "depth" in student and "width" in student:
        parts[0] += f" {student['depth']}x{student['width']}"
    if "head" in student:
        parts.append(f"{student['head']} head")
    if "optimizer" in student:
        parts.append(f"{student['optimizer']}")
    if "steps" in student:
        parts.append(f"{student['steps']} steps")
    return ", ".join(parts)


def _need(record: Mapping[str, Any], part: Mapping[str, Any], field: str) -> Any:
    value = part.get(field)
    if value is None:
        raise RecordError(
            f"record {record.get('run_id')!r} ({record.get('status')}) has no {field!r}; expected "
            f"a record of schema {SCHEMA!r}. Run this cell again."
        )
    return value


def _frame(rows: Sequence[Mapping[str, Any]], columns: Mapping[str, str]) -> pd.DataFrame:
    data = {
        name: pd.Series([row.get(name) for row in rows], dtype=kind)
        for name, kind in columns.items()
    }
    return pd.DataFrame(data)

"""Results of studies: `<store>/studies/<study>/<item>.json`, one file an item."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from benchmark.errors import ObdBenchError
from benchmark.files import write_atomic

SCHEMA = "obdbench.study/1"


class NoStudy(ObdBenchError):
    """A study that has left no result in a store."""


class BadStudyResult(ObdBenchError):
    """A file that is not a study's result."""


@dataclass(frozen=True)
class StudyResult:
    """What a study measured of one item.

    Args:
        study: Its name.
        item: What was measured.
        source: Ids and digests of the runs, sets and datasets behind it.
        settings: Of the study.
        rows: The measurements, by column.
        cpu_seconds: That they took, of the process.
        provenance: Commit, packages, machine.
    """

    study: str
    item: str
    source: Mapping[str, Any]
    settings: Mapping[str, Any]
    rows: Sequence[Mapping[str, Any]]
    cpu_seconds: float
    provenance: Mapping[str, Any]


def result_path(store: Path, study: str, item: str) -> Path:
    """Where the result of an item is."""
    return store / "studies" / study / f"{item.replace('/', '-')}.json"


def write_result(store: Path, result: StudyResult) -> Path:
    """Keeps a result; the file is there in one piece or not at all."""
    path = result_path(store, result.study, result.item)
    values = {"schema": SCHEMA, **asdict(result)}
    write_atomic(path, json.dumps(values, allow_nan=False) + "\n")
    return path


def read_result(path: Path) -> StudyResult:
    """A stored result.

    Raises:
        BadStudyResult: The file is something else.
    """
    try:
        values = json.loads(path.read_text())
        schema = values.pop("schema")
        if schema != SCHEMA:
            raise BadStudyResult(f"{path} has schema {schema!r}; expected {SCHEMA!r}.")
        return StudyResult(**values)
    except (json.JSONDecodeError, UnicodeDecodeError, AttributeError, KeyError, TypeError) as error:
        raise BadStudyResult(
            f"{path} cannot be read as a study's result ({error}). Remove it to have it measured "
            f"again."
        ) from error


def study_results(store: Path, study: str) -> list[StudyResult]:
    """All results of a study, by item.

    Raises:
        NoStudy: There is none.
    """
    paths = sorted((store / "studies" / study).glob("*.json"))
    if not paths:
        raise NoStudy(f"{store} holds no result of the study {study}: obdbench study {study}")
    return [read_result(path) for path in paths]


def study_frame(results: Sequence[StudyResult]) -> pd.DataFrame:
    """One row a measurement: the study's columns, and `item`."""
    return pd.DataFrame([{"item": result.item, **row} for result in results for row in result.rows])

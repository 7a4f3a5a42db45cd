"""Results of studies: `<store>/studies/<study>/<item>.json`, one file per item."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import msgspec
import pandas as pd
from msgspec import Meta, Struct, structs

from benchmark.errors import ObdBenchError
from benchmark.files import json_sha256, read_small, write_atomic
from benchmark.names import check_name, flat_name
from results.stores import store_option

SCHEMA = "obdbench.study/1"
DIGEST = "sha256"
"""Key of a file that holds the digest of all others."""


class NoStudy(ObdBenchError):
    """A store holds no result of the study."""


class BadStudyResult(ObdBenchError):
    """A file is not the result of a study."""


Measurement = Annotated[Mapping[str, Any], Meta(min_length=1)]
"""Values by column."""


class StudyResult(Struct, frozen=True, forbid_unknown_fields=True):
    """Measurements of one item by a study.

    Args:
        study: Name of the study.
        item: Name of the thing that was measured.
        source: Ids and digests of the runs, sets and datasets behind it.
        settings: Settings of the study.
        version: Version of the study's way to measure.
        rows: Measurements, by column.
        cpu_seconds: Processor seconds that they took.
        provenance: Commit, packages, machine.
    """

    study: str
    item: str
    source: Mapping[str, Any]
    settings: Mapping[str, Any]
    version: int
    rows: Sequence[Measurement]
    cpu_seconds: float
    provenance: Mapping[str, Any]


def result_path(store: Path, study: str, item: str) -> Path:
    """Path of an item's result."""
    return store / "studies" / check_name("The name of a study", study) / f"{flat_name(item)}.json"


def write_result(store: Path, result: StudyResult) -> Path:
    """Store a result with its digest; the file is there in one piece or not at all.

    Raises:
        BadStudyResult: A number is not finite.
    """
    path = result_path(store, result.study, result.item)
    try:
        plain = json.dumps({"schema": SCHEMA, **structs.asdict(result)}, allow_nan=False)
    except ValueError as error:
        raise BadStudyResult(
            f"The study {result.study} measured a number of {result.item} that is not finite: the "
            f"policies or densities that it looked at diverged. Nothing was written."
        ) from error
    values = json.loads(plain)
    write_atomic(path, json.dumps(values | {DIGEST: json_sha256(values)}) + "\n")
    return path


def put_aside_all_but(store: Path, study: str, items: Iterable[str]) -> None:
    """Rename the results of all other items to `*.json.old`, which nothing reads."""
    kept = {result_path(store, study, item) for item in items}
    for path in (store / "studies" / study).glob("*.json"):
        if path not in kept:
            path.replace(path.with_suffix(".json.old"))


def read_result(path: Path) -> StudyResult:
    """Read a stored result.

    Raises:
        BadStudyResult: The file is something else, was altered, or is that of another item.
    """
    try:
        values = msgspec.json.decode(read_small(path), type=dict[str, Any])  # refuses NaN
        return _checked(values, path)
    except (ObdBenchError, msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise BadStudyResult(
            f"{path} cannot be read as a study's result ({error}). Remove it to have it measured "
            f"again."
        ) from error


def _checked(values: dict[str, Any], path: Path) -> StudyResult:
    """The result of these values, held against their schema, their digest and their file's name.

    Raises:
        BadStudyResult: They say something else than the file's name or their own digest.
        ValidationError: They are not the values of a result.
    """
    said = values.pop(DIGEST, None)
    if said is None:
        raise BadStudyResult("it has no sha256 of its content: an early version wrote it")
    if said != json_sha256(values):
        raise BadStudyResult("it was altered: its content has another sha256 than it says")
    schema = values.pop("schema", None)
    if schema != SCHEMA:
        raise BadStudyResult(f"it has schema {schema!r}; expected {SCHEMA!r}")
    result = msgspec.convert(values, StudyResult)
    if (path.parent.name, path.name) != (result.study, f"{flat_name(result.item)}.json"):
        raise BadStudyResult(f"it is that of {result.item!r} of the study {result.study!r}")
    return result


def study_results(store: Path, study: str) -> list[StudyResult]:
    """Read all results of a study, in the order of the items.

    Raises:
        NoStudy: There is none.
        BadStudyResult: They were measured with different settings or versions.
    """
    paths = sorted((store / "studies" / study).glob("*.json"))
    command = f"obdbench study {study}{store_option(store)}"
    if not paths:
        raise NoStudy(f"{store} holds no result of the study {study}: {command}")
    results = [read_result(path) for path in paths]
    for path, result in zip(paths, results, strict=True):
        if (result.settings, result.version) != (results[0].settings, results[0].version):
            raise BadStudyResult(
                f"{path} was measured with other settings, or by another version of the study, "
                f"than {paths[0].name} next to it. Measure them alike: {command}"
            )
    return results


def study_frame(results: Sequence[StudyResult]) -> pd.DataFrame:
    """One row per measurement: the study's columns, and `item`."""
    return pd.DataFrame([{"item": result.item, **row} for result in results for row in result.rows])

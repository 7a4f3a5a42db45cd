"""Records: what a run leaves behind, one validated JSON file each, written in one piece."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

import fastjsonschema
import jsonschema

from benchmark.errors import ObdBenchError
from benchmark.files import write_atomic

SCHEMA = "obdbench.record/1"
FILE = "record.json"

Record = dict[str, Any]


class BadRecord(ObdBenchError):
    """A record that does not follow the schema."""


def write_record(path: Path, record: Mapping[str, Any]) -> None:
    """Validates and writes a record; no reader ever sees half of it.

    Raises:
        BadRecord: It does not follow `record.schema.json`.
    """
    _validate(record, path)
    write_atomic(path, json.dumps(record, indent=1, allow_nan=False) + "\n")


def read_record(path: Path) -> Record:
    """A validated record.

    Raises:
        BadRecord: The file is not JSON, of another version, or against the schema.
    """
    record = peek_record(path)
    _validate(record, path)
    return record


def peek_record(path: Path) -> Record:
    """A record as it stands in its file: validating thousands at every poll would cost a core.

    Raises:
        BadRecord: The file is not JSON.
    """
    try:
        record: Record = json.loads(path.read_text())
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise BadRecord(
            f"{path} is not JSON ({error}). Move it away and run its sweep again."
        ) from error
    return record


def _validate(record: Mapping[str, Any], path: Path) -> None:
    version = record.get("schema") if isinstance(record, Mapping) else None
    if version != SCHEMA:
        raise BadRecord(f"{path} has schema {version!r}; this version reads {SCHEMA!r}.")
    if not _follows_schema(record):
        validator = jsonschema.Draft202012Validator(_schema())
        errors = sorted(validator.iter_errors(record), key=lambda error: list(error.absolute_path))
        where = "/".join(map(str, errors[0].absolute_path)) or "(top level)"
        raise BadRecord(
            f"{path} does not follow {SCHEMA} at {where}: {errors[0].message} "
            f"({len(errors)} error{'s' if len(errors) > 1 else ''})."
        )
    if (bad := _not_finite(record)) is not None:
        raise BadRecord(f"{path} holds a value that is not finite at {bad}.")


def _follows_schema(record: Mapping[str, Any]) -> bool:
    """The compiled check, an order of magnitude faster; what is wrong is for jsonschema to say."""
    try:
        _compiled()(record)
    except fastjsonschema.JsonSchemaValueException:
        return False
    return True


@cache
def _compiled() -> Callable[[Mapping[str, Any]], object]:
    compiled: Callable[[Mapping[str, Any]], object] = fastjsonschema.compile(
        _schema(), use_default=False
    )
    return compiled


@cache
def _schema() -> dict[str, Any]:
    schema: dict[str, Any] = json.loads(
        (resources.files("benchmark") / "record.schema.json").read_text()
    )
    return schema


def _not_finite(value: Any, where: str = "") -> str | None:
    """The place of the first number that JSON cannot hold."""
    if isinstance(value, float) and not math.isfinite(value):
        return where
    children: Any = ()
    if isinstance(value, Mapping):
        children = value.items()
    elif isinstance(value, (list, tuple)):
        children = enumerate(value)
    for key, child in children:
        if (found := _not_finite(child, f"{where}/{key}")) is not None:
            return found
    return None

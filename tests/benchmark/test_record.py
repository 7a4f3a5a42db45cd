"""Whatever lies in a store follows the schema: checked when written, checked when read."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchmark.record import SCHEMA, BadRecord, Record, read_record, write_record

Change = Callable[[Record], object]


def complete_record() -> Record:
    """As a run of one checkpoint, two students and two episodes leaves it."""
    student = {
        "name": "mlp",
        "depth": 4,
        "width": 256,
        "head": "sampled",
        "optimizer": "sgd",
        "learning_rate": 0.1,
        "momentum": 0.0,
        "steps": 100,
    }
    return {
        "schema": SCHEMA,
        "run_id": "hopper-medium.random.0.seed3",
        "cell_id": "hopper-medium.random.0",
        "status": "complete",
        "spec": {
            "method": {"name": "random", "parameters": {"synthetic_size": 16}},
            "dataset": "hopper/medium",
            "teacher": "td3_bc",
            "student": student,
            "evaluation_student": None,
            "protocol": {
                "name": "smoke",
                "students": 2,
                "episodes": 2,
                "checkpoint_every": 5,
                "last": 1,
            },
            "seed": 3,
        },
        "needs": ["dataset"],
        "checkpoints": [
            {
                "outer_step": 0,
                "returns": [[10.0, 12.0], [8.0, 9.5]],
                "lengths": [[11, 12], [9, 10]],
                "mean_return": 9.875,
                "normalized_return": 0.5,
                "synthetic_set": "set-00000000.safetensors",
                "sha256": "00",
            }
        ],
        "score": {"normalized_return": 0.5, "return": 9.875, "outer_steps_used": [0]},
        "cost": {
            "wall_seconds": 1.5,
            "cpu_seconds": 1.4,
            "peak_memory_bytes": 1_000_000,
            "outer_steps": 0,
            "environment_steps": 0,
            "evaluation_wall_seconds": 0.5,
            "evaluation_environment_steps": 42,
            "attempts": 1,
        },
        "teacher": None,
        "provenance": {
            "commit": None,
            "dirty": None,
            "packages": {"torch": "2.13.0"},
            "python": "3.11",
            "device": "cpu",
            "host": "here",
            "threads": 1,
            "environment": "Hopper-v5",
            "dataset_sha256": "00",
            "seeds": {"seed": 0, "axes": {"run": "x"}},
        },
        "error": None,
        "started": "2026-01-01T00:00:00+00:00",
        "finished": "2026-01-01T00:00:01+00:00",
    }


def failed_record() -> Record:
    error = {"type": "BadParameter", "message": "too large", "traceback": "..."}
    return complete_record() | {
        "status": "failed",
        "error": error,
        "score": None,
        "checkpoints": [],
    }


BROKEN: dict[str, tuple[Change, str]] = {
    "no cost": (lambda r: r.pop("cost"), "'cost' is a required property"),
    "unknown key": (lambda r: r.update(colour="red"), "'colour' was unexpected"),
    "unknown status": (lambda r: r.update(status="done"), "at status"),
    "complete without a score": (lambda r: r.update(score=None), "at score"),
    "complete without checkpoints": (lambda r: r.update(checkpoints=[]), "at checkpoints"),
    "complete with an error": (lambda r: r.update(error=failed_record()["error"]), "at error"),
    "failed without an error": (lambda r: r.update(status="failed"), "at error"),
    "text for a return": (
        lambda r: r["checkpoints"][0]["returns"][1].__setitem__(0, "8"),
        "at checkpoints/0/returns/1/0",
    ),
    "negative cost": (lambda r: r["cost"].update(wall_seconds=-1.0), "at cost/wall_seconds"),
    "unknown need": (lambda r: r.update(needs=["oracle"]), "at needs/0"),
    "seed as text": (lambda r: r["spec"].update(seed="3"), "at spec/seed"),
    "truth for a number": (lambda r: r["score"].update({"return": True}), "at score"),
    "NaN": (lambda r: r["score"].update({"return": math.nan}), "not finite at /score/return"),
    "infinity": (
        lambda r: r["checkpoints"][0]["returns"][0].__setitem__(1, math.inf),
        "not finite at /checkpoints/0/returns/0/1",
    ),
    "NaN in a hyper-parameter": (
        lambda r: r["spec"]["method"]["parameters"].update(rate=math.nan),
        "not finite at /spec/method/parameters/rate",
    ),
    "older version": (lambda r: r.update(schema="obdbench.record/0"), "this version reads"),
    "newer version": (lambda r: r.update(schema="obdbench.record/2"), "this version reads"),
    "no version": (lambda r: r.pop("schema"), "has schema None"),
}


@pytest.mark.parametrize("record", [complete_record(), failed_record()], ids=["complete", "failed"])
def test_record_comes_back_as_it_was(tmp_path: Path, record: Record) -> None:
    path = tmp_path / "cell" / "seed3" / "record.json"
    write_record(path, record)

    assert read_record(path) == record
    assert path.read_text().endswith("}\n")


@pytest.mark.parametrize("case", BROKEN)
def test_broken_record_is_never_written(tmp_path: Path, case: str) -> None:
    change, message = BROKEN[case]
    path = tmp_path / "record.json"
    write_record(path, failed_record())
    record = complete_record()
    change(record)

    with pytest.raises(BadRecord) as error:
        write_record(path, record)

    assert str(path) in str(error.value) and message in str(error.value)
    assert read_record(path) == failed_record()  # what was there stays


@pytest.mark.parametrize("case", BROKEN)
def test_broken_record_is_refused_when_read(tmp_path: Path, case: str) -> None:
    change, message = BROKEN[case]
    path = tmp_path / "record.json"
    record = complete_record()
    change(record)
    path.write_text(json.dumps(record))

    with pytest.raises(BadRecord) as error:
        read_record(path)
    assert str(path) in str(error.value) and message in str(error.value)


def test_message_counts_the_errors(tmp_path: Path) -> None:
    record = complete_record()
    del record["cost"], record["needs"]

    with pytest.raises(BadRecord, match=r"\(2 errors\)"):
        write_record(tmp_path / "record.json", record)


def test_nan_in_a_tuple_is_refused(tmp_path: Path) -> None:
    record = copy.deepcopy(complete_record())
    record["spec"]["method"]["parameters"]["rates"] = (0.1, math.nan)

    with pytest.raises(BadRecord, match="parameters/rates/1"):
        write_record(tmp_path / "record.json", record)


@pytest.mark.parametrize("fraction", [0.0, 0.3, 0.99])
def test_truncated_record_is_refused(tmp_path: Path, fraction: float) -> None:
    path = tmp_path / "record.json"
    write_record(path, complete_record())
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * fraction)])

    with pytest.raises(BadRecord, match="is not JSON") as error:
        read_record(path)
    assert str(path) in str(error.value) and "run its sweep again" in str(error.value)


@pytest.mark.parametrize("content", [b"\xff\xfe\x00", b"[]", b"3", b'"text"'])
def test_file_of_something_else_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "record.json"
    path.write_bytes(content)

    with pytest.raises(BadRecord):
        read_record(path)


def test_schema_itself_is_sound() -> None:
    from importlib import resources

    import jsonschema

    schema: dict[str, Any] = json.loads(
        (resources.files("benchmark") / "record.schema.json").read_text()
    )
    jsonschema.Draft202012Validator.check_schema(schema)

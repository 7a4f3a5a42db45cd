"""Converting a store of records of version 1 into one that this version reads.

    python -m results.conversion OLD NEW

writes a new store and leaves the old one as it is. Numbers, sets and provenance are carried over. A
converted run has version 0 of its method, since no version of this suite gives its numbers again:
seeds were derived from run ids then. `provenance.converted_from` holds the id that it had.
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import msgspec

from benchmark.clocks import Cost
from benchmark.config import build
from benchmark.datasets.dataset import ReferenceReturns
from benchmark.errors import ObdBenchError
from benchmark.files import json_sha256, read_small, write_atomic
from benchmark.method import METHODS
from benchmark.protocol import Protocol
from benchmark.record import (
    FILE,
    Checkpoint,
    ConvertedFrom,
    DensityFacts,
    Failure,
    Provenance,
    Record,
    Score,
    Seeds,
    TeacherFacts,
    record_folder,
    write_record,
)
from benchmark.spec import NONE, RunSpec
from benchmark.students.spec import StudentSpec
from results.record_store import SWEEPS
from results.study_results import DIGEST

OLD_SCHEMA = "obdbench.record/1"


class NotConvertible(ObdBenchError):
    """A store, or a record in it, that cannot be converted."""


def convert_store(old: Path, new: Path) -> int:
    """Write every record, set, sweep and study of a store of version 1 into a new store.

    Args:
        old: Folder with records of schema "obdbench.record/1".
        new: Folder that does not exist yet.

    Returns:
        The number of records.

    Raises:
        NotConvertible: The new store exists, or a record is of another schema.
    """
    if new.exists():
        raise NotConvertible(f"{new} exists. Give a folder that does not, to be written whole.")
    new.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{new.name}.", dir=new.parent) as unfinished:
        count = _convert(old, Path(unfinished) / new.name)
        (Path(unfinished) / new.name).rename(new)
    return count


def _convert(old: Path, new: Path) -> int:
    new.mkdir()
    paths = sorted(old.glob(f"*/seed*/{FILE}"))
    records = {path: json.loads(read_small(path)) for path in paths}
    for path, values in records.items():
        if values.get("schema") != OLD_SCHEMA:
            raise NotConvertible(f"{path} has schema {values.get('schema')!r}, not {OLD_SCHEMA!r}.")
    normalisations = _normalisations(records.values())
    ids: dict[str, str] = {}
    for path, values in records.items():
        record = convert_record(values, normalisations.get(values["spec"]["dataset"]))
        folder = new / record_folder(record.run_id)
        if folder.exists():
            raise NotConvertible(f"{path} and another record are both {record.run_id}.")
        write_record(folder / FILE, record)
        for file in path.parent.glob("set-*.safetensors"):
            shutil.copyfile(file, folder / file.name)
        ids[values["run_id"]] = record.run_id
    for path in sorted((old / SWEEPS).glob("*.json")):
        sweep = json.loads(read_small(path))
        sweep["runs"] = [convert_spec(run).as_dict() for run in sweep["runs"]]
        write_atomic(new / SWEEPS / path.name, json.dumps(sweep, indent=1) + "\n")
    for path in sorted((old / "studies").glob("*/*.json")):
        text, name = read_small(path).decode(), path.name
        for before, after in ids.items():
            text, name = text.replace(f'"{before}"', f'"{after}"'), name.replace(before, after)
        study = json.loads(text)
        sealed = json.dumps(study | {DIGEST: json_sha256(study)}) + "\n"
        write_atomic(new / "studies" / path.parent.name / name, sealed)
    return len(records)


def convert_spec(values: Mapping[str, Any]) -> RunSpec:
    """The spec of a record of version 1, at version 0 of its method."""
    name, parameters = values["method"]["name"], values["method"]["parameters"]
    default = asdict(METHODS[name]) if name in METHODS else {}  # of a plug-in: all are kept
    scoring = values["evaluation_student"]
    evaluation = build(StudentSpec, scoring, "the scoring student of a record") if scoring else None
    return RunSpec(
        method=name,
        dataset=values["dataset"],
        protocol=build(Protocol, values["protocol"], "the protocol of a record"),
        seed=values["seed"],
        teacher=values["teacher"],
        density=values.get("density", NONE),  # records from before there were any lack it
        parameters={k: v for k, v in parameters.items() if k not in default or v != default[k]},
        version=0,
        student=build(StudentSpec, values["student"], "the student of a record"),
        evaluation_student=evaluation,
    )


def convert_record(values: Mapping[str, Any], normalisation: ReferenceReturns | None) -> Record:
    """A record of version 1 as one of this version.

    Args:
        values: The content of its file.
        normalisation: Returns that its normalisation stands on.
    """
    spec = convert_spec(values["spec"])
    provenance = dict(values["provenance"])
    seeds = provenance.pop("seeds")
    axes = seeds["axes"]
    return Record(
        run_id=spec.run_id,
        cell_id=spec.cell_id,
        status=values["status"],
        spec=spec,
        parameters=values["spec"]["method"]["parameters"],
        needs=values["needs"],
        reference=_is_reference(values),
        checkpoints=msgspec.convert(values["checkpoints"], list[Checkpoint]),
        score=msgspec.convert(values["score"], Score | None),
        cost=msgspec.convert(values["cost"], Cost),
        teacher=msgspec.convert(values["teacher"], TeacherFacts | None),
        density=msgspec.convert(values.get("density"), DensityFacts | None),
        normalisation=normalisation,
        provenance=Provenance(
            **provenance,
            seeds=Seeds(
                seed=seeds["seed"], distillation=seeds.get("distillation", axes), scoring=axes
            ),
            converted_from=ConvertedFrom(schema=OLD_SCHEMA, run_id=values["run_id"]),
        ),
        error=msgspec.convert(values["error"], Failure | None),
        started=values["started"],
        finished=values["finished"],
    )


def _is_reference(values: Mapping[str, Any]) -> bool:
    """Whether a row is one to compare with; older records leave it to their method."""
    name = values["spec"]["method"]["name"]
    registered = name in METHODS and METHODS[name].reference
    return bool(values.get("reference", registered))


def _normalisations(records: Iterable[Mapping[str, Any]]) -> dict[str, ReferenceReturns]:
    """Dataset -> the returns that its normalised returns stand on, by the records themselves.

    Normalised returns are linear in returns, so two different ones determine the line;
    `write_record` then holds every other one to it.
    """
    points: dict[str, set[tuple[float, float]]] = defaultdict(set)
    for values in records:
        points[values["spec"]["dataset"]] |= {
            (c["mean_return"], c["normalized_return"]) for c in values["checkpoints"]
        }
    found = {}
    for dataset, pairs in points.items():
        if not pairs:  # every run failed before its first score
            continue
        (low, at_low), (high, at_high) = min(pairs), max(pairs)
        if low == high:
            raise NotConvertible(
                f"The records on {dataset} have one return only, which does not tell what its "
                f"normalised return stands on. Leave these records out."
            )
        slope = (at_high - at_low) / (high - low)
        random, expert = low - at_low / slope, low + (100 - at_low) / slope
        found[dataset] = ReferenceReturns(random=round(random, 9), expert=round(expert, 9))
    return found


if __name__ == "__main__":
    print(f"{convert_store(Path(sys.argv[1]), Path(sys.argv[2]))} records")

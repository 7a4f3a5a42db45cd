"""Runs that take a tenth of a second, and what of them must be the same however they are done."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import is_dataclass, replace
from pathlib import Path
from typing import Any

import msgspec

from benchmark import run
from benchmark.monitor import OnProgress
from benchmark.protocol import Protocol
from benchmark.record import Record, Seeds
from benchmark.run import Conditions, run_folder
from benchmark.spec import RunSpec
from benchmark.students.spec import StudentSpec

PLUGIN = Path(__file__).with_name("misbehaving_methods.py")

STUDENT = StudentSpec(width=8, depth=2, steps=4)
PROTOCOL = Protocol("tiny", students=2, episodes=2, checkpoint_every=2, last=2)
SIZES: dict[str, dict[str, Any]] = {
    "random": {"synthetic_size": 4},
    "bc_whole": {"steps": 20, "batch_size": 16},
    "teacher": {},
    "raises": {},
    "no_engine": {},
    "no_work": {},
    "reads_device": {},
    "silent": {},
    "deaf": {},
    "diverges": {},
    "goes_back": {},
    "bad_policy": {},
    "peeks": {},
    "waits_for": {},
    "leaves": {},
}


def tiny_spec(method: str, dataset: str, *, seed: int = 0, **parameters: Any) -> RunSpec:
    """A run of a method at the smallest size that still does everything."""
    distills = {"synthetic_size": 4, "outer_batch": 8, "outer_steps": 6}
    return RunSpec.create(
        method=method,
        dataset=dataset,
        parameters={**SIZES.get(method, distills), **parameters},
        where="the test",
        seed=seed,
        protocol=PROTOCOL,
        student=STUDENT,
    )


def execute(
    spec: RunSpec, store: Path, on_progress: OnProgress | None = None, **conditions: Any
) -> Record:
    """One run under conditions that are the defaults unless they are given."""
    return run.execute([spec], Conditions(store, on_progress=on_progress, **conditions))[0]


def execute_pack(
    specs: Sequence[RunSpec], store: Path, on_progress: OnProgress | None = None, **conditions: Any
) -> list[Record]:
    """Several runs, advanced together."""
    return run.execute(specs, Conditions(store, on_progress=on_progress, **conditions))


def altered(record: Record, **changes: Any) -> Record:
    """The record with other values; `cost__attempts=2` changes a field of a part of it."""
    for name, value in changes.items():
        part, _, field = name.partition("__")
        if field:
            old = getattr(record, part)
            change = replace if is_dataclass(old) else msgspec.structs.replace
            value = change(old, **{field: value})  # type: ignore[operator]
        record = msgspec.structs.replace(record, **{part: value})
    return record


def consistent(record: Record) -> Record:
    """The record with the costs and the origins of seeds that follow from the rest of it."""
    spec, points = record.spec, record.checkpoints
    seeds = Seeds(seed=spec.seed, distillation=spec.distillation_axes, scoring=spec.scoring_axes)
    lengths = sum(length for point in points for row in point.lengths for length in row)
    return altered(
        record,
        provenance__seeds=seeds,
        cost__evaluation_environment_steps=lengths,
        cost__outer_steps=max([record.cost.outer_steps, *(one.outer_step for one in points)]),
    )


def numbers(record: Record) -> dict[str, Any]:
    """Everything in a record that depends only on its spec: no times, no hosts."""
    return {
        "status": record.status,
        "checkpoints": record.checkpoints,
        "score": record.score,
        "method_facts": record.method_facts,
        "outer_steps": record.cost.outer_steps,
        "evaluation_steps": record.cost.evaluation_environment_steps,
    }


def sets(store: Path, spec: RunSpec) -> dict[str, bytes]:
    """The bytes of a run's synthetic sets."""
    return {p.name: p.read_bytes() for p in run_folder(store, spec).glob("*.safetensors")}

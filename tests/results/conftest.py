"""Invented records. Their numbers mean nothing; they only have the shape of real ones."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, cast

import pytest

from benchmark.clocks import Cost
from benchmark.datasets.dataset import ReferenceReturns
from benchmark.errors import ObdBenchError
from benchmark.protocol import PROTOCOLS
from benchmark.record import (
    Checkpoint,
    Failure,
    Provenance,
    Record,
    Score,
    Seeds,
    TeacherFacts,
)
from benchmark.spec import RunSpec
from benchmark.students.spec import StudentSpec

MakeRecord = Callable[..., Record]

STUDENT = StudentSpec(width=64)
PROTOCOL = PROTOCOLS["quick"]


def build_spec(
    method: str = "av_pbc",
    dataset: str = "hopper/medium-replay",
    seed: int = 0,
    *,
    parameters: Mapping[str, Any] | None = None,
    student: Mapping[str, Any] | None = None,
    evaluation_student: StudentSpec | None = None,
    protocol: Mapping[str, Any] | None = None,
) -> RunSpec:
    """A spec that differs from OBD's by a narrower student and a quicker protocol."""
    return RunSpec(
        method=method,
        dataset=dataset,
        protocol=replace(PROTOCOL, **(protocol or {})),
        seed=seed,
        density="none",
        parameters={"synthetic_size": 64} if parameters is None else dict(parameters),
        student=replace(STUDENT, **(student or {})),
        evaluation_student=evaluation_student,
    )


def build_record(
    method: str = "av_pbc",
    dataset: str = "hopper/medium-replay",
    seed: int = 0,
    score: float = 20.0,
    *,
    needs: Sequence[str] = ("dataset", "teacher"),
    curve: Sequence[float] | None = None,
    error: str | None = None,
    reference: bool | None = None,
    environment: str = "Hopper-v5",
    **settings: Any,
) -> Record:
    """One record; with ``error``, one of a run that failed with that exception."""
    spec = build_spec(method, dataset, seed, **settings)
    checkpoints = [
        Checkpoint(
            outer_step=200 * i,
            returns=[[30.0 * value] * spec.protocol.episodes],
            lengths=[[100] * spec.protocol.episodes],
            mean_return=30.0 * value,
            normalized_return=value,
            synthetic_set=None,
            sha256=None,
        )
        for i, value in enumerate([score] if curve is None else curve)
    ]
    last = [checkpoints[-1].outer_step]
    return Record(
        run_id=spec.run_id,
        cell_id=spec.cell_id,
        status="failed" if error else "complete",
        spec=spec,
        parameters=_resolved(spec),
        needs=cast(Any, list(needs)),
        reference=method in ("teacher", "bc_whole") if reference is None else reference,
        checkpoints=checkpoints,
        score=None
        if error
        else Score(normalized_return=score, return_=30.0 * score, outer_steps_used=last),
        cost=Cost(
            wall_seconds=20.0 + seed,
            cpu_seconds=19.0,
            peak_memory_bytes=500_000_000,
            outer_steps=max(1000, last[0]),
            evaluation_environment_steps=100 * spec.protocol.episodes * len(checkpoints),
        ),
        teacher=TeacherFacts(
            name="td3_bc", sha256="0" * 64, return_=2500.0, normalized_return=80.0, episodes=10
        ),
        density=None,
        normalisation=ReferenceReturns(random=0.0, expert=3000.0),
        provenance=Provenance(
            commit=None,
            dirty=False,
            packages={},
            python="3.11",
            device="cpu",
            host="here",
            threads=1,
            environment=environment,
            dataset_sha256="0" * 64,
            seeds=Seeds(seed=seed, distillation=spec.distillation_axes, scoring=spec.scoring_axes),
        ),
        error=Failure(type=error, message="", traceback="") if error else None,
        started="2026-01-01T00:00:00+00:00",
        finished="2026-01-01T00:00:01+00:00",
    )


def _resolved(spec: RunSpec) -> dict[str, Any]:
    """Every hyper-parameter of a method of the suite; for an invented one, those of the spec."""
    try:
        return spec.resolved_parameters
    except ObdBenchError:
        return dict(spec.parameters)


def build_sweep(datasets: Sequence[str] = ("hopper/medium-replay",)) -> list[Record]:
    """Five seeds of a clear winner, a near tie, a loser, and the two references."""
    levels = {"av_pbc": 25.0, "pbc": 23.5, "dbc": 9.0, "teacher": 80.0, "bc_whole": 60.0}
    records = []
    for d, dataset in enumerate(datasets):
        for method, level in levels.items():
            reference = method in ("teacher", "bc_whole")
            for seed in range(5):
                place = 4 - seed if method == "pbc" else seed  # no constant difference from av_pbc
                score = level + 5.0 * d + (place - 2) * 1.0 + 0.3 * place**2
                steps = 1 if reference else 6
                curve = [score * (i + 1) / steps for i in range(steps)]
                records.append(build_record(method, dataset, seed, score, curve=curve))
    return records


@pytest.fixture
def make_record() -> MakeRecord:
    return build_record


@pytest.fixture
def make_sweep() -> Callable[..., list[Record]]:
    return build_sweep

"""Invented records. Their numbers mean nothing; they only have the shape of real ones."""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest

Record = dict[str, Any]
MakeRecord = Callable[..., Record]

STUDENT = {"name": "mlp", "depth": 4, "width": 64, "head": "sampled", "optimizer": "sgd"}
PROTOCOL = {"name": "quick", "students": 4, "episodes": 10, "checkpoint_every": 200, "last": 3}


def build_record(
    method: str = "av_pbc",
    dataset: str = "hopper/medium-replay",
    seed: int = 0,
    score: float = 20.0,
    *,
    parameters: Mapping[str, Any] | None = None,
    student: Mapping[str, Any] | None = None,
    evaluation_student: Mapping[str, Any] | None = None,
    protocol: Mapping[str, Any] | None = None,
    needs: Sequence[str] = ("dataset", "teacher"),
    curve: Sequence[float] | None = None,
    error: str | None = None,
) -> Record:
    """One record; with ``error``, one of a run that failed with that exception."""
    spec = {
        "method": {"name": method, "parameters": dict(parameters or {"synthetic_size": 64})},
        "dataset": dataset,
        "teacher": "td3_bc",
        "student": STUDENT | dict(student or {}),
        "evaluation_student": evaluation_student,
        "protocol": PROTOCOL | dict(protocol or {}),
    }
    digest = hashlib.sha256(json.dumps(spec, sort_keys=True).encode()).hexdigest()[:12]
    cell_id = f"{dataset.replace('/', '-')}.{method}.{digest}"
    checkpoints = [
        {"outer_step": 200 * i, "normalized_return": value, "returns": [[value]]}
        for i, value in enumerate([score] if curve is None else curve)
    ]
    return {
        "schema": "obdbench.record/1",
        "run_id": f"{cell_id}.seed{seed}",
        "cell_id": cell_id,
        "status": "failed" if error else "complete",
        "spec": {**copy.deepcopy(spec), "seed": seed},
        "needs": list(needs),
        "checkpoints": checkpoints,
        "score": None if error else {"normalized_return": score, "return": 30.0 * score},
        "cost": {}
        if error
        else {
            "wall_seconds": 20.0 + seed,
            "cpu_seconds": 19.0,
            "peak_memory_bytes": 500_000_000,
            "outer_steps": 1000,
            "environment_steps": 0,
        },
        "teacher": {"name": "td3_bc", "return": 2500.0, "normalized_return": 80.0},
        "provenance": {"device": "cpu"},
        "error": {"type": error, "message": "", "traceback": ""} if error else None,
    }


def build_sweep(datasets: Sequence[str] = ("hopper/medium-replay",)) -> list[Record]:
    """Five seeds of a clear winner, a near tie, a loser, and the two references."""
    levels = {"av_pbc": 25.0, "pbc": 23.5, "dbc": 9.0, "teacher": 80.0, "bc_whole": 60.0}
    records = []
    for d, dataset in enumerate(datasets):
        for method, level in levels.items():
            reference = method in ("teacher", "bc_whole")
            for seed in range(5):
                score = level + 5.0 * d + (seed - 2) * 1.0 + 0.3 * seed**2
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

"""Estimates of the seconds that runs will take, from the records of earlier runs.

A run's seconds are taken from, in this order: records of its own cell; records of the same method,
dataset and student, per outer step and per scored episode; records of the same method on anything,
which is rough. Records of another kind of device are not used.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from benchmark.record import Record
from benchmark.spec import RunSpec


@dataclass(frozen=True)
class CostEstimate:
    """Expected seconds of a run.

    Args:
        seconds: Wall time with scoring; None where no similar run was measured.
        source: "measured", "by the step", "rough" or "unknown".
        records: Number of records that the estimate rests on.
    """

    seconds: float | None
    source: str
    records: int = 0


@dataclass(frozen=True)
class _Measured:
    """One record's seconds, split into what grows with outer steps and with scored episodes."""

    total: float
    method: float
    scoring: float


class Costs:
    """Measured costs, from the most specific kind of record to the least.

    Args:
        records: Earlier runs; incomplete ones are left out.
        device: "cpu" or "cuda": the kind of device that the planned runs will use.
    """

    def __init__(self, records: Iterable[Record], device: str = "cpu") -> None:
        self._found: list[dict[Hashable, list[_Measured]]] = [defaultdict(list) for _ in KEYS]
        for record in records:
            on = record.provenance.device.split(":")[0].split(" ")[0]
            if record.status != "complete" or on != device:
                continue
            run, steps = record.spec, _outer_steps(record.parameters)
            wall, scoring = record.cost.wall_seconds, record.cost.evaluation_wall_seconds
            measured = _Measured(
                wall + scoring, wall / (steps or 1), scoring / _episodes(run, steps)
            )
            for found, (_, key) in zip(self._found, KEYS, strict=True):
                found[key(run)].append(measured)

    def of(self, run: RunSpec) -> CostEstimate:
        """Estimate one run from the most specific records that there are."""
        for found, (source, key) in zip(self._found, KEYS, strict=True):
            if known := found.get(key(run)):
                seconds = fmean(m.total for m in known)
                if source != "measured":
                    steps = _outer_steps(run.resolved_parameters)
                    method = fmean(m.method for m in known) * (steps or 1)
                    seconds = method + fmean(m.scoring for m in known) * _episodes(run, steps)
                return CostEstimate(seconds, source, len(known))
        return CostEstimate(None, "unknown")


def _outer_steps(parameters: Mapping[str, Any]) -> int:
    """Outer steps; 0 for a method that has none."""
    return int(parameters.get("outer_steps", 0))


def _episodes(run: RunSpec, steps: int) -> int:
    """Number of episodes played by all checkpoints of a run together."""
    protocol = run.protocol
    checkpoints = 1 if not steps else 1 + -(-steps // protocol.checkpoint_every)
    return checkpoints * protocol.students * protocol.ensemble * protocol.episodes


KEYS: tuple[tuple[str, Callable[[RunSpec], Any]], ...] = (
    ("measured", lambda run: run.cell_id),
    ("by the step", lambda run: (run.method, run.dataset, run.student)),
    ("rough", lambda run: run.method),
)

"""What runs will cost, from what runs have cost.

A run's seconds are taken from, in this order: records of its own cell; records of the same method,
dataset and student, by the outer step and by the scored episode; records of the same method on
anything, which is rough. Records of another kind of device are not used.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from benchmark.record import Record
from benchmark.spec import RunSpec


@dataclass(frozen=True)
class CostEstimate:
    """What a run will cost.

    Args:
        seconds: None where nothing like it was ever measured.
        source: "measured", "by the step", "rough" or "unknown".
        records: How many it rests on.
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
    """Measured costs, by what they were measured on.

    Args:
        records: Any; those that are not complete are left out.
        device: "cpu" or "cuda": the kind that runs are planned for.
    """

    def __init__(self, records: Iterable[Record], device: str = "cpu") -> None:
        self._found: list[dict[Hashable, list[_Measured]]] = [defaultdict(list) for _ in KEYS]
        for record in records:
            on = record["provenance"]["device"].split(":")[0].split(" ")[0]
            if record["status"] != "complete" or on != device:
                continue
            run = RunSpec.from_dict(record["spec"])
            cost = record["cost"]
            wall, scoring = cost["wall_seconds"], cost["evaluation_wall_seconds"]
            measured = _Measured(wall + scoring, wall / _steps(run), scoring / _episodes(run))
            for found, (_, key) in zip(self._found, KEYS, strict=True):
                found[key(run)].append(measured)

    def of(self, run: RunSpec) -> CostEstimate:
        """What a run will cost."""
        for found, (source, key) in zip(self._found, KEYS, strict=True):
            if known := found.get(key(run)):
                seconds = fmean(m.total for m in known)
                if source != "measured":
                    method = fmean(m.method for m in known) * _steps(run)
                    seconds = method + fmean(m.scoring for m in known) * _episodes(run)
                return CostEstimate(seconds, source, len(known))
        return CostEstimate(None, "unknown")


def _steps(run: RunSpec) -> int:
    """Outer steps, or 1 for a method that has none."""
    return int(run.parameters.get("outer_steps", 1)) or 1


def _episodes(run: RunSpec) -> int:
    """Episodes of the whole run's scoring."""
    protocol, steps = run.protocol, run.parameters.get("outer_steps")
    checkpoints = 1 if not steps else 1 + -(-int(steps) // protocol.checkpoint_every)
    return checkpoints * protocol.students * protocol.ensemble * protocol.episodes


KEYS: tuple[tuple[str, Callable[[RunSpec], Any]], ...] = (
    ("measured", lambda run: run.cell_id),
    ("by the step", lambda run: (run.method, run.dataset, run.student)),
    ("rough", lambda run: run.method),
)

"""Sets that another run of the store has distilled already: they are scored, not distilled again.

Runs whose `RunSpec.distillation_id` is the same distil the same sets and differ only in how these
are scored: by other students, by ensembles, by more episodes (OBD, Tables 2 and 3).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from glob import escape
from pathlib import Path
from typing import Any, Self

from benchmark.materials import Materials
from benchmark.method import Monitor
from benchmark.monitor import Outcome
from benchmark.record import FILE, BadRecord, Record, check_set, read_record
from benchmark.spec import RunSpec
from benchmark.stopping import StopRequest
from benchmark.synthetic_set import load_synthetic_set


@dataclass(frozen=True)
class SameSets:
    """The sets of a complete run that distilled what another one asks for.

    Args:
        record: Record of the run that has them.
        paths: Files of its sets, one per checkpoint.
    """

    record: Record
    paths: Sequence[Path]

    @classmethod
    def find(cls, spec: RunSpec, store: Path) -> Self | None:
        """The sets of the first such run, each as its record names it; None where there is none."""
        cells = f"{escape(spec.task_prefix)}*"
        for path in sorted(store.glob(f"{cells}/seed{spec.seed}/{FILE}")):
            try:
                record = read_record(path)
                if _has_sets_for(spec, record):
                    return cls(
                        record, [check_set(record, p, path.parent) for p in record.checkpoints]
                    )
            except (BadRecord, OSError):  # whatever is wrong with it, it is another run's
                continue
        return None

    @property
    def run_id(self) -> str:
        """The run that distilled them."""
        return self.record.sets_of or self.record.run_id

    def are_of(self, materials: Materials) -> bool:
        """Whether they were distilled from these data, teacher and log densities."""
        teacher, density = self.record.teacher, self.record.density
        made_from = {
            "the data": self.record.provenance.dataset_sha256,
            "the teacher": teacher and teacher.sha256,
            "the log densities": density and density.sha256,
        }
        return made_from == materials.digests

    def score(self, monitor: Monitor, stop: StopRequest) -> None:
        """Score every one of them, as the method would have handed them over.

        Raises:
            Stopped: A stop was requested; nothing is kept of what was scored.
        """
        total = self.record.checkpoints[-1].outer_step
        for point, path in zip(self.record.checkpoints, self.paths, strict=True):
            stop.check()
            monitor.checkpoint(point.outer_step, load_synthetic_set(path)[0])
            monitor.progress(point.outer_step, total)

    def take_over(self, outcome: Outcome) -> None:
        """Make what the distillation cost, and what the method noted, that of the other run."""
        scoring = ("evaluation_wall_seconds", "evaluation_environment_steps", "attempts")
        theirs = {k: v for k, v in vars(self.record.cost).items() if k not in scoring}
        vars(outcome.cost).update(theirs)
        outcome.method_facts = dict(self.record.method_facts)

    def origin(self, dirty: bool | None) -> dict[str, Any]:
        """What the other run's provenance says of the distillation; either may be uncommitted."""
        theirs = self.record.provenance
        return {"engine": theirs.engine, "device": theirs.device, "dirty": dirty or theirs.dirty}


def _has_sets_for(spec: RunSpec, record: Record) -> bool:
    return (
        record.status == "complete"
        and record.run_id != spec.run_id
        and record.provenance.converted_from is None
        and record.spec.distillation_id == spec.distillation_id
    )

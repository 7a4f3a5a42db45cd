"""Sets that another run of the store has distilled already: they are scored, not distilled again.

Runs whose `RunSpec.distillation_id` is the same distil the same sets and differ only in how these
are scored: by other students, by ensembles, by more episodes (OBD, Tables 2 and 3).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from glob import escape
from pathlib import Path
from typing import Any, Self

import msgspec

from benchmark.errors import ObdBenchError
from benchmark.files import UnfitFile, read_small
from benchmark.materials import Materials
from benchmark.method import State
from benchmark.monitor import SCORED_ONLY, Outcome, RunMonitor
from benchmark.provenance import kind_of
from benchmark.record import FILE, Record, check_set, read_record
from benchmark.spec import RunSpec
from benchmark.stopping import StopRequest
from benchmark.synthetic_set import SyntheticSet, load_synthetic_set

ALIKE = ("packages", "python", "threads", "engine")
"""What two runs' provenance must have in common, besides the kind of device: rounding follows."""


class _Beginning(msgspec.Struct):
    """What says whether the rest of a record is worth reading."""

    status: str
    spec: RunSpec
    sets_of: str | None = None


@dataclass(frozen=True)
class SameSets:
    """The sets of a complete run that distilled what another one asks for.

    Args:
        record: Record of the run that has them.
        sets: Its sets, one per checkpoint.
    """

    record: Record
    sets: Sequence[SyntheticSet]

    @classmethod
    def find(cls, materials: Materials, store: Path, origin: Mapping[str, Any]) -> Self | None:
        """The sets of the first such run, each with the sha256 that its record names.

        Args:
            materials: What they must have been distilled from, and the run that asks for them.
            store: Folder of records.
            origin: The provenance that a distillation here would have.

        Returns:
            None where there is no such run, or something of it is damaged or missing.
        """
        for path in _candidates(materials.spec, store):
            try:
                record = read_record(path)
                if _was_made_alike(record, materials, origin):
                    paths = [check_set(record, one, path.parent) for one in record.checkpoints]
                    return cls(record, [load_synthetic_set(path)[0] for path in paths])
            except (ObdBenchError, OSError):  # whatever is wrong with it, it is another run's
                continue
        return None

    @property
    def run_id(self) -> str:
        """The run that distilled them."""
        return self.record.sets_of or self.record.run_id

    def score(self, monitor: RunMonitor, stop: StopRequest) -> None:
        """Score every one of them, as the method would have handed them over.

        Raises:
            Stopped: A stop was requested; what was scored is saved.
        """
        monitor.resume_scores()
        total = self.record.checkpoints[-1].outer_step
        for point, one in zip(self.record.checkpoints, self.sets, strict=True):
            monitor.checkpoint(point.outer_step, one)
            monitor.progress(point.outer_step, total)
            monitor.save(point.outer_step, lambda: State({}, {SCORED_ONLY: self.run_id}))
            stop.check()

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


def has_candidates(spec: RunSpec, store: Path) -> bool:
    """Whether a complete run of the store asked for the same distillation."""
    return bool(_candidates(spec, store))


def _candidates(spec: RunSpec, store: Path) -> list[Path]:
    """Records of other complete runs that asked for the same distillation."""
    cells = f"{escape(spec.task_prefix)}*"
    found = []
    for path in sorted(store.glob(f"{cells}/seed{spec.seed}/{FILE}")):
        try:
            one = msgspec.json.decode(read_small(path), type=_Beginning)
        except (msgspec.DecodeError, UnfitFile, ObdBenchError, OSError, ValueError):
            continue  # damaged, or of another version
        same = one.spec.distillation_id == spec.distillation_id
        # One that scored the sets of this very run: its own record is gone, and must be made.
        if same and one.status == "complete" and spec.run_id not in (one.spec.run_id, one.sets_of):
            found.append(path)
    return found


def _was_made_alike(record: Record, materials: Materials, origin: Mapping[str, Any]) -> bool:
    """Whether a distillation here would have the same bits, as far as a record can tell."""
    theirs = record.provenance
    made_from = {
        "the data": theirs.dataset_sha256,
        "the teacher": record.teacher and record.teacher.sha256,
        "the log densities": record.density and record.density.sha256,
    }
    return (
        made_from == materials.digests
        and theirs.converted_from is None
        and kind_of(theirs.device) == kind_of(origin["device"])
        and all(getattr(theirs, name) == origin[name] for name in ALIKE)
    )

"""Sets that another run of the store has distilled already: they are scored, not distilled again.

Runs whose `RunSpec.distillation_id` is the same distil the same sets and differ only in how these
are scored: by other students, by ensembles, by more episodes (OBD, Tables 2 and 3).
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import msgspec

from benchmark.errors import ObdBenchError
from benchmark.materials import Materials
from benchmark.method import METHODS, State
from benchmark.monitor import SCORED_ONLY, Outcome, RunMonitor
from benchmark.provenance import either_dirty, makings
from benchmark.record import FILE, Record, check_set, read_record, record_folder
from benchmark.spec import RunSpec
from benchmark.stopping import StopRequest
from benchmark.synthetic_set import SyntheticSet, load_synthetic_set

FOLDER = "sets"
"""Folder of a store: for each distillation, empty files named after the complete runs that have its
sets. So a run looks into one folder, and reads no other records."""

_made_here: set[tuple[Path, str]] = set()
"""Runs that this process did, by store: the code is the same, whatever it is."""


def remember(record: Record, store: Path, *, made_here: bool) -> None:
    """Note a complete run for others that ask for the same sets; without that they distil anew."""
    if any(one.synthetic_set for one in record.checkpoints):
        if made_here:
            _made_here.add((store.resolve(), record.run_id))
        with contextlib.suppress(OSError):  # a full disk costs only time
            folder = store / FOLDER / record.spec.distillation_id
            folder.mkdir(parents=True, exist_ok=True)
            (folder / record.run_id).touch()


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
        for record, folder in _candidates(materials.spec, store):
            if not _was_made_alike(record, store, origin) or _of(record) != materials.digests:
                continue
            with contextlib.suppress(ObdBenchError, OSError):
                paths = [check_set(record, one, folder) for one in record.checkpoints]
                return cls(record, [load_synthetic_set(path)[0] for path in paths])
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
        monitor.resume_scores(self.run_id)
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
        return {
            "engine": theirs.engine,
            "device": theirs.device,
            "dirty": either_dirty(dirty, theirs.dirty),
        }


def has_candidates(spec: RunSpec, store: Path, origin: Mapping[str, Any]) -> bool:
    """Whether the store seems to have the sets that a run would distil.

    Args:
        spec: The run.
        store: Folder of records.
        origin: Provenance of this process (`benchmark.provenance.provenance`).
    """
    return any(
        _was_made_alike(record, store, origin)
        and all((folder / str(one.synthetic_set)).exists() for one in record.checkpoints)
        for record, folder in _candidates(spec, store)
    )


def _candidates(spec: RunSpec, store: Path) -> list[tuple[Record, Path]]:
    """Other complete runs that were noted for the same distillation, with their folders."""
    try:
        names = sorted(path.name for path in (store / FOLDER / spec.distillation_id).iterdir())
    except OSError:
        return []
    found = []
    for name in names:
        folder = store / record_folder(name)
        # Whatever is wrong with a record, it is another run's.
        with contextlib.suppress(ObdBenchError, OSError):
            record = read_record(folder / FILE)
            same = record.spec.distillation_id == spec.distillation_id
            # One that scored the sets of this very run: its own record is gone, and must be made.
            another = spec.run_id not in (record.run_id, record.sets_of)
            if same and another and record.status == "complete":
                found.append((record, folder))
    return found


def _of(record: Record) -> dict[str, str | None]:
    """What a record's sets were distilled from, as `Materials.digests` has it."""
    return {
        "the data": record.provenance.dataset_sha256,
        "the teacher": record.teacher.sha256 if record.teacher else None,
        "the log densities": record.density.sha256 if record.density else None,
    }


def _was_made_alike(record: Record, store: Path, origin: Mapping[str, Any]) -> bool:
    """Whether a distillation here would have the same bits, as far as a record can tell.

    The code is known to be the same within a process. Between processes a method of the suite is
    the same at the same version of it, if nothing was uncommitted; of another one nothing says so.
    """
    theirs = record.provenance
    own = METHODS.origin(record.spec.method) == "obdbench"
    known = own and theirs.dirty == origin["dirty"] and not theirs.dirty
    made = makings(msgspec.to_builtins(theirs))
    return (
        (known or (store.resolve(), record.run_id) in _made_here)
        and not theirs.resumed_from
        and theirs.converted_from is None
        and all(made.get(name) == value for name, value in makings(origin).items())
    )

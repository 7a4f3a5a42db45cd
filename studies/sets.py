"""Finished runs' last synthetic sets, as studies use them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmark.record import FILE, Record, read_record
from benchmark.run import folder_of
from benchmark.scaling import Scaling
from benchmark.students.student import StudentSpec
from benchmark.synthetic_set import SyntheticSet, load_synthetic_set
from results.store import load_sweep, sweep_records
from studies.study import NothingToStudy


@dataclass(frozen=True)
class FinishedSet:
    """A run's last set with all that is needed to train students on it."""

    run_id: str
    pairs: SyntheticSet
    scaling: Scaling
    student: StudentSpec
    environment: str


def finished_runs(store: Path, sweep: str) -> Iterator[Record]:
    """The complete records of a sweep that have a synthetic set.

    Raises:
        NothingToStudy: There are none.
    """
    known = (store / "sweeps" / f"{sweep}.json").is_file()
    records = sweep_records(store, load_sweep(store, sweep)) if known else []
    found = [
        record
        for record in records
        if record["status"] == "complete" and record["checkpoints"][-1]["synthetic_set"]
    ]
    if not found:
        raise NothingToStudy(
            f"{store} holds no finished set of the sweep {sweep}. Make them: obdbench sweep {sweep}"
        )
    yield from found


def source_of(record: Record) -> dict[str, Any]:
    """What a measurement on a run's last set is of."""
    return {"run": record["run_id"], "sha256": record["checkpoints"][-1]["sha256"]}


def finished_set(store: Path, run_id: str) -> FinishedSet:
    """The last synthetic set of a run, with the student that it was distilled for."""
    folder = folder_of(store, run_id)
    last = read_record(folder / FILE)["checkpoints"][-1]
    pairs, scaling, card = load_synthetic_set(folder / last["synthetic_set"])
    student = StudentSpec(**card["spec"]["student"])
    return FinishedSet(run_id, pairs, scaling, student, card["environment"])

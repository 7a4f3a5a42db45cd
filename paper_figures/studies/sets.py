"""Finished runs' last synthetic sets, as studies use them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmark.config import build
from benchmark.errors import ObdBenchError
from benchmark.files import file_sha256
from benchmark.record import FILE, Record, read_record
from benchmark.run import folder_of
from benchmark.scaling import Scaling
from benchmark.students.student import StudentSpec
from benchmark.synthetic_set import SyntheticSet, load_synthetic_set
from paper_figures.studies.study import NothingToStudy
from results.record_store import load_sweep, started_sweeps, sweep_records


@dataclass(frozen=True)
class FinishedSet:
    """A run's last set with all that is needed to train students on it."""

    run_id: str
    pairs: SyntheticSet
    scaling: Scaling
    student: StudentSpec
    environment: str


def finished_runs(store: Path, sweep: str) -> list[Record]:
    """The complete records of a sweep that have a synthetic set.

    Raises:
        NothingToStudy: There are none.
    """
    started = sweep in started_sweeps(store)
    records = sweep_records(store, load_sweep(store, sweep)) if started else []
    found = [
        record
        for record in records
        if record["status"] == "complete" and record["checkpoints"][-1]["synthetic_set"]
    ]
    if not found:
        raise NothingToStudy(
            f"{store} holds no finished set of the sweep {sweep}. Make them: obdbench sweep {sweep}"
        )
    return found


def source_of(record: Record) -> dict[str, Any]:
    """What a measurement on a run's last set is of."""
    return {"run": record["run_id"], "sha256": record["checkpoints"][-1]["sha256"]}


def one_a_dataset(records: Iterable[Record]) -> dict[str, dict[str, Any]]:
    """Dataset -> source of its run.

    Raises:
        NothingToStudy: A dataset has several runs, so that it is not clear which is meant.
    """
    found: dict[str, dict[str, Any]] = {}
    for record in records:
        name, source = record["spec"]["dataset"], source_of(record)
        if name in found:
            raise NothingToStudy(
                f"{found[name]['run']} and {source['run']} are both on {name}, and the study needs "
                f"one run a dataset. Give it a sweep of one cell a method and dataset."
            )
        found[name] = source
    return found


def finished_set(store: Path, source: Mapping[str, Any]) -> FinishedSet:
    """The last synthetic set of a run, with the student that it was distilled for.

    Args:
        store: Where the run is.
        source: What `source_of` gave.

    Raises:
        ObdBenchError: The file is not the set that the record names.
    """
    folder = folder_of(store, source["run"])
    path = folder / read_record(folder / FILE)["checkpoints"][-1]["synthetic_set"]
    if not path.is_file() or file_sha256(path) != source["sha256"]:
        raise ObdBenchError(
            f"{path} is not the set of {source['run']} with sha256 {source['sha256']}. Do that run "
            f"again: remove its folder and sweep."
        )
    pairs, scaling, card = load_synthetic_set(path)
    student = build(StudentSpec, card["spec"]["student"], f"the card of {path}")
    return FinishedSet(source["run"], pairs, scaling, student, card["environment"])

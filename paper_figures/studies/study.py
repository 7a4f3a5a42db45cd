"""What a study is, how it is performed item by item, and the finished sets that it measures."""

from __future__ import annotations

import json
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar

from benchmark.contract.trial import Recorder
from benchmark.errors import ObdBenchError
from benchmark.method import Method, Policy, Problem
from benchmark.provenance import provenance
from benchmark.record import FILE, Summary, check_set, read_record, record_folder
from benchmark.registry import Registry
from benchmark.scaling import Scaling
from benchmark.students.spec import StudentSpec, describe_student
from benchmark.synthetic_set import SyntheticSet, load_synthetic_set
from results.record_store import load_sweep, started_sweeps, sweep_records
from results.stores import store_option
from results.study_results import (
    StudyResult,
    put_aside_all_but,
    read_result,
    result_path,
    write_result,
)
from results.study_sources import last_digest

Row = dict[str, Any]
"""One measurement: plain JSON values by column."""


class NothingToStudy(ObdBenchError):
    """The runs or datasets of a study are missing."""


@dataclass(frozen=True)
class Study(ABC):
    """A measurement that is not a run of a method. Subclasses are frozen dataclasses of settings.

    Attributes:
        shows: Sentence that says what it measures, with its source.
        version: Version of its way to measure, raised with every change that gives other rows, so
            that older results are measured again.
    """

    shows: ClassVar[str]
    version: ClassVar[int] = 1

    @abstractmethod
    def items(self, store: Path) -> Mapping[str, Mapping[str, Any]]:
        """List what is measured, by name, with the ids and digests of what each rests on.

        Raises:
            NothingToStudy: Runs or datasets are missing; the message has the command to make them.
        """

    @abstractmethod
    def measure(self, item: str, source: Mapping[str, Any], store: Path) -> list[Row]:
        """Measure one item. The same settings, item and source give the same rows."""


STUDIES: Registry[type[Study]] = Registry(
    "study",
    "obdbench.studies",
    Study,  # type: ignore[arg-type]
)


def perform(
    name: str, store: Path, on_item: Callable[[int, int, str], None] | None = None
) -> tuple[int, int]:
    """Measure every item of a study that has no current result in the store.

    An item whose settings, version, set or dataset changed is measured again; the result of an item
    that no longer exists is put aside. A study that is killed loses only the item in progress.

    Args:
        name: Name of the study.
        store: Folder of its runs and of its results.
        on_item: Function called with (items done, number of items, name of the next one).

    Returns:
        Number of items measured now, and of all items.

    Raises:
        NothingToStudy: The study has no item.
        BadStudyResult: A measured number is not finite.
    """
    study = STUDIES[name]()
    items = study.items(store)
    if not items:
        raise NothingToStudy(f"{store} holds nothing that the study {name} could measure.")
    put_aside_all_but(store, name, items)
    measured = 0
    for done, (item, source) in enumerate(items.items()):
        if on_item is not None:
            on_item(done, len(items), item)
        if _is_current(result_path(store, name, item), study, source):
            continue
        began = time.process_time()
        rows = study.measure(item, source, store)
        write_result(
            store,
            StudyResult(
                study=name,
                item=item,
                source=dict(source),
                settings=asdict(study),
                version=study.version,
                rows=rows,
                cpu_seconds=time.process_time() - began,
                provenance=provenance("cpu"),
            ),
        )
        measured += 1
    return measured, len(items)


def _is_current(path: Path, study: Study, source: Mapping[str, Any]) -> bool:
    """Whether the stored result has this version, these settings and this source."""
    if not path.exists():
        return False
    found = read_result(path)
    now = json.loads(json.dumps([study.version, asdict(study), dict(source)]))  # no tuples
    return bool([found.version, found.settings, found.source] == now)


@dataclass(frozen=True)
class FinishedSet:
    """The last set of a run, with all that is needed to train students on it."""

    run_id: str
    pairs: SyntheticSet
    scaling: Scaling
    student: StudentSpec
    environment: str
    teacher: str


def finished_runs(store: Path, sweep: str) -> list[Summary]:
    """Read the complete records of a sweep that have a synthetic set.

    Raises:
        NothingToStudy: There is none.
    """
    found = [r for r in complete_runs(store, sweep) if r.checkpoints[-1].synthetic_set]
    if not found:
        raise NothingToStudy(
            f"{store} holds no finished set of the sweep {sweep}. Make them: obdbench sweep {sweep}"
            f"{store_option(store)}"
        )
    return found


def complete_runs(store: Path, sweep: str) -> list[Summary]:
    """Read the complete records of a sweep; none where it was not started."""
    started = sweep in started_sweeps(store)
    records = sweep_records(store, load_sweep(store, sweep)) if started else []
    return [record for record in records if record.status == "complete"]


def runs_by_cell(
    store: Path,
    sweeps: Sequence[str],
    datasets: Sequence[str],
    methods: Sequence[str],
    seeds: int,
) -> dict[str, dict[str, dict[int, Summary]]]:
    """Find complete runs in several sweeps, by dataset, method and seed below `seeds`.

    Raises:
        NothingToStudy: A sweep has none of them, a method has two on a dataset with one seed, or
            they are scored by several students.
    """
    found: dict[str, dict[str, dict[int, Summary]]] = {
        dataset: {method: {} for method in methods} for dataset in datasets
    }
    for sweep in sweeps:
        runs = [
            record
            for record in complete_runs(store, sweep)
            if record.spec.dataset in datasets
            and record.spec.method in methods
            and record.spec.seed < seeds
        ]
        if not runs:
            raise NothingToStudy(
                f"{store} holds no run of {', '.join(methods)} on {', '.join(datasets)} of the "
                f"sweep {sweep}. Make them: obdbench sweep {sweep}{store_option(store)}"
            )
        for record in runs:
            spec = record.spec
            first = found[spec.dataset][spec.method].setdefault(spec.seed, record)
            if first.run_id != record.run_id:
                raise NothingToStudy(
                    f"{first.run_id} and {record.run_id} are both of {spec.method} on "
                    f"{spec.dataset}, and the study needs one run per method, dataset and seed."
                )
    check_one_student(
        [run for methods in found.values() for runs in methods.values() for run in runs.values()]
    )
    return found


def check_one_student(runs: Iterable[Summary]) -> None:
    """Refuse to compare sets for students of several kinds, as sweeps of two scales have.

    Raises:
        NothingToStudy: There are several.
    """
    students = {run.spec.scoring_student: run.run_id for run in runs if not run.reference}
    if len(students) > 1:
        one, other, *_ = students.items()
        raise NothingToStudy(
            f"{one[1]} has the student {describe_student(one[0])}, {other[1]} "
            f"{describe_student(other[0])}; the study compares sets for one student. Give it "
            f"sweeps of one scale."
        )


def source_of(record: Summary) -> dict[str, Any]:
    """Id of a run and digest of its last set, or of the teacher that it is a score of."""
    return {"run": record.run_id, "sha256": last_digest(record)}


def last_axes(record: Summary) -> dict[str, str | int]:
    """What the seeds of a record's last scores derive from (`benchmark.evaluation.score`)."""
    axes, last = record.provenance.seeds.scoring, record.checkpoints[-1]
    # Before the records of today every checkpoint had students and episodes of its own.
    return {**axes, "step": last.outer_step} if record.provenance.converted_from else axes


def one_per_dataset(records: Iterable[Summary]) -> dict[str, dict[str, Any]]:
    """Map each dataset to the source of its run.

    Raises:
        NothingToStudy: A dataset has several runs, so that it is not clear which is meant.
    """
    found: dict[str, dict[str, Any]] = {}
    for record in records:
        name, source = record.spec.dataset, source_of(record)
        if name in found:
            raise NothingToStudy(
                f"{found[name]['run']} and {source['run']} are both on {name}, and the study needs "
                f"one run per dataset. Give it a sweep with one cell per method and dataset."
            )
        found[name] = source
    return found


def finished_set(store: Path, source: Mapping[str, Any]) -> FinishedSet:
    """Load the last synthetic set of a run, with the student that it was distilled for.

    Args:
        store: Folder that holds the run.
        source: What `source_of` gave.

    Raises:
        BadRecord: The file is not the set that the record names.
    """
    folder = store / record_folder(source["run"])
    record = read_record(folder / FILE)
    pairs, scaling, card = load_synthetic_set(check_set(record, record.checkpoints[-1], folder))
    spec = record.spec
    return FinishedSet(spec.run_id, pairs, scaling, spec.student, card["environment"], spec.teacher)


class _LastStep(Recorder):
    """A monitor of a method, to which only the last outer step is due."""

    def due(self, step: int) -> bool:
        """Whether the method has reached its last step."""
        return step == self.total


def last_result(method: Method, problem: Problem) -> SyntheticSet | Policy:
    """Let a method work on a problem, and return the set, or policies, that it ends with."""
    monitor = _LastStep()
    method.distill(problem, monitor)
    return list(monitor.results.values())[-1]

"""Executing runs: each leaves its record, and goes on where a killed attempt stopped.

The way of a run: `execute` loads a run's materials, gives them to the method as its problem, and a
monitor to report to; when the method ends, or raises, its record is written.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import time
import traceback
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Self, cast

from filelock import Timeout

from benchmark.clocks import SAVE_EVERY_SECONDS, Cost, SaveClock, Stopwatch
from benchmark.datasets.dataset import Dataset
from benchmark.environments.contacts import contact_rule
from benchmark.environments.jax_tasks import simulator_packages
from benchmark.errors import ChangedInPlace, ObdBenchError, encodable
from benchmark.heartbeat import ALIVE, Beating, Heartbeat, last_sign
from benchmark.locks import FileLock
from benchmark.materials import Materials
from benchmark.method import Assignment, Method, Problem, Shared, advice_on_divergence
from benchmark.monitor import STATE, OnProgress, Outcome, RunMonitor, now
from benchmark.names import check_inside, lies_inside
from benchmark.packing import default_pack
from benchmark.provenance import (
    checked_device,
    code,
    either_dirty,
    makings,
    products_of,
    provenance,
)
from benchmark.record import (
    FILE,
    BadRecord,
    Failure,
    Need,
    OtherVersion,
    Provenance,
    Record,
    Seeds,
    Status,
    put_aside_damaged,
    read_record,
    record_folder,
    score_of,
    write_record,
)
from benchmark.registry import load_plugin
from benchmark.same_sets import SameSets, has_candidates, remember
from benchmark.spec import RunSpec
from benchmark.state import load_state
from benchmark.stopping import StopRequest
from benchmark.synthetic_set import NotFinite
from benchmark.threads import torch_threads

LOCK_SECONDS = 0.1
"""Between looks at a run that another process works on."""
SILENT_SECONDS = 5.0
"""A run that is waited for longer than that is named."""


class WorkerDied(ObdBenchError):
    """The process that worked on a run ended without leaving a record."""

    what: ClassVar[str] = "The process working on this run died."

    @classmethod
    def with_log(cls, log: str, more: str = "") -> Self:
        """The error with what else is known, and the end of the process's log."""
        return cls(f"{cls.what}{more and ' '}{more} The end of its log:\n{log}")


@dataclass(frozen=True)
class Conditions:
    """Under which conditions runs are done; none of them changes what a run is.

    Args:
        store: Folder of records.
        plugins: Files that register methods or datasets, loaded by every process.
        threads: Threads of torch in every process. Rounding depends on it, so it is the same
            everywhere unless asked otherwise.
        device: Torch device of the methods' heavy products; "cuda+tf32" rounds their factors.
        save_every: Seconds of work that a killed run may lose.
        pack: Largest number of distillations that one process advances together; None for the
            device's.
        on_progress: Called as a method goes on.
        stop: Where others may ask the runs to save their state and end.
    """

    store: Path
    plugins: tuple[str, ...] = ()
    threads: int = 1
    device: str = "cpu"
    save_every: float = SAVE_EVERY_SECONDS
    pack: int | None = None
    on_progress: OnProgress | None = None
    stop: StopRequest = field(default_factory=StopRequest)

    @property
    def largest_pack(self) -> int:
        """Largest number of runs that one process advances together."""
        return self.pack or default_pack(self.device)

    def as_dict(self) -> dict[str, Any]:
        """The plain values of it (JSON), for a job on another machine."""
        return {
            "store": str(self.store),
            "plugins": list(self.plugins),
            "threads": self.threads,
            "device": self.device,
            "save_every": self.save_every,
            "pack": self.pack,
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], **rest: Any) -> Conditions:
        """The inverse of `as_dict`; `rest` are fields that are not plain values."""
        plain = {**values, "store": Path(values["store"]), "plugins": tuple(values["plugins"])}
        return cls(**plain, **rest)

    @contextlib.contextmanager
    def applied(self) -> Iterator[None]:
        """Load the plug-ins, and set torch's threads and precision while this is open.

        Raises:
            ObdBenchError: The device is not one of this machine, or a plug-in does not load.
        """
        checked_device(self.device)
        for plugin in self.plugins:
            load_plugin(plugin)
        with torch_threads(self.threads), products_of(self.device):
            yield


def run_folder(store: Path, spec: RunSpec) -> Path:
    """Folder of a run's record, sets and saved state."""
    return store / record_folder(spec.run_id)


def existing_record(folder: Path) -> Record | None:
    """The record in a run's folder, if it has one.

    Raises:
        BadRecord: It cannot be read.
    """
    path = folder / FILE
    return read_record(path) if path.exists() else None


def is_complete(folder: Path) -> bool:
    """Whether a run's folder holds a complete record; a damaged one is none."""
    try:
        record = existing_record(folder)
    except BadRecord:
        return False
    return record is not None and record.status == "complete"


def is_settled(folder: Path) -> bool:
    """Whether a run's folder holds a complete record, or one of another version of the suite."""
    try:
        record = existing_record(folder)
    except OtherVersion:
        return True
    except BadRecord:
        return False
    return record is not None and record.status == "complete"


def record_time(store: Path, spec: RunSpec) -> int | None:
    """When a run's record was written, in nanoseconds; None without a record."""
    try:
        return (run_folder(store, spec) / FILE).stat().st_mtime_ns
    except FileNotFoundError:
        return None


def record_times(store: Path, specs: Iterable[RunSpec]) -> dict[str, int]:
    """When the records of runs were written, by run id; runs without a record are left out."""
    times = ((spec.run_id, record_time(store, spec)) for spec in specs)
    return {run_id: time for run_id, time in times if time is not None}


def is_open(store: Path, spec: RunSpec, before: Mapping[str, int]) -> bool:
    """Whether a planned run is still to be done.

    It has no record, or one that it had when it was planned and that is neither complete nor of
    another version of the suite. A run that has failed since waits for a retry.

    Args:
        store: Folder of records.
        spec: The run.
        before: `record_times` when the run was planned.
    """
    written = record_time(store, spec)
    if written is None:
        return True
    return written == before.get(spec.run_id) and not is_settled(run_folder(store, spec))


def execute(
    specs: Sequence[RunSpec], conditions: Conditions, before: Mapping[str, int] | None = None
) -> list[Record]:
    """Do one run, or several that may be advanced together, and leave a record of each.

    Complete records are returned as they are, also from a store that can only be read. A record
    that cannot be read is put aside (`put_aside_damaged`), one of another version left alone. A run
    that raises leaves a failed record with the error, and one that has failed since it was planned
    is left alone. A run that is killed leaves its saved state, from which the next call goes on to
    the same numbers. Runs that are advanced together have the
    numbers of the runs one by one, and their seconds are equal shares of the pack's. Where a pack
    raises, its runs are done one by one from their saved states, or from the start where one wrote
    into the others' data: an error is the record of the run that it belongs to. A run whose sets
    another run of the store has distilled, or one of these, scores those (`benchmark.same_sets`).

    Args:
        specs: One run, or the runs of a pack (`benchmark.packing.make_packs`).
        conditions: Store, device and the like.
        before: `record_times` when the runs were planned; by default of now.

    Raises:
        Stopped: The runs were asked to end, and have saved their state.
        OSError: A record could not be written. Where several could not, the message names each.
        OtherVersion: A run has a record of another version of the suite; the others are done.
        NoLocks: The store's disk has no file locks.
    """
    store = conditions.store
    tidy(specs, store)
    if all(is_complete(run_folder(store, spec)) for spec in specs):
        return [read_record(run_folder(store, spec) / FILE) for spec in specs]
    before = record_times(store, specs) if before is None else before
    with conditions.applied(), _locked(store, specs, conditions.stop):
        for folder in (run_folder(store, spec) for spec in specs):
            if (aside := put_aside_damaged(folder)) is not None:
                logging.getLogger(__name__).warning("A damaged record was renamed to %s", aside)
        todo = [spec for spec in specs if is_open(store, spec, before)]
        problems: list[OSError] = []
        together = _to_distil_together(todo, conditions)
        if len(together) > 1 and _advance(together, conditions, problems):
            packed = {spec.run_id for spec in together}
            todo = [spec for spec in todo if spec.run_id not in packed]
        for spec in todo:
            _advance([spec], conditions, problems)
        _raise_all(problems)
        return [read_record(run_folder(store, spec) / FILE) for spec in specs]


def _to_distil_together(specs: Sequence[RunSpec], conditions: Conditions) -> list[RunSpec]:
    """One run for each of the sets that no run of the store has distilled yet."""
    firsts: dict[str, RunSpec] = {}
    for spec in specs:
        firsts.setdefault(spec.distillation_id, spec)
    if len(firsts) == 1:
        return list(firsts.values())
    store, here = conditions.store, provenance(conditions.device)
    return [spec for spec in firsts.values() if not has_candidates(spec, store, here)]


def tidy(specs: Sequence[RunSpec], store: Path) -> None:
    """Do what processes left undone of complete runs, which died right after their records."""
    for folder in (run_folder(store, spec) for spec in specs):
        left = [folder / STATE, folder / ALIVE, *_half_written(folder)]
        found = any(path.exists() for path in left)
        if found and lies_inside(store, folder) and is_complete(folder):
            remember(read_record(folder / FILE), store, made_here=False)
            with contextlib.suppress(OSError):  # a store that can only be read keeps them
                for path in left:
                    path.unlink(missing_ok=True)


def record_death(spec: RunSpec, store: Path, error: WorkerDied) -> bool:
    """Leave a failed record for a run whose process died; its saved state stays for a retry.

    Returns:
        Whether it did: not where the run has a complete record, or where a process works on it.
    """
    folder = run_folder(store, spec)
    try:
        with _locked(store, [spec]):
            if is_settled(folder):
                return False
            put_aside_damaged(folder)
            attempt = _Attempt(spec, folder)
            cost = attempt.outcome.cost
            cost.attempts = max(1, cost.attempts - 1)  # this is not one: the last one died
            with contextlib.suppress(ObdBenchError):  # an unreadable state is the retry's to report
                attempt.outcome.restore(load_state(folder / STATE)[1])
            write_record(folder / FILE, attempt.record("failed", "cpu", error))
            (folder / ALIVE).unlink(missing_ok=True)
            return True
    except Timeout:
        return False


def _advance(specs: Sequence[RunSpec], conditions: Conditions, problems: list[OSError]) -> bool:
    """Do runs in one batch; a single run that raises leaves a failed record.

    Args:
        specs: The runs.
        conditions: Store, device and the like.
        problems: What went wrong with writing records is added here.

    Returns:
        Whether every run has its record: a pack that raised leaves none.
    """
    conditions.stop.check()
    stop = conditions.stop
    attempts = [_Attempt(spec, run_folder(conditions.store, spec)) for spec in specs]
    with Beating([attempt.heartbeat for attempt in attempts], stop):
        stopwatch = Stopwatch([attempt.outcome.cost for attempt in attempts])
        clock = SaveClock(conditions.save_every, stop)
        try:
            shared = Shared()
            # A pack is of one dataset, which is read and held once.
            work = [attempts[0].begin(conditions, stopwatch, clock, shared)]
            dataset = attempts[0].dataset
            for other in attempts[1:]:
                work.append(other.begin(conditions, stopwatch, clock, shared, dataset))
            same = attempts[0].find_same_sets(conditions) if len(work) == 1 else None
            stopwatch.skip()  # loading data, and fitting a density, are not costs of a run
            if len(work) > 1:
                work[0].method.distill_packed(work)
            elif same is not None and attempts[0].monitor is not None:
                same.score(attempts[0].monitor, stop)
            else:
                work[0].method.distill(work[0].problem, work[0].monitor)
            stopwatch.lap()
            if len(work) > 1:
                dataset.check_unchanged()
                shared.check_unchanged()
            records = [attempt.complete_record(conditions.device) for attempt in attempts]
        except Exception as error:  # whatever a method raises is a row of the table, never a gap
            if len(specs) > 1:  # which run it belongs to shows when they are done one by one
                logging.getLogger(__name__).warning(
                    "%d packed runs go on one by one: %s: %s",
                    len(specs), type(error).__name__, error,
                )  # fmt: skip
                if isinstance(error, ChangedInPlace):  # saved states may come from changed data
                    for attempt in attempts:
                        attempt.forget_state()
                return False
            stopwatch.lap()
            records = [attempts[0].record("failed", conditions.device, error)]
        for attempt, record in zip(attempts, records, strict=True):
            try:
                written = attempt.write(record, conditions.device)
            except OSError as error:
                problems.append(error)
            else:
                if written.status == "complete":
                    remember(written, conditions.store, made_here=True)
                    attempt.forget_state()
    return True


class _Attempt:
    """One attempt at a run, from its first sign of life to its record."""

    def __init__(self, spec: RunSpec, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.spec, self.folder = spec, folder
        self.outcome = Outcome(Cost(attempts=_earlier_attempts(folder) + 1), **code())
        self.heartbeat = Heartbeat(folder, self.outcome.cost.attempts)
        self.materials: Materials | None = None
        self.problem: Problem | None = None
        self.monitor: RunMonitor | None = None
        self.same_sets: SameSets | None = None

    @property
    def dataset(self) -> Dataset:
        """The dataset of an attempt that has begun."""
        assert self.materials is not None, "an attempt has begun"
        return self.materials.dataset

    def find_same_sets(self, conditions: Conditions) -> SameSets | None:
        """Sets that another run has distilled from the same materials; the record will name it."""
        assert self.materials is not None, "an attempt has begun"
        origin = self.origin(conditions.device, self.spec.method_instance)
        self.same_sets = SameSets.find(self.materials, conditions.store, origin)
        return self.same_sets

    def begin(
        self,
        conditions: Conditions,
        stopwatch: Stopwatch,
        save_clock: SaveClock,
        shared: Shared,
        dataset: Dataset | None = None,
    ) -> Assignment:
        """The method, what it may see, and the monitor that it reports to.

        `shared` and `dataset` are those of the pack's first run.
        """
        self.materials = Materials.load(self.spec, dataset)
        self.monitor = RunMonitor(
            self.materials,
            self.folder,
            outcome=self.outcome,
            stopwatch=stopwatch,
            save_clock=save_clock,
            heartbeat=self.heartbeat,
            origin=makings(self.origin(conditions.device, self.spec.method_instance)),
            on_progress=conditions.on_progress,
        )
        self.problem = self.materials.problem(conditions.device, shared)
        return Assignment(self.spec.method_instance, self.problem, self.monitor)

    def origin(self, device: str, method: Method | None) -> dict[str, Any]:
        """Code, packages, machine and engine of what is distilled here."""
        environment = self.materials.dataset.env_id if self.materials else None
        packages = simulator_packages(environment) if environment else ()
        engine = method.engine(device) if method else "torch"
        if not isinstance(engine, str):
            raise ObdBenchError(
                f"The engine of the method {self.spec.method} is {engine!r}; expected a name."
            )
        return {**provenance(device, packages), "engine": engine}

    def complete_record(self, device: str) -> Record:
        """The record of a run whose method has ended.

        Raises:
            ObdBenchError: The method gave no result.
        """
        if not self.outcome.checkpoints:
            raise ObdBenchError(
                f"The method {self.spec.method} ended without a checkpoint; it must give its "
                f"result to monitor.checkpoint(step, synthetic_set)."
            )
        return self.record("complete", device)

    def record(self, status: Status, device: str, error: Exception | None = None) -> Record:
        """The record of the run as it stands."""
        spec, materials = self.spec, self.materials
        if self.problem is not None and not self.problem.uses_device:
            device = "cpu"  # whatever was asked for
        method = None
        with contextlib.suppress(ObdBenchError):  # it does not load, which is what the error says
            method = spec.method_instance
        checkpoints = self.outcome.checkpoints
        try:
            origin = self.origin(device, method)
        except Exception:  # of a plug-in's engine
            if status == "complete":
                raise
            origin = self.origin(device, None)
        origin["dirty"] = either_dirty(origin["dirty"], self.outcome.dirty)
        same = self.same_sets if status == "complete" else None
        if same is not None:
            same.take_over(self.outcome)
            origin |= same.origin(origin["dirty"])
        return Record(
            run_id=spec.run_id,
            cell_id=spec.cell_id,
            status=status,
            spec=spec,
            parameters=spec.resolved_parameters if method else dict(spec.parameters),
            needs=cast(list[Need], sorted(method.needs)) if method else [],
            reference=method.reference if method else False,
            checkpoints=checkpoints,
            score=score_of(checkpoints, spec.protocol) if status == "complete" else None,
            cost=self.outcome.cost,
            teacher=materials.teacher_facts() if materials else None,
            density=materials.density_facts() if materials else None,
            normalisation=materials.dataset.reference if materials else None,
            provenance=Provenance(
                **origin,
                environment=materials.dataset.env_id if materials else None,
                contacts=contact_rule(materials.dataset.env_id) if materials else None,
                dataset_sha256=materials.dataset.sha256 if materials else None,
                resumed_from=self.outcome.resumed_from,
                seeds=Seeds(
                    seed=spec.seed,
                    distillation=spec.distillation_axes,
                    scoring=spec.scoring_axes,
                ),
            ),
            method_facts=self.outcome.method_facts,
            sets_of=same.run_id if same else None,
            error=_failure(error, self._advice(error, method)) if error else None,
            started=self.outcome.started,
            finished=now(),
        )

    def _advice(self, error: Exception, method: Method | None) -> str:
        """What else there is to say of an error: where it was, and what to change."""
        if method is None or not isinstance(error, NotFinite):
            return ""
        advice = advice_on_divergence(method, self.spec.student)
        return f" The method had reached outer step {self.heartbeat.step}. {advice}"

    def write(self, record: Record, device: str) -> Record:
        """Write the run's record; of one that no file can hold, a failed one that says why.

        Its saved state stays then, and so do its sets.

        Returns:
            The one that was written.

        Raises:
            OSError: It could not be written.
        """
        try:
            write_record(self.folder / FILE, record)
        except ObdBenchError as error:
            self.outcome.forget_results()
            record = self.record("failed", device, error)
            write_record(self.folder / FILE, record)
        return record

    def forget_state(self) -> None:
        """Remove what only an unfinished run needs, and what killed attempts left half-written."""
        for path in (self.folder / STATE, *_half_written(self.folder)):
            path.unlink(missing_ok=True)


def _half_written(folder: Path) -> list[Path]:
    """Temporary files of killed processes: ours, and those of safetensors."""
    return [*folder.glob(".*.tmp"), *folder.glob(".tmp*")]


def _failure(error: Exception, advice: str) -> Failure:
    text = "".join(traceback.format_exception(error))
    # Records go to other people: files are named from the folder that Python imports them from.
    folders = {*filter(None, sys.path), str(Path(__file__).parents[1])}
    for folder in sorted(folders, key=len, reverse=True):
        text = text.replace(f'File "{folder}{os.sep}', 'File "')
    message = encodable(f"{error}{advice}")
    return Failure(type=type(error).__name__, message=message, traceback=encodable(text))


def _earlier_attempts(folder: Path) -> int:
    """Processes that worked on a run before, from its last sign of life or its failed record."""
    sign, record = last_sign(folder), existing_record(folder)
    return max(sign.attempt if sign else 0, record.cost.attempts if record else 0)


@contextlib.contextmanager
def _locked(
    store: Path, specs: Sequence[RunSpec], stop: StopRequest | None = None
) -> Iterator[None]:
    """While it is open no other process works on these runs.

    The system releases the locks of a process that dies.

    Args:
        store: Folder of records.
        specs: The runs.
        stop: Until it is asked, a process that works on one of them is waited for; with None it is
            not.

    Raises:
        Timeout: Another process works on one of them, and is not waited for.
        Stopped: A stop was requested while it was waited for.
        NoLocks: The store's disk has no file locks.
    """
    folders = {run_folder(store, spec): spec for spec in specs}
    with contextlib.ExitStack() as locks:
        for folder in sorted(folders):  # one order: no deadlock
            check_inside(store, folder)
            folder.parent.mkdir(parents=True, exist_ok=True)
            lock = FileLock(folder.with_name(f".{folder.name}.lock"), timeout=0)
            locks.enter_context(_acquired(lock, folders[folder], stop))
        yield


def _acquired(
    lock: FileLock, spec: RunSpec, stop: StopRequest | None
) -> contextlib.AbstractContextManager[object]:
    """Take the lock of a run, as `_locked` says; a run that is waited for long is named."""
    began, named = time.monotonic(), False
    while True:
        try:
            return lock.acquire()
        except Timeout:
            if stop is None:
                raise
            stop.check()
            if not named and time.monotonic() - began > SILENT_SECONDS:
                named = True
                logging.getLogger(__name__).warning(
                    "Another process works on %s, which is waited for (its lock: %s).",
                    spec.run_id, lock.lock_file,
                )  # fmt: skip
            time.sleep(LOCK_SECONDS)


def _raise_all(problems: Sequence[OSError]) -> None:
    """Raise what went wrong; several problems as one error whose message names each."""
    if len(problems) == 1:
        raise problems[0]
    if problems:
        messages = "\n".join(f"- {problem}" for problem in problems)
        raise OSError(f"{len(problems)} records could not be written:\n{messages}")

"""Executing runs: each leaves its record, and goes on where a killed attempt stopped."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Self, TypeVar

from filelock import FileLock, Timeout

from benchmark.attempt import Attempt, OnProgress, existing_record, is_complete
from benchmark.clocks import SAVE_EVERY_SECONDS, SaveClock, Stopwatch
from benchmark.errors import ObdBenchError
from benchmark.heartbeat import ALIVE
from benchmark.record import FILE, Record, write_record
from benchmark.spec import RunSpec
from benchmark.stopping import StopRequest

T = TypeVar("T")


class WorkerDied(ObdBenchError):
    """The process that worked on a run ended without leaving a record."""

    what: ClassVar[str] = "The process working on this run died."

    @classmethod
    def with_log(cls, log: str, more: str = "") -> Self:
        """The error with what is known beside it and the end of the process's log."""
        return cls(f"{cls.what}{more and ' '}{more} The end of its log:\n{log}")


def run_folder(store: Path, spec: RunSpec) -> Path:
    """Where a run's record, sets and saved state are kept."""
    return folder_of(store, spec.run_id)


def folder_of(store: Path, run_id: str) -> Path:
    """`run_folder` of a run that is known by its id alone."""
    return store.joinpath(*run_id.rsplit(".", 1))


def execute(
    spec: RunSpec,
    store: Path,
    on_progress: OnProgress | None = None,
    *,
    save_every: float = SAVE_EVERY_SECONDS,
    device: str = "cpu",
    stop: StopRequest | None = None,
) -> Record:
    """Does one run and leaves its record, whatever happens; a complete record is returned as it is.

    A run that raises leaves a failed record with the error. A run that is killed leaves its saved
    state, from which the next call goes on to the same numbers.

    Args:
        spec: The run.
        store: Folder of records.
        on_progress: Called as the method goes on.
        save_every: Seconds of work that a killed run may lose.
        device: Torch device of the method's heavy products.
        stop: Where others may ask the run to save its state and end.

    Raises:
        Stopped: It was asked to, and has saved.
    """
    how = _How(store, on_progress, save_every, device, stop or StopRequest())
    with _alone(store, [spec]):
        return _execute(spec, how)


@dataclass(frozen=True)
class _How:
    """What all runs of a call have in common."""

    store: Path
    on_progress: OnProgress | None
    save_every: float
    device: str
    stop: StopRequest

    def clock(self) -> SaveClock:
        return SaveClock(self.save_every, self.stop)

    def attempt(self, spec: RunSpec, clock: SaveClock) -> Attempt:
        folder = run_folder(self.store, spec)
        return Attempt(spec, folder, self.on_progress, save_clock=clock, device=self.device)


def _execute(spec: RunSpec, how: _How) -> Record:
    folder = run_folder(how.store, spec)
    if (record := existing_record(folder)) is not None and record["status"] == "complete":
        return record
    how.stop.check()
    attempt = how.attempt(spec, how.clock())
    with attempt.heartbeat:
        try:
            method, problem, monitor = attempt.prepare()
            method.distill(problem, monitor)
            record = attempt.complete_record()
        except Exception as error:  # whatever a method raises is a row of the table, never a gap
            record = attempt.record("failed", error)
        write_record(folder / FILE, record)
    if record["status"] == "complete":
        attempt.forget_state()
    return record


def execute_pack(
    specs: Sequence[RunSpec],
    store: Path,
    on_progress: OnProgress | None = None,
    *,
    save_every: float = SAVE_EVERY_SECONDS,
    device: str = "cpu",
    stop: StopRequest | None = None,
) -> None:
    """Does several runs that may be advanced together, in one batch; each leaves its own record.

    The numbers are those of the runs one by one, and a run's seconds are its share of the pack's.
    Where the pack raises, its runs are done one by one instead, from their saved states: an error
    is the record of the run that it belongs to, and costs the others nothing but time.
    """
    how = _How(store, on_progress, save_every, device, stop or StopRequest())
    with _alone(store, specs):
        todo = [spec for spec in specs if not is_complete(run_folder(store, spec))]
        if len(todo) < 2 or not _advance_together(todo, how):
            _in_spite_of_full_disks(lambda spec: _execute(spec, how), todo)


def record_death(spec: RunSpec, store: Path, error: WorkerDied) -> bool:
    """Leaves a failed record for a run whose process died; its saved state stays for a retry.

    Returns:
        Whether it did: not where the run has a complete record, or where somebody works on it.
    """
    folder = run_folder(store, spec)
    try:
        with _alone(store, [spec], wait=False):
            if is_complete(folder):
                return False
            attempt = Attempt(spec, folder)
            attempt.stopwatch = Stopwatch([])  # what this process uses is not the run's cost
            attempt.cost.attempts = max(1, attempt.cost.attempts - 1)  # the last is the dead one
            with contextlib.suppress(ObdBenchError):  # an unreadable state is the retry's to report
                attempt.resume()
            write_record(folder / FILE, attempt.record("failed", error))
            (folder / ALIVE).unlink(missing_ok=True)
            return True
    except Timeout:
        return False


@contextlib.contextmanager
def _alone(store: Path, specs: Sequence[RunSpec], *, wait: bool = True) -> Iterator[None]:
    """While it is open no other process works on these runs; it waits for one that does.

    The system lets go of the locks of a process that dies.

    Raises:
        Timeout: Somebody works on one of them, and waiting is not wanted.
    """
    with contextlib.ExitStack() as locks:
        for folder in sorted(run_folder(store, spec) for spec in specs):  # one order: no deadlock
            folder.parent.mkdir(parents=True, exist_ok=True)
            lock = FileLock(folder.with_name(f".{folder.name}.lock"), timeout=-1 if wait else 0)
            locks.enter_context(lock)
        yield


def _advance_together(specs: Sequence[RunSpec], how: _How) -> bool:
    """Whether all runs of a pack were completed in one batch."""
    how.stop.check()
    clock = how.clock()
    attempts = [how.attempt(spec, clock) for spec in specs]
    stopwatch = Stopwatch([attempt.cost for attempt in attempts])
    with contextlib.ExitStack() as beating:
        for attempt in attempts:
            attempt.stopwatch = stopwatch
            beating.enter_context(attempt.heartbeat)
        try:
            assignments = [attempt.prepare() for attempt in attempts]
            assignments[0].method.distill_packed(assignments)
            records = [attempt.complete_record() for attempt in attempts]
        except Exception as error:  # whose it is shows when the runs are done one by one
            logging.getLogger(__name__).warning(
                "%d packed runs go on one by one: %s: %s", len(specs), type(error).__name__, error
            )
            return False
        _in_spite_of_full_disks(
            lambda pair: write_record(pair[0].folder / FILE, pair[1]),
            zip(attempts, records, strict=True),
        )
    for attempt in attempts:
        attempt.forget_state()
    return True


def _in_spite_of_full_disks(act: Callable[[T], object], items: Iterable[T]) -> None:
    """Acts on every item, whatever becomes of the others.

    Raises:
        OSError: What one of them left could not be written.
    """
    problem: OSError | None = None
    for item in items:
        try:
            act(item)
        except OSError as error:
            problem = error
    if problem is not None:
        raise problem

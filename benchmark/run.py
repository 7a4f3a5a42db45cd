"""Executing runs: each leaves its record, and goes on where a killed attempt stopped."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path

from filelock import FileLock

from benchmark.attempt import Attempt, OnProgress, existing_record, is_complete
from benchmark.clocks import SAVE_EVERY_SECONDS, SaveClock, Stopwatch
from benchmark.errors import ObdBenchError
from benchmark.heartbeat import ALIVE
from benchmark.record import FILE, Record, write_record
from benchmark.spec import RunSpec


class WorkerDied(ObdBenchError):
    """The process that worked on a run ended without leaving a record."""


def run_folder(store: Path, spec: RunSpec) -> Path:
    """Where a run's record, sets and saved state are kept."""
    return store / spec.cell_id / f"seed{spec.seed}"


def execute(
    spec: RunSpec,
    store: Path,
    on_progress: OnProgress | None = None,
    *,
    save_every: float = SAVE_EVERY_SECONDS,
    device: str = "cpu",
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
    """
    with _alone(store, [spec]):
        return _execute(spec, run_folder(store, spec), on_progress, save_every, device)


def _execute(
    spec: RunSpec, folder: Path, on_progress: OnProgress | None, save_every: float, device: str
) -> Record:
    if (record := existing_record(folder)) is not None and record["status"] == "complete":
        return record
    clock = SaveClock(save_every)
    attempt = Attempt(spec, folder, on_progress, save_clock=clock, device=device)
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
) -> None:
    """Does several runs that may be advanced together, in one batch; each leaves its own record.

    The numbers are those of the runs one by one, and a run's seconds are its share of the pack's.
    Where the pack raises, its runs are done one by one instead, from their saved states: an error
    is the record of the run that it belongs to, and costs the others nothing but time.
    """
    with _alone(store, specs):
        todo = [spec for spec in specs if not is_complete(run_folder(store, spec))]
        if len(todo) < 2 or not _advance_together(todo, store, on_progress, save_every, device):
            for spec in todo:
                _execute(spec, run_folder(store, spec), on_progress, save_every, device)


def record_death(spec: RunSpec, store: Path, log: str) -> None:
    """Leaves a failed record for a run whose process died; its saved state stays for a retry."""
    folder = run_folder(store, spec)
    attempt = Attempt(spec, folder)
    attempt.cost.attempts = max(1, attempt.cost.attempts - 1)  # the one that died is the last one
    with contextlib.suppress(ObdBenchError):  # a state that cannot be read is the retry's to report
        attempt.resume()
    message = f"The process working on this run died. The end of its log:\n{log}"
    write_record(folder / FILE, attempt.record("failed", WorkerDied(message)))
    (folder / ALIVE).unlink(missing_ok=True)


@contextlib.contextmanager
def _alone(store: Path, specs: Sequence[RunSpec]) -> Iterator[None]:
    """While it is open no other process works on these runs; it waits for one that does.

    The system lets go of the locks of a process that dies.
    """
    with contextlib.ExitStack() as locks:
        for folder in sorted(run_folder(store, spec) for spec in specs):  # one order: no deadlock
            folder.parent.mkdir(parents=True, exist_ok=True)
            locks.enter_context(FileLock(folder.with_name(f".{folder.name}.lock")))
        yield


def _advance_together(
    specs: Sequence[RunSpec],
    store: Path,
    on_progress: OnProgress | None,
    save_every: float,
    device: str,
) -> bool:
    """Whether all runs of a pack were completed in one batch."""
    clock = SaveClock(save_every)
    attempts = [
        Attempt(spec, run_folder(store, spec), on_progress, save_clock=clock, device=device)
        for spec in specs
    ]
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
        for attempt, record in zip(attempts, records, strict=True):
            write_record(attempt.folder / FILE, record)
    for attempt in attempts:
        attempt.forget_state()
    return True

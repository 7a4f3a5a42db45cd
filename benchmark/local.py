"""Doing the runs of a sweep on this machine: in this process, or in several.

What a run left is read from the store only, never from what a process returns: a record is true
whoever wrote it.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import submitit

from benchmark.packing import Pack, make_packs
from benchmark.provenance import checked_device
from benchmark.record import FILE
from benchmark.run import Conditions, WorkerDied, execute, is_complete, record_death, run_folder
from benchmark.spec import RunSpec

THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
"""What bounds the threads of BLAS and OpenMP in a process that begins."""
POLL_SECONDS = 0.25
LOG_LINES = 20


def execute_here(
    runs: Sequence[RunSpec], conditions: Conditions, on_poll: Callable[[], None] | None = None
) -> None:
    """Do the runs in this process, one pack after the other.

    Args:
        runs: In the order of the sweep.
        conditions: Store, device and the like.
        on_poll: Called after every pack.

    Raises:
        Stopped: The runs were asked to end, and have saved their state.
        OSError: Records could not be written; the message names each.
    """
    for pack in make_packs(runs, conditions.pack):
        execute(pack, conditions)
        if on_poll:
            on_poll()


def execute_in_processes(
    runs: Sequence[RunSpec],
    conditions: Conditions,
    jobs: int,
    on_poll: Callable[[], None] | None = None,
) -> None:
    """Do the runs in processes of submitit's local executor, each with its share of them.

    A process that dies costs the run that it was working on (a failed record says so; a retry goes
    on from that run's saved state); its other runs are given to a new process.

    Args:
        runs: In the order of the sweep.
        conditions: Store, device and the like.
        jobs: Processes at a time.
        on_poll: Called now and then while this process waits.

    Raises:
        ObdBenchError: The device is not one of this machine.
    """
    checked_device(conditions.device)  # once here, not as the death of every process
    packs = make_packs(runs, conditions.pack, jobs)
    running = [_submit(share, conditions) for share in _shares(packs, jobs)]
    try:
        while running:
            time.sleep(POLL_SECONDS)
            for worker in [worker for worker in running if worker.job.done()]:
                running.remove(worker)
                if rest := _runs_left(worker, conditions):
                    again = make_packs(rest, conditions.pack, jobs)
                    running.append(_submit(again, conditions))
            if on_poll:
                on_poll()
    finally:
        for worker in running:
            worker.job.cancel(check=False)
        while not all(worker.job.done() for worker in running):  # none outlives this process
            time.sleep(POLL_SECONDS)


def execute_packs(
    packs: Sequence[Sequence[Mapping[str, Any]]], conditions: Mapping[str, Any]
) -> None:
    """What a worker process does: packs of runs, one after the other, given as plain values.

    Args:
        packs: Runs as `RunSpec.as_dict`.
        conditions: Conditions as `Conditions.as_dict` gives them.
    """
    here = Conditions.from_dict(conditions)
    for pack in packs:
        execute([RunSpec.from_dict(run) for run in pack], here)


def last_lines(log: str) -> str:
    """The end of a log, for an error message."""
    return "\n".join(log.strip().splitlines()[-LOG_LINES:])


@dataclass
class _Worker:
    """A process, the runs that it was given, and when the record of each was written before."""

    job: submitit.Job[None]
    runs: list[RunSpec]
    written: dict[str, int | None]


def _submit(packs: Sequence[Pack], conditions: Conditions) -> _Worker:
    runs = [run for pack in packs for run in pack]
    executor = submitit.AutoExecutor(folder=conditions.store / "jobs" / "%j", cluster="local")
    executor.update_parameters(timeout_min=7 * 24 * 60, name="obdbench")
    written = {run.run_id: _record_time(run, conditions) for run in runs}
    plain = [[run.as_dict() for run in pack] for pack in packs]
    with _thread_limit(conditions.threads):
        job = executor.submit(execute_packs, plain, conditions.as_dict())
    return _Worker(job, runs, written)


def _runs_left(worker: _Worker, conditions: Conditions) -> list[RunSpec]:
    """Runs that a finished process did not get to, without the one that it died in."""
    rest = [run for run in worker.runs if _untouched(run, worker.written[run.run_id], conditions)]
    if not rest:
        shutil.rmtree(worker.job.paths.folder, ignore_errors=True)
        return []
    log = worker.job.stderr() or worker.job.stdout() or "(no log)"
    record_death(rest[0], conditions.store, WorkerDied.with_log(last_lines(log)))
    return rest[1:]


def _untouched(run: RunSpec, before: int | None, conditions: Conditions) -> bool:
    """Whether a run has no record, or still the failed one that a retry began with."""
    now = _record_time(run, conditions)
    if now is None:
        return True
    return now == before and not is_complete(run_folder(conditions.store, run))


def _record_time(run: RunSpec, conditions: Conditions) -> int | None:
    """Time at which a run's record was written, in nanoseconds; None without a record."""
    try:
        return (run_folder(conditions.store, run) / FILE).stat().st_mtime_ns
    except FileNotFoundError:
        return None


def _shares(packs: Sequence[Pack], jobs: int) -> list[list[Pack]]:
    """Packs dealt like cards, the largest first; a cell's seeds go to different processes."""
    ordered = sorted(packs, key=lambda pack: (-len(pack), pack[0].cell_id, pack[0].seed))
    return [ordered[start::jobs] for start in range(min(jobs, len(ordered)))]


@contextlib.contextmanager
def _thread_limit(threads: int) -> Iterator[None]:
    """Child processes started while it is open inherit a bound on threads of BLAS and OpenMP."""
    before = {name: os.environ.get(name) for name in THREAD_VARIABLES}
    os.environ.update(dict.fromkeys(THREAD_VARIABLES, str(threads)))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value

"""Doing the runs of a sweep on this machine: in this process, or in several.

What a run left is read from the store only, never from what a process returns: a record is true
whoever wrote it.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import select
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import IO, cast

from benchmark.errors import last_lines
from benchmark.packing import Pack, make_packs
from benchmark.provenance import checked_device
from benchmark.run import (
    Conditions,
    WorkerDied,
    execute,
    is_open,
    record_death,
    record_times,
)
from benchmark.spec import RunSpec
from benchmark.stopping import SECONDS_TO_SAVE
from benchmark.work import Work

THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
"""What bounds the threads of BLAS and OpenMP in a process that begins."""
POLL_SECONDS = 0.25
SECONDS_TO_END = 5.0
"""For workers to end after an error, or Ctrl-C in Python.

A step that takes longer is left to the save before it.
"""
LOG_BYTES = 64 * 1024
USUAL_DIMENSIONS = 17, 6
"""Dimensions of observations and actions where only the order of costs matters."""


def default_jobs(device: str) -> int:
    """Processes at a time where no number is asked for: all cores, but one for a GPU's memory."""
    return os.cpu_count() or 1 if device == "cpu" else 1


def execute_here(
    runs: Sequence[RunSpec],
    conditions: Conditions,
    on_poll: Callable[[], None] | None = None,
    before: Mapping[str, int] | None = None,
) -> None:
    """Do the runs in this process, one pack after the other.

    Args:
        runs: In the order of the sweep.
        conditions: Store, device and the like.
        on_poll: Called after every pack.
        before: `record_times` when the runs were planned; by default of now. Those that have failed
            since are left alone.

    Raises:
        ObdBenchError: This machine lacks what a method of them needs.
        Stopped: The runs were asked to end, and have saved their state.
        OSError: Records could not be written; the message names each.
    """
    _check_machine(runs, conditions.device)
    before = record_times(conditions.store, runs) if before is None else before
    for pack in make_packs(runs, conditions.largest_pack):
        execute(pack, conditions, before)
        if on_poll:
            on_poll()


def execute_in_processes(
    runs: Sequence[RunSpec],
    conditions: Conditions,
    jobs: int,
    on_poll: Callable[[], None] | None = None,
) -> None:
    """Do the runs in worker processes; none outlives this process.

    Whoever has done a pack gets the next one. A process that dies costs the run that it was working
    on (a failed record says so; a retry goes on from that run's saved state); the other runs of its
    pack are given to another process. Runs that fail elsewhere meanwhile are left alone.

    Args:
        runs: In the order of the sweep.
        conditions: Store, device and the like.
        jobs: Processes at a time.
        on_poll: Called now and then while this process waits.

    Raises:
        ObdBenchError: The device is not one of this machine, or it lacks what a method needs.
        Stopped: The runs were asked to end, and have saved their state.
    """
    _check_machine(runs, conditions.device)  # once here, not as the death of every process
    before = record_times(conditions.store, runs)
    waiting = deque(_costly_first(make_packs(runs, conditions.largest_pack, jobs)))
    running: list[_Worker] = []
    try:
        while waiting or running:
            while waiting and len(running) < jobs:
                running.append(_start(conditions))
                _give(running[-1], waiting.popleft(), before)
            ready, _, _ = select.select([worker.done for worker in running], [], [], POLL_SECONDS)
            conditions.stop.check()
            for worker in list(running):
                if worker.process.poll() is not None:
                    running.remove(worker)
                    left = _runs_left(worker, conditions, before)
                    packs = make_packs(left, conditions.largest_pack, jobs)
                    waiting.extendleft(reversed(packs))
                elif worker.done in ready and os.read(worker.done, 1):  # nothing: it is ending
                    _give(worker, waiting.popleft() if waiting else None, before)
            if on_poll:
                on_poll()
    finally:
        _end(running, SECONDS_TO_SAVE if conditions.stop.asked else SECONDS_TO_END)


def _check_machine(runs: Sequence[RunSpec], device: str) -> None:
    """Check the device, and that every method has here what it needs on it."""
    checked_device(device)
    for run in {run.cell_id: run for run in runs}.values():
        run.method_instance.require_machine(device)


@dataclass
class _Worker:
    """A process with its pipes and log, and the runs that it has.

    The log has no name: it is gone with this process, however that ends.
    """

    process: subprocess.Popen[bytes]
    pipe: IO[bytes]
    done: int
    log: IO[bytes]
    runs: Pack = field(default_factory=list)


def _start(conditions: Conditions) -> _Worker:
    log = tempfile.TemporaryFile()  # noqa: SIM115 - closed when the worker has ended
    done, told = os.pipe()
    process = subprocess.Popen(
        [sys.executable, "-u", "-m", "benchmark.local_worker"],
        env={**os.environ, **dict.fromkeys(THREAD_VARIABLES, str(conditions.threads))},
        stdin=subprocess.PIPE,
        stdout=log,
        stderr=log,
        pass_fds=[told],
    )
    os.close(told)
    worker = _Worker(process, cast(IO[bytes], process.stdin), done, log)
    _tell(worker, {"conditions": conditions.as_dict(), "done": told})
    return worker


def _give(worker: _Worker, pack: Pack | None, before: Mapping[str, int]) -> None:
    """Give a process its next pack; with None it ends."""
    worker.runs = pack or []
    times = {run.run_id: before[run.run_id] for run in worker.runs if run.run_id in before}
    _tell(worker, pack and {"runs": [run.as_dict() for run in pack], "before": times})


def _tell(worker: _Worker, what: object) -> None:
    with contextlib.suppress(BrokenPipeError):  # it died already, which is noticed like any death
        worker.pipe.write(json.dumps(what).encode() + b"\n")
        worker.pipe.flush()  # and left open: its end tells the worker to end


def _end(workers: Sequence[_Worker], seconds: float) -> None:
    """Ask workers to save their state and end; kill what has not ended in time.

    They are killed at once where this process is asked a second time, by another Ctrl-C.
    """
    deadline = time.monotonic() + seconds
    try:
        for worker in workers:
            _close_pipe(worker)
        for worker in workers:
            with contextlib.suppress(subprocess.TimeoutExpired):
                worker.process.wait(max(0.0, deadline - time.monotonic()))
    finally:
        for worker in workers:
            worker.process.kill()
            worker.process.wait()
            os.close(worker.done)
            worker.log.close()


def _close_pipe(worker: _Worker) -> None:
    with contextlib.suppress(BrokenPipeError):  # of a worker that died before it read its work
        worker.pipe.close()


def _runs_left(worker: _Worker, conditions: Conditions, before: Mapping[str, int]) -> list[RunSpec]:
    """Runs of its pack that a finished process did not get to, without the one it died in."""
    _close_pipe(worker)
    os.close(worker.done)
    with worker.log as log:
        log.seek(max(0, log.seek(0, os.SEEK_END) - LOG_BYTES))
        words = log.read().decode(errors="replace") or "(no log)"
    rest = [run for run in worker.runs if is_open(conditions.store, run, before)]
    if not rest:
        return []
    record_death(rest[0], conditions.store, WorkerDied.with_log(last_lines(words)))
    return rest[1:]


def _costly_first(packs: Sequence[Pack]) -> list[Pack]:
    """Packs in an order in which processes end at about the same time: those that cost most first.

    Those whose products are not counted may take as long as they like, and go before all others.
    """
    return sorted(packs, key=_products, reverse=True)


def _products(pack: Pack) -> float:
    """Multiply-adds of a pack's distillations on data of the suite's sizes; inf if not known."""
    run = pack[0]
    try:
        work = run.method_instance.work(*USUAL_DIMENSIONS, run.student)
    except Exception:  # of a plug-in: what its runs cost is not worth an error here
        return math.inf
    return len(pack) * work.multiply_adds if isinstance(work, Work) else math.inf

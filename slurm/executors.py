"""Executors of a sweep's runs: in this process, or by submitit in others.

An executor hands runs out and returns when all have a record. What a run left behind is read from
the store alone, never from an executor's own results: a record is true whoever wrote it.
"""

from __future__ import annotations

import os
import shutil
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import submitit
import torch

from benchmark.attempt import OnProgress, is_complete
from benchmark.clocks import SAVE_EVERY_SECONDS
from benchmark.errors import ObdBenchError, did_you_mean
from benchmark.packing import DEFAULT_PACK, Pack, make_packs
from benchmark.record import FILE
from benchmark.run import WorkerDied, record_death, run_folder
from benchmark.spec import RunSpec
from benchmark.stopping import StopRequest
from slurm.fates import last_lines
from slurm.worker import THREAD_VARIABLES, work

POLL_SECONDS = 0.25


@dataclass(frozen=True)
class Executor(ABC):
    """Spreads runs.

    Args:
        store: Where runs leave their records.
        plugins: Files that register methods, loaded by every process.
        threads: Of torch in every process. Rounding depends on it, so it is the same for every
            executor unless asked otherwise.
        save_every: Seconds of work that a killed run may lose.
        pack: Most runs that are advanced together in one process.
        device: Torch device of the methods' heavy products.
    """

    store: Path
    plugins: tuple[str, ...] = ()
    threads: int = 1
    save_every: float = SAVE_EVERY_SECONDS
    pack: int = DEFAULT_PACK
    device: str = "cpu"

    @abstractmethod
    def run(
        self,
        runs: Sequence[RunSpec],
        on_progress: OnProgress | None = None,
        on_poll: Callable[[], None] | None = None,
    ) -> None:
        """Returns when every run has a record.

        Args:
            runs: What to do.
            on_progress: Called with a run's progress, where it works in this process.
            on_poll: Called now and then while this process waits for others.
        """


@dataclass(frozen=True)
class InlineExecutor(Executor):
    """One run after the other, in this process.

    Args:
        stop: Where others may ask the runs to save and end; `run` then raises `Stopped`.
    """

    stop: StopRequest = field(default_factory=StopRequest)

    def run(
        self,
        runs: Sequence[RunSpec],
        on_progress: OnProgress | None = None,
        on_poll: Callable[[], None] | None = None,
    ) -> None:
        """Works through the runs."""
        before = torch.get_num_threads()
        try:
            for pack in make_packs(runs, self.pack):
                dictionaries = [[run.as_dict() for run in pack]]
                store = str(self.store)
                work(
                    dictionaries,
                    store,
                    self.plugins,
                    self.threads,
                    on_progress,
                    self.save_every,
                    self.device,
                    self.stop,
                )
                if on_poll:
                    on_poll()
        finally:
            torch.set_num_threads(before)


@dataclass
class _Job:
    """A submitted job, the runs that it was given, and what each had for a record then."""

    job: submitit.Job[None]
    runs: list[RunSpec]
    before: dict[str, int | None]


@dataclass(frozen=True)
class LocalExecutor(Executor):
    """`jobs` processes of submitit's local executor on this machine, each with its share of runs.

    A process that dies costs the run that it was working on (a failed record says so; a retry goes
    on from that run's saved state); its other runs are handed to a new process.
    """

    jobs: int = 2

    def run(
        self,
        runs: Sequence[RunSpec],
        on_progress: OnProgress | None = None,
        on_poll: Callable[[], None] | None = None,
    ) -> None:
        """Submits the shares and waits for their records."""
        running = [self._submit(share) for share in _shares(self._packs(runs), self.jobs)]
        try:
            while running:
                time.sleep(POLL_SECONDS)
                for job in [j for j in running if j.job.done()]:
                    running.remove(job)
                    if rest := self._collect(job):
                        running.append(self._submit(self._packs(rest)))
                if on_poll:
                    on_poll()
        finally:
            for job in running:
                job.job.cancel(check=False)
            while not all(job.job.done() for job in running):  # none outlives this executor
                time.sleep(POLL_SECONDS)

    def _packs(self, runs: Sequence[RunSpec]) -> list[Pack]:
        return make_packs(runs, self.pack, self.jobs)

    def _submit(self, packs: list[Pack]) -> _Job:
        runs = [run for pack in packs for run in pack]
        executor = submitit.AutoExecutor(folder=self.store / "jobs" / "%j", cluster="local")
        executor.update_parameters(timeout_min=7 * 24 * 60, name="obdbench")
        dictionaries = [[run.as_dict() for run in pack] for pack in packs]
        before = {run.run_id: self._written(run) for run in runs}
        with _thread_limit(self.threads):
            job = executor.submit(
                work,
                dictionaries,
                str(self.store),
                list(self.plugins),
                self.threads,
                save_every=self.save_every,
                device=self.device,
            )
        return _Job(job, runs, before)

    def _collect(self, job: _Job) -> list[RunSpec]:
        """Runs that a finished job left as they were, less the one that it died in."""
        rest = [run for run in job.runs if self._untouched(run, job.before[run.run_id])]
        if not rest:
            shutil.rmtree(job.job.paths.folder, ignore_errors=True)
            return []
        record_death(rest[0], self.store, WorkerDied.with_log(_log_tail(job.job)))
        return rest[1:]

    def _untouched(self, run: RunSpec, before: int | None) -> bool:
        """Whether a run has no record, or still the failed one that a retry began with."""
        now = self._written(run)
        return now is None or (now == before and not is_complete(run_folder(self.store, run)))

    def _written(self, run: RunSpec) -> int | None:
        """When a run's record was written, in nanoseconds; None without one."""
        try:
            return (run_folder(self.store, run) / FILE).stat().st_mtime_ns
        except FileNotFoundError:
            return None


def _shares(packs: Sequence[Pack], jobs: int) -> list[list[Pack]]:
    """Packs dealt like cards, the largest first; a cell's seeds go to different processes."""
    ordered = sorted(packs, key=lambda pack: (-len(pack), pack[0].cell_id, pack[0].seed))
    return [ordered[start::jobs] for start in range(min(jobs, len(ordered)))]


def _log_tail(job: submitit.Job[Any]) -> str:
    return last_lines(job.stderr() or job.stdout() or "(no log)")


class _thread_limit:  # noqa: N801 - a context manager, used like a function
    """Child processes started inside inherit a bound on the threads of BLAS and OpenMP."""

    def __init__(self, threads: int) -> None:
        self.threads = threads

    def __enter__(self) -> None:
        self.before = {name: os.environ.get(name) for name in THREAD_VARIABLES}
        os.environ.update(dict.fromkeys(THREAD_VARIABLES, str(self.threads)))

    def __exit__(self, *_: object) -> None:
        for name, value in self.before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def make_executor(name: str, jobs: int, **settings: Any) -> Executor:
    """The executor of that name, `inline` or `local`; `settings` are those of `Executor`."""
    if name == "inline":
        return InlineExecutor(**settings)
    if name == "local":
        return LocalExecutor(jobs=jobs, **settings)
    raise ObdBenchError(
        f"No executor is called {name!r}. {did_you_mean(name, ('inline', 'local', 'slurm'))}"
    )

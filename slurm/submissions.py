"""The store's memory of what it gave to the cluster: one file per array, written before it is sent.

An array has a name that no other has. The file is written under a provisional name, the array is
sent, the file is renamed: wherever the submitting process dies, the scheduler knows by name whether
the array exists. A file stands as long as a job of its array may still work.
"""

from __future__ import annotations

import json
import re
import secrets
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from benchmark.errors import ObdBenchError, last_lines
from benchmark.files import MOST_OF_RUNS, UnfitFile, read_small, write_atomic
from benchmark.record import FILE, record_folder
from benchmark.spec import RunSpec
from slurm import JOBS
from slurm.answers import JobKey

if TYPE_CHECKING:  # it takes torch along
    from slurm.profile import Array

RUNS = "runs.json"
CLUSTER = "cluster"
PROVISIONAL = ".provisional.json"
LOG_BYTES = 20_000


@dataclass(frozen=True)
class Submission:
    """One array that was sent, or was about to be.

    Args:
        store: Folder of records.
        name: Name of the array.
        sweep: Name of the sweep that it works for.
        jobs: Run ids, a tuple for each job.
        written: When this was noted, by the clock of the file system, in nanoseconds.
        provisional: Whether it was never noted that the scheduler took it.
    """

    store: Path
    name: str
    sweep: str
    jobs: tuple[tuple[str, ...], ...]
    written: int
    provisional: bool

    @property
    def keys(self) -> list[JobKey]:
        """Keys of its jobs, in order."""
        return [JobKey(self.name, index) for index in range(len(self.jobs))]

    @property
    def runs(self) -> set[str]:
        """The run ids of all jobs."""
        return {run for job in self.jobs for run in job}

    @property
    def folder(self) -> Path:
        """Folder of the jobs' work and logs."""
        return self.store / JOBS / self.name

    def specs(self) -> dict[str, RunSpec]:
        """Its runs by id.

        Raises:
            ObdBenchError: Their file is damaged or gone.
        """
        path = self.folder / RUNS
        try:
            runs = [RunSpec.from_dict(run) for run in json.loads(read_small(path, MOST_OF_RUNS))]
        except (OSError, RecursionError, TypeError, ValueError, ObdBenchError) as error:
            raise ObdBenchError(
                f"{path} does not hold the runs of submitted jobs ({error}). Move "
                f"{self._path} away; runs that wait for their record are then sent again."
            ) from error
        return {run.run_id: run for run in runs}

    @property
    def cluster(self) -> str:
        """Name of the cluster that took it, where sbatch said one; else ""."""
        path = self.folder / CLUSTER
        return read_small(path).decode("utf-8", "replace").strip() if path.exists() else ""

    def confirm(self, cluster: str = "") -> None:
        """Notes that the scheduler took it. The time of writing stays."""
        if cluster:
            write_atomic(self.folder / CLUSTER, cluster)
        self._path.rename(self._path.with_name(f"{self.name}.json"))

    def forget(self, *, keep_logs: bool) -> None:
        """Removes the note, and the jobs' folder unless their logs are wanted."""
        for path in (self._path, self._path.with_name(f"{self.name}.json")):
            path.unlink(missing_ok=True)
        if not keep_logs:
            shutil.rmtree(self.folder, ignore_errors=True)

    def left_alone(self, run_id: str) -> bool:
        """Whether no job of this array has written that run's record."""
        try:
            path = Path(f"{self.store}/{record_folder(run_id)}/{FILE}")  # parts one by one are slow
            return path.stat().st_mtime_ns <= self.written
        except FileNotFoundError:
            return True

    def log_tail(self, index: int) -> str:
        """The end of what a job wrote to its error log; "" where it never began."""
        wanted = re.compile(rf"\d+_{index}_0_log\.err" if len(self.jobs) > 1 else r"\d+_0_log\.err")
        found = self.folder.glob("*_0_log.err")
        logs = [p for p in found if wanted.fullmatch(p.name) and p.is_file()]  # no pipe, no device
        if not logs:
            return ""
        return end_of_log(max(logs))

    @property
    def _path(self) -> Path:
        end = PROVISIONAL if self.provisional else ".json"
        return self.store / JOBS / f"{self.name}{end}"


def end_of_log(path: Path) -> str:
    """The last lines of a file of any length."""
    with path.open("rb") as stream:
        stream.seek(max(0, stream.seek(0, 2) - LOG_BYTES))
        return last_lines(stream.read(LOG_BYTES).decode(errors="replace"))


def note(store: Path, sweep: str, array: Array) -> Submission:
    """Writes down an array that is about to be sent, under a name of its own."""
    name = f"obd.{sweep}.{secrets.token_hex(4)}"
    jobs = [[run.run_id for run in job] for job in array.jobs]
    runs = [run.as_dict() for run in array.runs]
    write_atomic(store / JOBS / name / RUNS, json.dumps(runs))
    path = store / JOBS / f"{name}{PROVISIONAL}"
    write_atomic(path, json.dumps({"sweep": sweep, "jobs": jobs}))
    return _read(store, path)


def submissions(store: Path) -> Iterator[Submission]:
    """Every array that may still work, in the order of their names."""
    for path in sorted((store / JOBS).glob("obd.*.json")):
        try:
            yield _read(store, path)
        except FileNotFoundError:
            continue  # confirmed or forgotten by another process in between


def _read(store: Path, path: Path) -> Submission:
    provisional = path.name.endswith(PROVISIONAL)
    name = path.name.removesuffix(PROVISIONAL if provisional else ".json")
    try:
        values = json.loads(read_small(path))
        jobs = tuple(tuple(job) for job in values["jobs"])
        sweep = str(values["sweep"])
        for run in (run for job in jobs for run in job):
            record_folder(run)
    except (
        UnfitFile, ValueError, RecursionError, KeyError, TypeError, AttributeError
    ) as error:  # fmt: skip
        raise ObdBenchError(
            f"{path} is not a note of submitted jobs ({error}). Move it away; `squeue` lists the "
            f"jobs named {name}."
        ) from error
    return Submission(store, name, sweep, jobs, path.stat().st_mtime_ns, provisional)

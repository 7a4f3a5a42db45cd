"""Status of every run of a sweep, from its folder and from the cluster's scheduler."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmark.errors import ObdBenchError
from benchmark.record import OtherVersion
from benchmark.spec import RunSpec
from benchmark.sweep import Sweep
from results.record_store import RunState, RunStatus, run_statuses
from slurm import JOBS
from slurm.answers import JobState
from slurm.live_jobs import LiveJobs


@dataclass(frozen=True)
class SweepStatus:
    """Status of a sweep's runs at one moment.

    Args:
        at: Status by run id.
        waiting: Number of queued runs by the reason that the scheduler gives.
        unknown: Reason why the scheduler could not be asked; None where it could, or no job was
            submitted.
        remarks: What else the scheduler's answer lacked, a sentence each.
    """

    at: Mapping[str, RunStatus]
    waiting: Counter[str]
    unknown: str | None = None
    remarks: Sequence[str] = ()

    @property
    def counts(self) -> Counter[RunState]:
        """Number of runs by state."""
        return Counter(status.state for status in self.at.values())

    def of(self, run: RunSpec) -> RunStatus:
        """Status of one run."""
        return self.at[run.run_id]

    def runs_to_do(self, sweep: Sweep, *, retry: bool) -> list[RunSpec]:
        """The sweep's runs that are neither done nor under way, in its order.

        Args:
            sweep: The sweep.
            retry: Take up runs that failed before, too; but for those whose record is of another
                version of the suite, which is left as it is.
        """
        skipped = {"done", "running", "queued"} | (set() if retry else {"failed"})
        statuses = [(run, self.of(run)) for run in sweep.runs]
        return [
            run
            for run, status in statuses
            if status.state not in skipped and status.error != OtherVersion.__name__
        ]


def sweep_status(store: Path, sweep: Sweep) -> SweepStatus:
    """Read every run's status from its folder, and ask the scheduler once if jobs were sent."""
    queue: Mapping[str, JobState] = {}
    unknown: str | None = None
    remarks: Sequence[str] = ()
    if (store / JOBS).exists():
        jobs = LiveJobs(store)
        try:  # before the folders: what has left the queue by then has its record
            queue = jobs.states()
        except ObdBenchError as error:  # no answer, or a damaged note of what was submitted
            unknown = str(error)
        remarks = jobs.scheduler.remarks()
    at = run_statuses(store, sweep)
    waiting: Counter[str] = Counter()
    for run_id, job in queue.items():
        if run_id in at and at[run_id].state not in ("done", "running"):
            at[run_id] = RunStatus("queued")
            waiting[job.reason or job.state.lower()] += 1
    return SweepStatus(at, waiting, unknown, remarks)

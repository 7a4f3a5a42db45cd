"""What became of a run whose job ended without leaving a record: the causes, each an error."""

from __future__ import annotations

from benchmark.run import WorkerDied
from slurm.answers import JobState


class OutOfMemory(WorkerDied):
    """The job used more memory than it had asked for."""

    what = "The job ran out of memory. Ask for more in the profile, or for smaller packs."


class TimedOut(WorkerDied):
    """The job met its time limit and was not queued again."""

    what = "The job met its time limit."


class NodeFailed(WorkerDied):
    """The node died, and SLURM did not queue the job again."""

    what = "The node that the job was on failed."


class Preempted(WorkerDied):
    """Another job took the place, and SLURM did not queue this one again."""

    what = "The job was pre-empted and not queued again."


class LaunchFailed(WorkerDied):
    """SLURM could not start the job, and held it."""

    what = (
        "SLURM could not start the job on its node and held it for somebody to look at, so it was "
        "ended."
    )


class Cancelled(WorkerDied):
    """Somebody cancelled the job."""

    what = "The job was cancelled."


class Vanished(WorkerDied):
    """SLURM does not know the job any more."""

    what = "The job is gone: neither the queue nor the accounting knows it."


class Refused(WorkerDied):
    """SLURM did not take the job."""

    what = "SLURM refused the job."


BY_STATE: dict[str, type[WorkerDied]] = {
    "OUT_OF_MEMORY": OutOfMemory,
    "TIMEOUT": TimedOut,
    "DEADLINE": TimedOut,
    "NODE_FAIL": NodeFailed,
    "BOOT_FAIL": NodeFailed,
    "PREEMPTED": Preempted,
    "CANCELLED": Cancelled,
    "REVOKED": Cancelled,
}

BY_LOG: dict[str, type[WorkerDied]] = {
    "DUE TO TIME LIMIT": TimedOut,
    "DUE TO NODE FAILURE": NodeFailed,
    "DUE TO PREEMPTION": Preempted,
    "oom-kill": OutOfMemory,
    "oom_kill": OutOfMemory,
    "exceeded memory limit": OutOfMemory,
    "CANCELLED AT": Cancelled,
}
"""What slurmstepd writes into a job's log, for sites without accounting."""


def fate(state: JobState | None, log: str) -> WorkerDied:
    """Error for the record of a run whose job is known to have ended.

    Args:
        state: State of the job by SLURM; None where SLURM does not know it.
        log: End of the job's log.
    """
    kind = BY_STATE.get(state.state) if state else None
    if state and state.held:
        kind = LaunchFailed
    kind = kind or next((kind for words, kind in BY_LOG.items() if words in log), None)
    if kind is None:
        kind = Vanished if state is None else WorkerDied
    more = ""
    if state is not None:
        at = f" on {state.node}" if state.node else ""
        code = f", exit code {state.exit_code}" if state.exit_code else ""
        more = f"SLURM says {state.state}{at}{code}."
    return kind.with_log(log or "(no log: it never began)", more)

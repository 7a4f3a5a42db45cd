"""Runs on a cluster: submitted and left alone, looked at later, and each ended as a record.

Nothing here waits for submitit's results, which never come from a job that dies in certain ways.
What a run did is read from its record; whether it may still work, from one query of the scheduler.
"""

from __future__ import annotations

import os
import secrets
import shlex
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from filelock import FileLock
from submitit import SlurmExecutor
from submitit.core.utils import FailedJobError

from benchmark.errors import ObdBenchError
from benchmark.local import THREAD_VARIABLES, last_lines
from benchmark.run import Conditions, record_death
from benchmark.spec import RunSpec
from slurm.fates import Refused, fate
from slurm.job import Job
from slurm.profile import Array, JobShape, Profile, make_arrays
from slurm.scheduler import JobKey, JobState, Scheduler
from slurm.submissions import FOLDER, Submission, note, submissions

NEVER = 10**6
"""Submitit's own count of time-outs is not used: it takes any warning in a short job for one."""

HANDED_ON = ("MINARI_DATASETS_PATH", "OBDBENCH_CACHE")
"""Variables that jobs need, whatever the site does with the submitting shell's environment."""

TEMPORARY = (
    "Unable to contact", "temporarily", "timed out", "Job violates accounting/QOS policy",
    "AssocMaxSubmitJobLimit", "QOSMaxSubmitJobPerUserLimit", "Zero Bytes were transmitted",
)  # fmt: skip
"""In what sbatch says when the same request may be taken later."""


class QueueFull(ObdBenchError):
    """SLURM takes no more jobs now."""


@dataclass(frozen=True)
class Settled:
    """What `Cluster.settle` found.

    Args:
        died: Runs that were given a failed record, with the error's type.
        unwritten: Runs whose failed record could not be written, with the reason.
        live: Runs whose job may still work.
    """

    died: dict[str, str] = field(default_factory=dict)
    unwritten: dict[str, str] = field(default_factory=dict)
    live: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Sent:
    """What became of runs that were submitted.

    Args:
        arrays: Arrays that SLURM took.
        refused: Runs that SLURM can never serve; each has its failed record.
    """

    arrays: list[Array] = field(default_factory=list)
    refused: list[RunSpec] = field(default_factory=list)


class Cluster:
    """The runs of a store that are, or were, on a cluster.

    Args:
        store: Folder of records; every node must see it under this path.
        scheduler: Where jobs are asked for.
    """

    def __init__(self, store: Path, scheduler: Scheduler | None = None) -> None:
        self.store = store.resolve()
        self.scheduler = scheduler or Scheduler()

    def submit(
        self, sweep: str, runs: Sequence[RunSpec], profile: Profile, conditions: Conditions
    ) -> Sent:
        """Send the runs and return at once; runs that the cluster can never serve fail.

        Args:
            sweep: Name of the sweep that the runs are of.
            runs: In the order in which they are to begin.
            profile: What jobs ask for; its device goes before that of the conditions.
            conditions: Under which the runs are done; the store is the cluster's.

        Raises:
            Unreachable: SLURM does not answer. Nothing more was sent.
            QueueFull: It takes no further jobs now. What it took is noted; the same call sends the
                rest.
        """
        sent = Sent()
        with self._one_at_a_time():
            live = self.live()  # looked up again: another shell may have been faster
            runs = [run for run in runs if run.run_id not in live]
            for array in make_arrays(runs, profile, self.scheduler.max_array_size()):
                noted = note(self.store, sweep, array)
                try:
                    self._send(noted, array, conditions, profile.requeues)
                except FailedJobError as error:
                    noted.forget(keep_logs=False)
                    self._not_taken(array, str(error), sent)
                else:
                    noted.confirm()
                    sent.arrays.append(array)
        return sent

    def send(
        self, name: str, work: Callable[[], None], shape: JobShape, threads: int, *, again: bool
    ) -> str:
        """Send one piece of work that is not a run, unless a job for it may still work.

        Args:
            name: What the work is called; the same work must have the same name.
            work: What the job does, by reference: nodes import it. It must be able to go on where
                an earlier attempt was ended.
            shape: What the job asks for.
            threads: Threads of its process.
            again: Send it also where an earlier job for it has ended.

        Returns:
            "submitted", or the state of the job that is there.

        Raises:
            Unreachable, QueueFull: SLURM does not answer, or takes no further jobs now.
            ObdBenchError: An earlier job for it has ended, or SLURM can never serve this one.
        """
        with self._one_at_a_time():
            sent = sorted((self.store / FOLDER).glob(f"{name}.*"))
            known = self.scheduler.queue([folder.name for folder in sent])
            if live := [state.state.lower() for state in known.values() if not state.ended]:
                return live[0]
            if sent and not again:
                logs = [log.read_text(errors="replace") for log in sent[-1].glob("*_log.err")]
                end = last_lines("".join(logs)) or "(no log)"
                raise ObdBenchError(
                    f"The job {sent[-1].name} ended without a result; `--retry failed` sends it "
                    f"again. The end of its log:\n{end}"
                )
            number = f"{name}.{len(sent):04d}-{secrets.token_hex(4)}"
            executor = SlurmExecutor(self.store / FOLDER / number, max_num_timeout=NEVER)
            executor.update_parameters(**sbatch_options(number, shape, 1, threads))
            try:
                executor.submit(work)
            except FailedJobError as error:
                shutil.rmtree(self.store / FOLDER / number, ignore_errors=True)
                message = str(error).strip()
                if any(words in message for words in TEMPORARY):
                    raise QueueFull(f"SLURM takes no more jobs now ({message}).") from error
                raise ObdBenchError(
                    f"SLURM refused the job {number} ({message}). Asked for: {shape}."
                ) from error
            return "submitted"

    def states(self) -> dict[str, JobState]:
        """The live jobs of the runs that still wait for their record, by run id; one query.

        Raises:
            Unreachable: SLURM does not answer.
        """
        known = list(submissions(self.store))
        queue = self.scheduler.queue([s.name for s in known])
        return {
            run: queue[key]
            for submission in known
            for key, runs in zip(submission.keys, submission.jobs, strict=True)
            if key in queue and not queue[key].ended
            for run in runs
            if submission.left_alone(run)
        }

    def live(self) -> frozenset[str]:
        """Ids of the runs whose job may still work.

        Raises:
            Unreachable: SLURM does not answer.
        """
        return frozenset(self.states())

    def settle(self) -> Settled:
        """Give every run whose job has ended without leaving a record one with the cause.

        Raises:
            Unreachable: SLURM does not answer. Nothing was changed.
        """
        with self._one_at_a_time():
            # The queue is asked before records are looked at: a job that has ended by the answer
            # has written all that it ever will.
            known = list(submissions(self.store))
            queue = self.scheduler.queue([s.name for s in known])
            gone = [s.name for s in known if any(_ended(queue.get(key)) for key in s.keys)]
            history = self.scheduler.history(gone)
            live: set[str] = set()
            for submission in known:
                for key, runs in zip(submission.keys, submission.jobs, strict=True):
                    if key in queue and not queue[key].ended:
                        live.update(runs)
            self.scheduler.end([job.number for job in queue.values() if job.held])
            settled = Settled(live=frozenset(live))
            for submission in known:
                self._settle(submission, queue, history, settled)
        return settled

    def cancel(self, sweep: str) -> int:
        """Ends the jobs of a sweep.

        Returns:
            How many runs had a live job.

        Raises:
            Unreachable: SLURM does not answer.
        """
        known = [s for s in submissions(self.store) if s.sweep == sweep]
        count = len(self.live() & {run for s in known for run in s.runs})
        self.scheduler.cancel([s.name for s in known])
        return count

    def _one_at_a_time(self) -> FileLock:
        """Held while jobs are sent or settled: two shells never send the same runs."""
        (self.store / FOLDER).mkdir(parents=True, exist_ok=True)
        return FileLock(self.store / FOLDER / ".lock")

    def _send(self, noted: Submission, array: Array, conditions: Conditions, requeues: int) -> None:
        executor = SlurmExecutor(noted.folder, max_num_timeout=NEVER)
        executor.update_parameters(
            **sbatch_options(noted.name, array.shape, array.parallelism, conditions.threads)
        )
        plain = replace(conditions, store=self.store, device=array.shape.device).as_dict()
        executor.submit_array(
            [
                Job([run.as_dict() for run in job], plain, array.shape.grace, requeues)
                for job in array.jobs
            ]
        )

    def _not_taken(self, array: Array, message: str, sent: Sent) -> None:
        """Fails the runs of an array that SLURM can never take."""
        message = message.strip()
        if any(words in message for words in TEMPORARY):
            jobs = sum(len(one.jobs) for one in sent.arrays)
            raise QueueFull(
                f"SLURM takes no more jobs now ({message}). {jobs} jobs were sent; the same "
                f"command sends the rest later."
            )
        sent.refused.extend(array.runs)
        for run in array.runs:
            record_death(run, self.store, Refused.with_log(message, f"Asked for: {array.shape}."))

    def _settle(
        self,
        submission: Submission,
        queue: Mapping[JobKey, JobState],
        history: Mapping[JobKey, JobState],
        settled: Settled,
    ) -> None:
        """Settles one array, and forgets it once none of its jobs may work and all have records."""
        states = [_last_known(queue.get(key), history.get(key)) for key in submission.keys]
        if submission.provisional:
            if not any(states):  # the process that was to send it died before it did
                submission.forget(keep_logs=False)
                return
            submission.confirm()
        over = [_ended(queue.get(key)) for key in submission.keys]
        specs = submission.specs() if any(over) else {}
        clean = True
        for place, runs in enumerate(submission.jobs):
            if not over[place]:
                continue
            for run in runs:
                if run in settled.live or not submission.left_alone(run):
                    continue
                error = fate(states[place], submission.log_tail(place))
                try:
                    if record_death(specs[run], self.store, error):
                        settled.died[run] = type(error).__name__
                        clean = False
                except OSError as problem:
                    settled.unwritten[run] = str(problem)
        if all(over) and not submission.runs & settled.unwritten.keys():
            submission.forget(keep_logs=not clean)


def _last_known(queued: JobState | None, accounted: JobState | None) -> JobState | None:
    """The accounting knows exit codes, but it may still say RUNNING after the job has ended."""
    return accounted if accounted and accounted.ended else queued or accounted


def _ended(state: JobState | None) -> bool:
    """Whether a job has ended: SLURM says so, or does not know it."""
    return state is None or state.ended


def sbatch_options(name: str, shape: JobShape, parallelism: int, threads: int) -> dict[str, object]:
    """Submitit's parameters for jobs of a shape."""
    exported = {
        **{key: os.environ[key] for key in HANDED_ON if key in os.environ},
        **dict.fromkeys(THREAD_VARIABLES, threads),
        **shape.environment,
    }
    return {
        "job_name": name,
        "partition": shape.partition,
        "account": shape.account,
        "qos": shape.qos,
        "constraint": shape.constraint,
        "gpus_per_node": shape.gpus or None,
        "cpus_per_task": shape.cpus,
        "mem": shape.memory,
        "time": shape.minutes,
        "signal_delay_s": shape.grace,
        "array_parallelism": parallelism,
        "wckey": None,
        "setup": [
            *shape.setup,
            *(f"export {key}={shlex.quote(str(value))}" for key, value in exported.items()),
        ],
        "additional_parameters": {"requeue": True, **shape.sbatch},
    }

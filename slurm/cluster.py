"""Runs on a cluster: submitted and left alone, looked at later, and each ended as a record.

What a run did is read from its record; whether it may still work, from one query of the scheduler.
"""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from benchmark.errors import ObdBenchError, last_lines
from benchmark.locks import FileLock
from benchmark.run import Conditions, record_death, record_times
from benchmark.spec import RunSpec
from slurm import JOBS
from slurm.answers import JobKey, JobState
from slurm.fates import Refused, fate
from slurm.job import Command, Job
from slurm.live_jobs import UNKNOWN, LiveJobs, by_cluster
from slurm.profile import Array, Expected, JobShape, Profile, make_arrays
from slurm.scheduler import CommandFailed, NoSlurm, Unreachable, UnreadableAnswer
from slurm.script import batch_script
from slurm.submissions import Submission, end_of_log, note, submissions

SCRIPT = "array.sh"
TEMPORARY = (
    "unable to contact", "temporarily", "timed out", "job violates accounting/qos policy",
    "assocmaxsubmitjoblimit", "qosmaxsubmitjobperuserlimit", "zero bytes were transmitted",
    "connection refused", "connection failure", "authentication error", "unexpected message",
)  # fmt: skip
"""In what sbatch says, in lower case, when the same request may be taken later."""


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


class Cluster(LiveJobs):
    """The runs of a store that are, or were, on a cluster."""

    def submit(
        self,
        sweep: str,
        runs: Sequence[RunSpec],
        profile: Profile,
        conditions: Conditions,
        expected: Expected = lambda _: None,
    ) -> Sent:
        """Send the runs and return at once; runs that the cluster can never serve fail.

        Args:
            sweep: Name of the sweep that the runs are of.
            runs: In the order in which they are to begin.
            profile: What jobs ask for; its device goes before that of the conditions.
            conditions: Under which the runs are done; the store is the cluster's.
            expected: Estimate by which short runs share a job.

        Raises:
            Unreachable: SLURM does not answer. Nothing was sent.
            QueueFull: It takes no further jobs now. What it took is noted; the same call sends the
                rest.
        """
        sent = Sent()
        with self._one_at_a_time():
            live = self.live()  # looked up again: another shell may have been faster
            runs = [run for run in runs if run.run_id not in live]
            size = self.scheduler.max_array_size()
            for array in make_arrays(runs, profile, size, expected):
                noted = note(self.store, sweep, array)
                if refusal := self._send(noted, array, conditions, profile.requeues, sent):
                    self._refuse(array, refusal, sent)
        return sent

    def send(self, name: str, command: Command, shape: JobShape, *, again: bool) -> str:
        """Send a command that is not a run, unless a job for it may still work.

        Args:
            name: Name of the work; the same work must have the same name.
            command: What the job does.
            shape: What the job asks for.
            again: Send it also where an earlier job for it has ended.

        Returns:
            "submitted", or the state of the job that is there.

        Raises:
            Unreachable, QueueFull: SLURM does not answer, or takes no further jobs now.
            ObdBenchError: An earlier job for it has ended, or SLURM can never serve this one.
        """
        with self._one_at_a_time():
            sent = sorted((self.store / JOBS).glob(f"{name}.*"))
            known = self.scheduler.queue([folder.name for folder in sent])
            if live := [job.state.lower() for job in known.jobs.values() if not job.ended]:
                return live[0]
            if known.doubtful:
                return UNKNOWN.state.lower()
            if sent and not again:
                logs = (log for log in sent[-1].glob("*_log.err") if log.is_file())
                text = "\n".join(map(end_of_log, logs))
                raise ObdBenchError(
                    f"The job {sent[-1].name} ended without a result; `--retry failed` sends it "
                    f"again. The end of its log:\n{last_lines(text) or '(no log)'}"
                )
            folder = self.store / JOBS / f"{name}.{len(sent):04d}-{secrets.token_hex(4)}"
            folder.mkdir()
            command.write(folder, 0)
            script, alone = folder / SCRIPT, Array(shape, ([],), 1)
            script.write_text(batch_script(folder.name, folder, alone, shape.cpus), "utf-8")
            try:
                self.scheduler.submit(script)
            except (Unreachable, UnreadableAnswer) as error:
                if any(not job.ended for job in self.scheduler.queue([folder.name]).jobs.values()):
                    return "submitted"
                shutil.rmtree(folder)
                if isinstance(error, CommandFailed) and not _temporary(error.said):
                    raise ObdBenchError(
                        f"SLURM refused the job {folder.name} ({error.said}). Asked for: {shape}."
                    ) from error
                raise QueueFull(f"SLURM takes no more jobs now ({error}).") from error
            return "submitted"

    def settle(self) -> Settled:
        """Give every run whose job has ended without leaving a record one with the cause.

        Raises:
            Unreachable: SLURM does not answer. Nothing was changed.
        """
        if not any(submissions(self.store)):  # also in a store that can only be read
            return Settled()
        with self._one_at_a_time():
            # The queue is asked before records are looked at: a job that has ended by the answer
            # has written all that it ever will.
            known = list(submissions(self.store))
            queue = self.queue(known)
            gone = [s for s in known if any(_ended(queue.get(key)) for key in s.keys)]
            history: dict[JobKey, JobState] = {}
            for cluster, names in by_cluster(gone):
                history |= self.scheduler.history(names, cluster).jobs
            live: set[str] = set()
            for submission in known:
                for key, runs in zip(submission.keys, submission.jobs, strict=True):
                    if key in queue and not queue[key].ended:
                        live.update(runs)
                held = [
                    queue[key].number for key in submission.keys if key in queue and queue[key].held
                ]
                self.scheduler.end(held, submission.cluster)
            settled = Settled(live=frozenset(live))
            for submission in known:
                self._settle(submission, queue, history, settled)
        return settled

    def cancel(self, sweep: str) -> int:
        """End the jobs of a sweep.

        Returns:
            How many runs had a live job.

        Raises:
            Unreachable: SLURM does not answer.
        """
        known = [s for s in submissions(self.store) if s.sweep == sweep]
        count = len(self.live() & {run for s in known for run in s.runs})
        for cluster, names in by_cluster(known):
            self.scheduler.cancel(names, cluster)
        return count

    def _one_at_a_time(self) -> FileLock:
        """Held while jobs are sent or settled: two shells never send the same runs."""
        (self.store / JOBS).mkdir(parents=True, exist_ok=True)
        return FileLock(self.store / JOBS / ".lock")

    def _send(
        self, noted: Submission, array: Array, conditions: Conditions, requeues: int, sent: Sent
    ) -> str:
        """Send one array; what sbatch said where SLURM can never take it, else "".

        Raises:
            NoSlurm: There is no sbatch.
            QueueFull: SLURM does not take it now, or nobody can tell whether it did.
        """
        shape = array.shape
        plain = replace(conditions, store=self.store, device=shape.device, pack=shape.pack)
        for place, job in enumerate(array.jobs):
            runs = [run.as_dict() for run in job]
            before = record_times(self.store, job)
            Job(runs, plain.as_dict(), shape.grace, requeues, before).write(noted.folder, place)
        script = noted.folder / SCRIPT
        script.write_text(
            batch_script(noted.name, noted.folder, array, conditions.threads), "utf-8"
        )
        try:
            noted.confirm(self.scheduler.submit(script))
        except NoSlurm:
            noted.forget(keep_logs=False)
            raise
        except (Unreachable, UnreadableAnswer) as error:
            if not self._in_queue(noted, sent, error):
                noted.forget(keep_logs=False)
                if isinstance(error, CommandFailed) and not _temporary(error.said):
                    return error.said
                raise self._full(str(error), sent) from error
            noted.confirm()
        sent.arrays.append(array)
        return ""

    def _in_queue(self, noted: Submission, sent: Sent, error: ObdBenchError) -> bool:
        """Whether SLURM has an array all the same: sbatch may fail after it was taken.

        SLURM lists jobs that it refused as FAILED for some minutes.
        """
        try:
            return any(not state.ended for state in self.queue([noted]).values())
        except Unreachable as silent:  # the note stays: `settle` asks again
            raise self._full(f"{error} {silent}", sent) from silent

    def _full(self, message: str, sent: Sent) -> QueueFull:
        jobs = sum(len(one.jobs) for one in sent.arrays)
        return QueueFull(
            f"SLURM takes no more jobs now ({message}). {jobs} jobs were sent; the same command "
            f"sends the rest later."
        )

    def _refuse(self, array: Array, message: str, sent: Sent) -> None:
        """Fail the runs of an array that SLURM can never take."""
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


def _temporary(said: str) -> bool:
    """Whether the same request may be taken later."""
    return any(words in said.lower() for words in TEMPORARY)

"""The jobs of a store that may still work: one query of the scheduler, without what runs need."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

from slurm.answers import JobKey, JobState
from slurm.scheduler import Scheduler
from slurm.submissions import Submission, submissions

UNKNOWN = JobState("UNKNOWN")
"""A job that an unreadable line may have told of: it is left alone."""


class LiveJobs:
    """The jobs of a store's runs.

    Args:
        store: Folder of records; every node must see it under this path.
        scheduler: Where jobs are asked for.
    """

    def __init__(self, store: Path, scheduler: Scheduler | None = None) -> None:
        self.store = store.resolve()
        self.scheduler = scheduler or Scheduler()

    def states(self) -> dict[str, JobState]:
        """The live jobs of the runs that still wait for their record, by run id; one query.

        Raises:
            Unreachable: SLURM does not answer.
        """
        known = list(submissions(self.store))
        queue = self.queue(known)
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

    def queue(self, known: Sequence[Submission]) -> dict[JobKey, JobState]:
        """The jobs of submissions that the controllers hold.

        A missing job of an array that an unreadable line names is unknown, not gone.
        """
        queue: dict[JobKey, JobState] = {}
        doubtful: set[str] = set()
        for cluster, names in by_cluster(known):
            answer = self.scheduler.queue(names, cluster)
            queue |= answer.jobs
            doubtful |= answer.doubtful
        missing = (key for s in known if s.name in doubtful for key in s.keys if key not in queue)
        return queue | dict.fromkeys(missing, UNKNOWN)


def by_cluster(known: Iterable[Submission]) -> Iterable[tuple[str, list[str]]]:
    """Names of arrays by the cluster that took them."""
    names: defaultdict[str, list[str]] = defaultdict(list)
    for submission in known:
        names[submission.cluster].append(submission.name)
    return names.items()

"""What a job of the cluster does: a pack of runs; when warned, it saves and is queued again."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from submitit.core.utils import DelayedSubmission

from benchmark.run import Conditions, execute, record_death
from benchmark.spec import RunSpec
from benchmark.stopping import END, WARNING, Stopped, StopRequest, stopped_by_signals
from slurm.fates import TimedOut

SAVE_SHARE = 0.6
"""Share of the grace that a save may take; what is left is for queueing again."""
ASK_AGAIN_SECONDS = 5.0


@dataclass
class Job:
    """A job, as submitit pickles it: plain values only, so that it can be read from its file.

    Args:
        runs: The runs of one pack, as `RunSpec.as_dict`.
        conditions: Store, device and the like, as `Conditions.as_dict`.
        grace: Seconds between the warning and the end.
        requeues: Number of times that the job may be queued again.
    """

    runs: list[dict[str, Any]]
    conditions: dict[str, Any]
    grace: int
    requeues: int

    def __call__(self) -> None:
        """Work on the runs until they have records, or until a signal."""
        queue_again = signal.getsignal(WARNING)  # submitit's
        stop = StopRequest()
        conditions = Conditions.from_dict(self.conditions, stop=stop)
        try:
            with stopped_by_signals(stop, SAVE_SHARE * self.grace) as received:
                execute([RunSpec.from_dict(run) for run in self.runs], conditions)
        except Stopped:
            if WARNING not in received:
                sys.exit(128 + END)  # cancelled, or SLURM itself queues the job again
            self._queue_again(queue_again, conditions.store)

    def checkpoint(self) -> DelayedSubmission:
        """The same job again, for submitit; the runs find their own saved states."""
        return DelayedSubmission(self)

    def _queue_again(self, queue_again: Any, store: Path) -> None:
        """Give the runs to the same job's next start, or give up after too many."""
        if int(os.environ.get("SLURM_RESTART_COUNT", "0")) >= self.requeues:
            error = TimedOut(
                f"The job was queued again {self.requeues} times and met its time limit each time. "
                f"Its state is saved: raise `time` or `requeues` in the profile, and retry."
            )
            for run in self.runs:
                record_death(RunSpec.from_dict(run), store, error)
            return
        _insist(lambda: queue_again(WARNING, None), (1 - SAVE_SHARE) * self.grace)


def _insist(request: Callable[[], None], seconds: float) -> None:
    """Repeat a request while a controller that is being restarted does not answer."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            return request()
        except (subprocess.CalledProcessError, subprocess.TimeoutExpired):
            if time.monotonic() + ASK_AGAIN_SECONDS > deadline:
                raise
            time.sleep(ASK_AGAIN_SECONDS)

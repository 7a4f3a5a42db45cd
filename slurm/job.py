"""What a job of the cluster does: a pack of runs; told to go, it saves and is queued again."""

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

from benchmark.clocks import SAVE_EVERY_SECONDS
from benchmark.run import record_death
from benchmark.spec import RunSpec
from benchmark.stopping import Stopped, StopRequest
from slurm.fates import TimedOut
from slurm.signals import END, WARNING, stopped_by_signals
from slurm.worker import work

SAVE_SHARE = 0.6
"""Of the grace for a save; what is left is for queueing again."""
ASK_AGAIN_SECONDS = 5.0


@dataclass
class Job:
    """A job, as it is pickled for submitit: plain values alone.

    Args:
        runs: Of one pack, as `RunSpec.as_dict`.
        store: Folder of records.
        plugins: Files that register methods.
        threads: Of torch.
        device: Torch device of the heavy products.
        grace: Seconds between the warning and the end.
        requeues: How often the job may be queued again.
        save_every: Seconds of work that a job may lose that dies without a warning.
    """

    runs: list[dict[str, Any]]
    store: str
    plugins: tuple[str, ...]
    threads: int
    device: str
    grace: int
    requeues: int
    save_every: float = SAVE_EVERY_SECONDS

    def __call__(self) -> None:
        """Works on the runs until they have records, or until a signal."""
        queue_again = signal.getsignal(WARNING)  # submitit's
        stop = StopRequest()
        try:
            with stopped_by_signals(stop, SAVE_SHARE * self.grace) as came:
                work(
                    [self.runs],
                    self.store,
                    self.plugins,
                    self.threads,
                    save_every=self.save_every,
                    device=self.device,
                    stop=stop,
                )
        except Stopped:
            if WARNING not in came:
                sys.exit(128 + END)  # cancelled, or SLURM itself queues the job again
            self._queue_again(queue_again)

    def checkpoint(self) -> DelayedSubmission:
        """For submitit: the same job again; the runs find their own saved states."""
        return DelayedSubmission(self)

    def _queue_again(self, queue_again: Any) -> None:
        """Hands the runs to the same job's next start, or gives them up after too many."""
        if int(os.environ.get("SLURM_RESTART_COUNT", "0")) >= self.requeues:
            error = TimedOut(
                f"The job was queued again {self.requeues} times and met its time limit each time. "
                f"Its state is saved: raise `time` or `requeues` in the profile, and retry."
            )
            for run in self.runs:
                record_death(RunSpec.from_dict(run), Path(self.store), error)
            return
        _insist(lambda: queue_again(WARNING, None), (1 - SAVE_SHARE) * self.grace)


def _insist(request: Callable[[], None], seconds: float) -> None:
    """Repeats a request that a controller which is being restarted does not answer."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            return request()
        except (subprocess.CalledProcessError, subprocess.TimeoutExpired):
            if time.monotonic() + ASK_AGAIN_SECONDS > deadline:
                raise
            time.sleep(ASK_AGAIN_SECONDS)

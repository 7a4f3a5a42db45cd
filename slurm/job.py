"""A job of the cluster: its runs, pack by pack; when warned, it saves and is queued again."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from benchmark.local import execute_here
from benchmark.run import Conditions, is_open, record_death
from benchmark.spec import RunSpec
from benchmark.stopping import (
    END,
    WARNING,
    Stopped,
    StopRequest,
    let_warnings_through,
    queues_itself_again,
    stopped_by_signals,
)
from slurm.fates import TimedOut

SAVE_SHARE = 0.6
"""Share of the grace that a save may take; what is left is for queueing again."""
ASK_AGAIN_SECONDS = 5.0
QUEUED_AGAIN = 75
"""Exit status of a job that is queued again; SLURM does not look at it."""


@dataclass
class Job:
    """A job as plain values, which it finds in a file of JSON.

    Args:
        runs: Its runs, as `RunSpec.as_dict`.
        conditions: Store, device and the like, as `Conditions.as_dict`.
        grace: Seconds between the warning and the end.
        requeues: Number of times that the job may be queued again.
        before: `record_times` when the job was sent. Its runs that have failed since are left alone
            at every further start.
    """

    runs: list[dict[str, Any]]
    conditions: dict[str, Any]
    grace: int
    requeues: int
    before: dict[str, int] = field(default_factory=dict)

    def write(self, folder: Path, place: int) -> None:
        """Leave the job where it will look for it, before anybody knows of the folder."""
        _work(folder, place).write_text(json.dumps(asdict(self)), "utf-8")

    def __call__(self) -> None:
        """Work on the runs until they have records, or until a signal."""
        stop = StopRequest()
        conditions = Conditions.from_dict(self.conditions, stop=stop)
        runs = [RunSpec.from_dict(run) for run in self.runs]
        try:
            with (
                stopped_by_signals(stop, SAVE_SHARE * self.grace) as received,
                conditions.applied(),  # packs are made of what the plug-ins register
            ):
                execute_here(runs, conditions, before=self.before)
        except Stopped:
            if not queues_itself_again(received):
                sys.exit(128 + END)  # cancelled, or SLURM itself queues the job again
            self._queue_again([r for r in runs if is_open(conditions.store, r, self.before)])

    def _queue_again(self, unfinished: list[RunSpec]) -> None:
        """Give the runs to the same job's next start, or give up after too many."""
        if _too_often(self.requeues):
            error = TimedOut(
                f"The job was queued again {self.requeues} times and met its time limit each time. "
                f"Its state is saved: raise `time` or `requeues` in the profile, and retry."
            )
            for run in unfinished:
                record_death(run, Path(self.conditions["store"]), error)
            return
        command = ["scontrol", "requeue", _number()]
        _insist(
            lambda: subprocess.run(command, check=True, timeout=60),
            (1 - SAVE_SHARE) * self.grace,
        )
        sys.exit(QUEUED_AGAIN)


@dataclass
class Command:
    """A job that is not of runs: a command that goes on where an earlier attempt was ended.

    Args:
        words: The command; it keeps its state by itself.
        requeues: Number of times that the job may be queued again.
    """

    words: list[str]
    requeues: int

    def write(self, folder: Path, place: int) -> None:
        """Leave the job where it will look for it."""
        _work(folder, place).write_text(json.dumps(asdict(self)), "utf-8")

    def __call__(self) -> None:
        """Run the command; end it when SLURM warns, and have the job queued again."""
        warned: list[bool] = []
        started: list[subprocess.Popen[bytes]] = []

        def end(*_: object) -> None:
            warned.append(True)
            for process in started:
                process.terminate()

        signal.signal(WARNING, end)  # first: a warning while the process starts would end the job
        let_warnings_through()
        with subprocess.Popen(self.words) as process:
            started.append(process)
            if warned:
                process.terminate()
            status = process.wait()
        if not warned or status == 0:
            sys.exit(status if status >= 0 else 128 - status)
        if _too_often(self.requeues):
            sys.exit(
                f"The job was queued again {self.requeues} times; raise `time` or `requeues` in "
                f"the profile."
            )
        command = ["scontrol", "requeue", _number()]
        _insist(lambda: subprocess.run(command, check=True, timeout=60), ASK_AGAIN_SECONDS)
        sys.exit(QUEUED_AGAIN)


def _too_often(requeues: int) -> bool:
    """Whether this job was queued again as often as it may."""
    return int(os.environ.get("SLURM_RESTART_COUNT", "0")) >= requeues


def _work(folder: Path, place: int) -> Path:
    return folder / f"{place}.json"


def _number() -> str:
    """This job's number; the last element of an array shares its plain one with the whole."""
    if array := os.environ.get("SLURM_ARRAY_JOB_ID"):
        return f"{array}_{os.environ['SLURM_ARRAY_TASK_ID']}"
    return os.environ["SLURM_JOB_ID"]


def _insist(request: Callable[[], object], seconds: float) -> None:
    """Repeat a request while a controller that is being restarted does not answer."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            request()
            return
        except (subprocess.CalledProcessError, subprocess.TimeoutExpired):
            if time.monotonic() + ASK_AGAIN_SECONDS > deadline:
                raise
            time.sleep(ASK_AGAIN_SECONDS)


def main(folder: Path) -> None:
    """Do the work that lies in a folder for this place of its array."""
    place = int(os.environ.get("SLURM_ARRAY_TASK_ID", "0"))
    values = json.loads(_work(folder, place).read_text("utf-8"))
    work = Command(**values) if "words" in values else Job(**values)
    work()

"""The heartbeat file of a run: how other processes see that it is running, and how far it is."""

from __future__ import annotations

import contextlib
import logging
import os
import platform
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Annotated

import msgspec
import psutil
from msgspec import Meta

from benchmark.files import UnfitFile, read_small
from benchmark.stopping import StopRequest

ALIVE = "alive.json"
HEARTBEAT_SECONDS = 2.0
ON_A_CLUSTER = 30.0
"""Longest time between two in a job of SLURM, and a quarter of the run's age before that."""
LOOK_SECONDS = 0.1
"""Seconds after which a request to stop is seen."""

Count = Annotated[int, Meta(ge=0, le=2**53)]


class Sign(msgspec.Struct, frozen=True, kw_only=True):
    """A sign of life, as the heartbeat file holds it.

    Args:
        host: Name of the machine.
        pid: Process that works on the run; None after an interrupt, and while it saves its state
            because it was asked to end.
        process_started: When that process began, in seconds since 1970; process ids come again.
        attempt: Number of the attempt, from 1.
        step: Outer step.
        total: Outer steps of the method; 0 before it says how many.
    """

    host: str
    pid: Annotated[int, Meta(ge=1, le=2**31 - 1)] | None
    process_started: float
    attempt: Count
    step: Count
    total: Count

    @property
    def fraction(self) -> float:
        """Share of the outer steps that are done."""
        return min(self.step / self.total, 1.0) if self.total else 0.0


class Heartbeat:
    """What a run says of itself while it is worked on.

    Args:
        folder: Folder of the run.
        attempt: Number of this attempt, from 1.
    """

    def __init__(self, folder: Path, attempt: int) -> None:
        self.folder, self.attempt = folder, attempt
        self.step = self.total = 0

    def beat(self, *, alive: bool) -> None:
        """Write the file; a reader sees it whole or not at all."""
        sign = Sign(
            host=platform.node(),
            pid=os.getpid() if alive else None,
            process_started=psutil.Process().create_time(),
            attempt=self.attempt,
            step=self.step,
            total=self.total,
        )
        path = self.folder / ALIVE
        temporary = path.with_name(f".{ALIVE}.{os.getpid()}.tmp")
        with contextlib.suppress(OSError):  # a full disk must not end a run that can go on
            # Not flushed to the disk: after a crash of the machine nothing is alive.
            temporary.write_bytes(msgspec.json.encode(sign))
            temporary.replace(path)


class Beating:
    """A context in which one thread keeps the files of several runs fresh, whatever they do.

    Leaving it without an error removes the files: the runs have records now. Leaving it with one
    (an interrupt) keeps the last step in them, without a process.

    So does a request to stop, at once: who asks for the runs meanwhile finds that they are to be
    done, and waits for their locks, where they would else be left to a process that is about to
    end.

    Args:
        runs: The runs of a pack.
        stop: The request.
    """

    def __init__(self, runs: Sequence[Heartbeat], stop: StopRequest) -> None:
        self.runs, self.stop = runs, stop
        # Hundreds of jobs share a file system; status asks their scheduler whether they live.
        self.longest = ON_A_CLUSTER if "SLURM_JOB_ID" in os.environ else HEARTBEAT_SECONDS
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._keep_beating, daemon=True)

    def __enter__(self) -> Beating:
        self._beat(alive=True)
        try:
            self._thread.start()
        except RuntimeError as error:  # a machine without free threads must not end the run either
            where = self.runs[0].folder
            logging.getLogger(__name__).warning("%s shows no progress: %s", where, error)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._ended.set()
        if self._thread.ident is not None:
            self._thread.join()
        if error is not None:
            self._beat(alive=False)
        else:
            for run in self.runs:
                (run.folder / ALIVE).unlink(missing_ok=True)

    def _keep_beating(self) -> None:
        began = time.monotonic()
        due, asked = began + HEARTBEAT_SECONDS, False
        while not self._ended.wait(LOOK_SECONDS):
            now = time.monotonic()
            if (self.stop.asked and not asked) or now >= due:
                asked = self.stop.asked
                due = now + min(self.longest, max(HEARTBEAT_SECONDS, (now - began) / 4))
                self._beat(alive=not asked)

    def _beat(self, *, alive: bool) -> None:
        for run in self.runs:
            run.beat(alive=alive)


def last_sign(folder: Path) -> Sign | None:
    """The last sign of life of a run without a record.

    None if there is none, or none that can be read: the run then counts as not running.
    """
    try:
        return msgspec.json.decode(read_small(folder / ALIVE), type=Sign)
    except (OSError, msgspec.MsgspecError, ValueError, RecursionError, UnfitFile):
        return None

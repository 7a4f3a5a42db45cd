"""The heartbeat file of a run: how other processes see that it is running, and how far it is."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import threading
from pathlib import Path
from types import TracebackType
from typing import Any

import psutil

from benchmark.files import UnfitFile, read_small, write_atomic

ALIVE = "alive.json"
HEARTBEAT_SECONDS = 2.0


class Heartbeat:
    """A context in which a thread keeps the run's heartbeat file fresh, whatever the run does.

    Leaving it without an error removes the file: the run has a record now. Leaving it with one (an
    interrupt) keeps the last step in it, without a process.

    Args:
        folder: Folder of the run.
        attempt: Number of this attempt, from 1.
    """

    def __init__(self, folder: Path, attempt: int) -> None:
        self.folder, self.attempt = folder, attempt
        self.step = self.total = 0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._keep_beating, daemon=True)

    def __enter__(self) -> Heartbeat:
        self._beat(alive=True)
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._ended.set()
        self._thread.join()
        if error is None:
            (self.folder / ALIVE).unlink(missing_ok=True)
        else:
            self._beat(alive=False)

    def _keep_beating(self) -> None:
        while not self._ended.wait(HEARTBEAT_SECONDS):
            self._beat(alive=True)

    def _beat(self, *, alive: bool) -> None:
        facts = {
            "host": platform.node(),
            "pid": os.getpid() if alive else None,
            "process_started": psutil.Process().create_time(),
            "attempt": self.attempt,
            "step": self.step,
            "total": self.total,
        }
        with contextlib.suppress(OSError):  # a full disk must not end a run that can go on
            write_atomic(self.folder / ALIVE, json.dumps(facts))


def last_sign(folder: Path) -> dict[str, Any] | None:
    """The last heartbeat of a run without a record: host, pid, attempt, step, total steps.

    None if there is none.
    """
    try:
        sign: dict[str, Any] = json.loads(read_small(folder / ALIVE))
    except (FileNotFoundError, ValueError, RecursionError, UnfitFile):
        return None
    return sign

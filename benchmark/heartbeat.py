"""Signs of life: how other processes see that a run is being worked on, and how far it is."""

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

from benchmark.files import write_atomic

ALIVE = "alive.json"
HEARTBEAT_SECONDS = 2.0


class Heartbeat:
    """While it is open, a thread keeps the run's sign of life fresh, whatever the run is doing.

    Leaving it without an error removes the sign: the run has a record now. Leaving it with one
    (an interrupt) keeps what it said last, without a process.

    Args:
        folder: Of the run.
        attempt: Which attempt this is, from 1.
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
        with contextlib.suppress(OSError):  # a full disk: whether a run ends is told by its record
            write_atomic(self.folder / ALIVE, json.dumps(facts))


def last_sign(folder: Path) -> dict[str, Any] | None:
    """What a run that left no record last said: host, pid, attempt, step, of how many."""
    try:
        sign: dict[str, Any] = json.loads((folder / ALIVE).read_text())
    except (FileNotFoundError, json.JSONDecodeError):
        return None
    return sign

"""`obdbench ...` in this process, whatever it ends in: what the campaigns run."""

from __future__ import annotations

import contextlib
import io
import signal
import sys
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

from obdbench.cli import main

LONGEST = 60
"""Seconds after which a command hangs."""


@dataclass(frozen=True)
class Ended:
    """What a command ended in: exit status, both streams, and the traceback if there was one."""

    status: int
    out: str = ""
    err: str = ""
    traceback: str = ""

    @property
    def escaped(self) -> str:
        """The error that a user would see as a traceback, in one line; "" where there is none."""
        if not self.traceback and "Traceback (most recent" not in self.err:
            return ""
        return (self.traceback or self.err).strip().splitlines()[-1]


class Hangs(Exception):
    """A command that takes longer than any mistake should."""


def command(*words: str | Path) -> Ended:
    """Run one command line."""
    out, err = io.StringIO(), io.StringIO()
    status, trace = 0, ""
    with (
        mock.patch.object(sys, "argv", ["obdbench", *map(str, words)]),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        _alarm(),
    ):
        try:
            main()
        except SystemExit as end:
            status = end.code if isinstance(end.code, int) else int(end.code is not None)
        except BaseException:  # whatever a command does not catch is what is looked for
            trace = traceback.format_exc()
    return Ended(status, out.getvalue(), err.getvalue(), trace)


@contextlib.contextmanager
def _alarm() -> Iterator[None]:
    def ring(*_: object) -> None:
        raise Hangs(f"longer than {LONGEST} s")

    before = signal.signal(signal.SIGALRM, ring)
    signal.alarm(LONGEST)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)

"""The two consoles, and progress that is a bar on a terminal and plain lines in a pipe."""

from __future__ import annotations

import codecs
import contextlib
import io
import json
import math
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import timedelta
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.segment import Segment
from rich.text import Text

from benchmark.names import visible

ERROR = 1
"""Status of a process that met an error, which it has printed."""
RUNS_FAILED = 3
"""Status of a command on a sweep of which runs failed; all else went well."""
INTERRUPTED = 130
"""Status that typer gives a process after Ctrl-C."""

PIPE_WIDTH = 160


class _PlainText(Console):
    """A console on which text is never obeyed: no markup, and what steers a terminal is shown.

    Names and messages come from files that others made. A style is given as such: `style="red"`,
    or a `rich.text.Text`.
    """

    def render(
        self, renderable: RenderableType, options: ConsoleOptions | None = None
    ) -> Iterator[Segment]:
        for text, style, control in super().render(renderable, options):
            yield Segment(text if control else visible(text), style, control)


_SETTINGS: dict[str, Any] = {"soft_wrap": True, "markup": False, "emoji": False, "highlight": False}
out = _PlainText(width=None if sys.stdout.isatty() else PIPE_WIDTH, **_SETTINGS)
err = _PlainText(stderr=True, **_SETTINGS)

PLAIN_SECONDS = 15.0
LOOKING = 0.01
"""Part of the time, at most, that goes into looking how far runs are."""

PLAIN = {
    "\N{DAGGER}": "+", "\N{EN DASH}": "-", "\N{MINUS SIGN}": "-", "…": "...",
    "●": "*", "▶": ">", "✗": "x", "◐": "~", "○": "o", "·": ".",
}  # fmt: skip
"""What stands for a character on a terminal that cannot show it; for others it is "?"."""


def never_fail_to_print() -> None:
    """Let both streams print a plain character in place of one that their encoding lacks.

    A sweep of many hours must not end in an error because a terminal cannot show a dagger.
    """
    codecs.register_error("obdbench.plain", _plain)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="obdbench.plain")


def _plain(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    lacking = error.object[error.start : error.end]
    return "".join(PLAIN.get(character, "?") for character in lacking), error.end


def print_json(value: Any) -> None:
    """Print plain values as JSON, and nothing that a program would have to skip.

    A number that is not finite, such as the mean of no run, becomes null.
    """
    print(json.dumps(_finite(value), indent=1, default=str))


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


class _Rate(ProgressColumn):
    """Units a second."""

    def __init__(self, unit: str) -> None:
        super().__init__()
        self.unit = unit

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else f"{speed:,.1f} {self.unit}/s")


class _Remaining(TimeRemainingColumn):
    """Time left at the mean pace so far, where the share of the work is known; else rich's."""

    def render(self, task: Task) -> Text:
        share, elapsed = task.fields["share"], task.finished_time or task.elapsed
        if share is None or not share or elapsed is None:
            return super().render(task)
        left = timedelta(seconds=round(elapsed * (1 - share) / share))
        return Text(str(left), style="progress.remaining")


class ProgressBar:
    """One piece of long work: set how far it is as often as you like.

    On a terminal it is a bar with rate and remaining time. In a pipe or a log file it is a plain
    line every quarter of a minute, and one at the end. A total of None is not known yet.
    """

    def __init__(self, title: str, unit: str, total: float | None) -> None:
        self.title, self.unit, self.total = title, unit, total
        self.note = ""
        self._began = self._printed = time.monotonic()
        self._bar: Progress | None = None
        if err.is_terminal:
            self._bar = Progress(
                TextColumn("{task.description}", markup=False),
                BarColumn(),
                _amount(unit),
                TransferSpeedColumn() if unit == "bytes" else _Rate(unit),
                TimeElapsedColumn(),
                _Remaining(),
                TextColumn("{task.fields[note]}", markup=False),
                console=err,
            )
            self._task = self._bar.add_task(title, total=total, note="", share=None)

    def update(
        self, done: float, note: str = "", *, total: float | None = None, share: float | None = None
    ) -> None:
        """Say how far the work is.

        Args:
            done: Units done.
            note: Shown at the end of the line.
            total: All units, if that is new.
            share: Share of the work that is done, for the time that is left, where units differ in
                what they cost; by default that of the units.
        """
        self.total = total or self.total
        if self._bar is not None:
            self._bar.update(self._task, completed=done, total=self.total, note=note, share=share)
        elif time.monotonic() - self._printed > PLAIN_SECONDS:
            self._line(done, note, share)

    def _line(self, done: float, note: str, share: float | None) -> None:
        self._printed = time.monotonic()
        elapsed = self._printed - self._began
        total = self.total or done
        share = share if share is not None else done / total if total else 1.0
        left = f", about {elapsed * (1 - share) / share:.0f} s left" if 0 < share < 1 else ""
        with contextlib.suppress(OSError):  # a log on a full disk fails no run
            err.print(
                f"{self.title}: {done:,.6g} of {total:,.0f} {self.unit}, {elapsed:.0f} s{left}"
                f"{' - ' + note if note else ''}",
                highlight=False,
            )


def _amount(unit: str) -> ProgressColumn:
    """How much is done, as people count that unit."""
    if unit == "bytes":
        return DownloadColumn()
    return MofNCompleteColumn() if unit == "runs" else TextColumn("{task.percentage:.0f} %")


@contextlib.contextmanager
def progress_bar(title: str, unit: str, total: float | None) -> Iterator[ProgressBar]:
    """A progress bar that is closed with the block."""
    bar = ProgressBar(title, unit, total)
    if bar._bar is None:
        yield bar
        return
    with bar._bar:
        yield bar


def sparingly(
    look: Callable[[], None], clock: Callable[[], float] = time.monotonic
) -> Callable[[], None]:
    """A function to call at any time, which looks only as often as takes `LOOKING` of the time."""
    due = 0.0

    def call() -> None:
        nonlocal due
        began = clock()
        if began >= due:
            look()
            ended = clock()
            due = ended + (ended - began) / LOOKING

    return call

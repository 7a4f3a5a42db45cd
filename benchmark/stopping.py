"""Asking work to save its state and end: what a signal handler may do, and SLURM's signals."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from types import FrameType


class Stopped(BaseException):
    """Work ended on request; its state is saved and the same call goes on from it."""


@dataclass
class StopRequest:
    """A request to stop, which the work looks at where its state is whole."""

    asked: bool = False

    def ask(self) -> None:
        """Make the request; safe in a signal handler."""
        self.asked = True

    def check(self) -> None:
        """End the work if a stop was requested, where nothing is left to save.

        Raises:
            Stopped: A stop was requested.
        """
        if self.asked:
            raise Stopped("asked to stop")


WARNING = signal.SIGUSR2
"""Before the time limit, as sbatch's `--signal` asks for it. The job queues itself again."""
END = signal.SIGTERM
"""When the job is cancelled or pre-empted. SLURM itself queues it again, or does not."""


@contextlib.contextmanager
def stopped_by_signals(stop: StopRequest, seconds: float) -> Iterator[set[int]]:
    """Signals ask `stop` while this is open. The block raises `Stopped` once the state is saved.

    Args:
        stop: What the work looks at.
        seconds: For a save; a step that takes longer is left where it is, and the work goes on from
            the save before it.

    Yields:
        The signals that came; a set that fills.
    """
    came: set[int] = set()

    def ask(number: int, _: FrameType | None) -> None:
        if not came:
            signal.setitimer(signal.ITIMER_REAL, seconds)
        came.add(number)
        stop.ask()

    def give_up(number: int, _: FrameType | None) -> None:
        raise Stopped(f"no state was saved within {seconds:.0f} s")

    handlers = {WARNING: ask, END: ask, signal.SIGALRM: give_up}
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        yield came
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in before.items():
            signal.signal(number, handler)

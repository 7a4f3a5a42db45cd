"""Asking work to save its state and end: what a signal handler may do, and SLURM's signals."""

from __future__ import annotations

import contextlib
import os
import signal
import stat
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
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
HANGUP = signal.SIGHUP
"""When the terminal is closed. nohup has it ignored, and it stays so."""
INTERRUPT = signal.SIGINT
"""Ctrl-C. Shells have it ignored in what they start in the background, and it stays so."""
SECONDS_TO_SAVE = 60.0
"""Between a signal and the end, for the step under way and the save."""


def hold_back_warnings() -> None:
    """Keep SLURM's warnings waiting until somebody listens: by default they end the process."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {WARNING})


def let_warnings_through() -> None:
    """Hand on a warning that was held back, and those to come."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {WARNING})


def queues_itself_again(received: Sequence[int]) -> bool:
    """Whether a job that got these signals is to queue itself again: it was warned, and not ended.

    A job that is cancelled while it saves stays cancelled, and SLURM itself queues a pre-empted one
    again.
    """
    return WARNING in received and END not in received


@contextlib.contextmanager
def stopped_by_signals(stop: StopRequest, seconds: float) -> Iterator[list[int]]:
    """Signals ask `stop` while this is open. The block raises `Stopped` once the state is saved.

    Ctrl-C after any of them, a second one usually, ends the block at once.

    Args:
        stop: What the work looks at.
        seconds: For a save; a step that takes longer is left where it is, and the work goes on from
            the save before it.

    Yields:
        The signals that came, in order; a list that fills.

    Raises:
        KeyboardInterrupt: Ctrl-C came after another signal.
    """
    came: list[int] = []

    def ask(number: int, _: FrameType | None) -> None:
        if number == INTERRUPT:
            if came:
                raise KeyboardInterrupt
            _say_on_stderr("Saving the state of the runs; Ctrl-C again ends at once.")
        if not came:
            signal.setitimer(signal.ITIMER_REAL, seconds)
        came.append(number)
        stop.ask()
        _print_nowhere_without_a_terminal()

    def give_up(number: int, _: FrameType | None) -> None:
        raise Stopped(f"no state was saved within {seconds:.0f} s")

    asks: dict[int, Callable[[int, FrameType | None], None]]
    asks = dict.fromkeys((WARNING, END, HANGUP, INTERRUPT), ask)
    with _handled({**asks, signal.SIGALRM: give_up}):
        let_warnings_through()
        try:
            yield came
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)


@contextlib.contextmanager
def ended_by_signals() -> Iterator[None]:
    """Signals end the process with status 128 + signal while this is open.

    By default they would end it where it stands; so what is being written is removed, and what was
    started is ended.
    """

    def end(number: int, _: FrameType | None) -> None:
        _print_nowhere_without_a_terminal()
        sys.exit(128 + number)

    with _handled({END: end, HANGUP: end}):
        yield


def _say_on_stderr(sentence: str) -> None:
    """Write a line from a signal handler, in which a stream of Python may be busy already."""
    with contextlib.suppress(OSError):
        os.write(2, f"{sentence}\n".encode())


def _print_nowhere_without_a_terminal() -> None:
    """Let go of a terminal that was closed: printing on it is an error, and would be the end."""
    for number in (1, 2):
        with contextlib.suppress(OSError):  # it is closed already
            if stat.S_ISCHR(os.fstat(number).st_mode) and not os.isatty(number):
                nowhere = os.open(os.devnull, os.O_WRONLY)
                os.dup2(nowhere, number)
                os.close(nowhere)


@contextlib.contextmanager
def _handled(handlers: Mapping[int, Callable[[int, FrameType | None], None]]) -> Iterator[None]:
    """Handlers of signals while this is open; a hang-up or Ctrl-C that is ignored stays so."""
    before = {
        number: signal.signal(number, handler)
        for number, handler in handlers.items()
        if number not in (HANGUP, INTERRUPT) or signal.getsignal(number) is not signal.SIG_IGN
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)

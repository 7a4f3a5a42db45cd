"""Work in a fork of this process while this one goes on."""

from __future__ import annotations

import contextlib
import os
import pickle
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Generic, NoReturn, TypeVar

T = TypeVar("T")


@dataclass
class Later(Generic[T]):
    """What work gives; there once the block that waits for it has ended."""

    value: T = field(init=False)


@contextlib.contextmanager
def beside(work: Callable[[], T]) -> Iterator[Later[T]]:
    """Do work in a fork of this process while the block runs here.

    Work that fails in the fork is done again here after the block, so that its error is raised
    here. So is all work with a single processor, on systems other than Linux, and next to other
    threads: a lock that one of them holds would stay closed in a fork.

    Args:
        work: Function that writes files, or gives what can be pickled.
    """
    later: Later[T] = Later()
    reader, writer = os.pipe()
    child = _fork()
    if child == 0:
        _answer(work, writer)
    os.close(writer)
    with os.fdopen(reader, "rb") as answer:
        try:
            yield later
            content = answer.read()
        except BaseException:
            if child:
                os.kill(child, signal.SIGTERM)
            raise
        finally:
            status = os.waitpid(child, 0)[1] if child else 1
    later.value = work() if status else pickle.loads(content)


def _fork() -> int | None:
    """Process id of a fork, in which it is 0; None where none can be made."""
    if sys.platform != "linux" or threading.active_count() > 1 or len(os.sched_getaffinity(0)) < 2:
        return None
    with warnings.catch_warnings(), contextlib.suppress(OSError):  # too many processes
        # Python 3.12 counts the threads of OpenBLAS too, which ends and starts them around a fork.
        warnings.filterwarnings("ignore", "This process .* is multi-threaded", DeprecationWarning)
        return os.fork()
    return None


def _answer(work: Callable[[], object], writer: int) -> NoReturn:
    """Send what work gives, and end without what this process would do at its end."""
    status = 1
    try:
        with os.fdopen(writer, "wb") as answer:
            pickle.dump(work(), answer)
        status = 0
    finally:
        os._exit(status)

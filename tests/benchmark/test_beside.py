"""Work in a fork: it is done at the same time, gives its value or its error, and leaves nothing."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from benchmark.beside import beside
from benchmark.errors import ObdBenchError


@pytest.fixture(params=["fork", "here"])
def forks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[bool]:
    """Whether work is done in a fork: a machine of two processors, or of one."""
    count = 2 if request.param == "fork" else 1
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(count)))
    monkeypatch.setattr(threading, "active_count", lambda: 1)  # pytest-xdist has some
    before = children()  # those of other tests, such as a tracker of shared memory
    yield count == 2
    assert children() <= before


def children() -> set[int]:
    """Processes of this one, also those that ended and were not waited for."""
    return {child.pid for child in psutil.Process().children()}


def test_the_value_of_work_is_there_after_the_block(forks: bool) -> None:
    with beside(lambda: (os.getpid(), "x" * 10**6)) as later:  # more than a pipe holds
        pass
    process, text = later.value
    assert (process != os.getpid()) == forks
    assert text == "x" * 10**6


def test_work_goes_on_while_the_block_runs(forks: bool, tmp_path: Path) -> None:
    if not forks:
        pytest.skip("one processor")
    with beside(lambda: (tmp_path / "file").touch()):
        deadline = time.monotonic() + 30
        while not (tmp_path / "file").exists():
            assert time.monotonic() < deadline
            time.sleep(0.01)


def test_the_error_of_work_is_raised_here(forks: bool) -> None:
    def work() -> None:
        raise ObdBenchError(f"no room in {os.getpid()}")

    with pytest.raises(ObdBenchError, match=f"no room in {os.getpid()}"), beside(work):
        pass


def test_a_fork_that_is_killed_is_done_again(forks: bool) -> None:
    here = os.getpid()

    def work() -> int:
        if os.getpid() != here:
            os.kill(os.getpid(), signal.SIGKILL)
        return os.getpid()

    with beside(work) as later:
        pass
    assert later.value == here


def test_a_block_that_fails_ends_the_work(forks: bool, tmp_path: Path) -> None:
    def work() -> None:
        time.sleep(60 if forks else 0)
        (tmp_path / "file").touch()

    began = time.monotonic()
    with pytest.raises(ObdBenchError, match="in the block"), beside(work):
        raise ObdBenchError("in the block")
    assert time.monotonic() - began < 30
    assert not (tmp_path / "file").exists()


def test_next_to_another_thread_nothing_is_forked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1})
    over = threading.Event()
    thread = threading.Thread(target=over.wait)
    thread.start()
    try:
        with beside(os.getpid) as later:
            pass
    finally:
        over.set()
        thread.join()
    assert later.value == os.getpid()

"""What signals do to a command, to the processes that it started, and to the state of its runs."""

from __future__ import annotations

import errno
import io
import multiprocessing
import os
import pty
import select
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import psutil
import pytest
import typer
from rich.console import Console

from benchmark.files import atomic_path
from benchmark.heartbeat import ALIVE, last_sign
from benchmark.monitor import STATE
from benchmark.state import load_state
from benchmark.stopping import (
    END,
    HANGUP,
    WARNING,
    Stopped,
    StopRequest,
    ended_by_signals,
    stopped_by_signals,
)
from obdbench.cli import app as commands
from obdbench.cli import console, main
from obdbench.cli.runs import QUEUE_AGAIN, _saved_by_signals

ENDLESS = """
[[methods]]
name = "dbc"
synthetic_size = 4
outer_batch = 8
outer_steps = 1000000
"""
SMALL = (
    "--protocol", "smoke", "--set", "outer_steps=1000000", "--set", "synthetic_size=4",
    "--set", "outer_batch=8", "--set", "student.width=8", "--set", "student.steps=2",
)  # fmt: skip


@pytest.fixture(autouse=True)
def hang_ups_count() -> Iterator[None]:
    """These tests send them, also where the tests were started under nohup, which ignores them."""
    before = signal.signal(HANGUP, signal.SIG_DFL)
    yield
    signal.signal(HANGUP, before)


@contextmanager
def command(log: Path, *words: str | Path) -> Iterator[BaseProcess]:
    """`obdbench ...` in a process of its own, which has imported all that this one has."""

    def act() -> None:
        sys.stdout = sys.stderr = log.open("w", buffering=1)
        sys.argv = ["obdbench", *map(str, words)]
        main()

    process = multiprocessing.get_context("fork").Process(target=act)
    process.start()
    try:
        yield process
    finally:
        process.kill()
        process.join()


def begun(store: Path, count: int, process: BaseProcess, log: Path) -> list[Path]:
    """The folders of this many runs, when each has done a step."""
    deadline = time.monotonic() + 60
    while True:
        folders = [path.parent for path in store.glob(f"*/seed*/{ALIVE}")]
        if sum(bool((sign := last_sign(f)) and sign.step) for f in folders) == count:
            return folders
        assert process.is_alive() and time.monotonic() < deadline, log.read_text()
        time.sleep(0.05)


@pytest.mark.parametrize(
    ("number", "status"),
    [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGKILL, -signal.SIGKILL)],
)
def test_no_worker_outlives_its_sweep_and_each_saves_its_state(
    number: int, status: int, sweep_file: Path, record_store: Path, tmp_path: Path
) -> None:
    sweep_file.write_text(sweep_file.read_text().partition("[[methods]]")[0] + ENDLESS)
    log = tmp_path / "log"
    with command(log, "sweep", sweep_file, "--jobs", "2") as process:
        folders = begun(record_store, 2, process, log)
        assert process.pid is not None
        workers = psutil.Process(process.pid).children(recursive=True)
        assert len(workers) == 2
        os.kill(process.pid, number)
        process.join(30)
        assert process.exitcode == status, log.read_text()
    _, left = psutil.wait_procs(workers, timeout=10)
    assert not left
    for folder in folders:  # the next save of its own accord would be in half a minute
        sign = last_sign(folder)
        assert sign is not None and sign.pid is None
        assert 0 < load_state(folder / STATE)[1]["method"]["step"] <= sign.step + 1
    assert not list(record_store.rglob("*.tmp")) and not (record_store / "jobs").exists()
    assert "Traceback" not in log.read_text()


@pytest.mark.parametrize(
    ("number", "status", "says"),
    [
        (signal.SIGTERM, 143, "Stopped: asked to stop. The same command goes on from here."),
        (signal.SIGHUP, 129, "Stopped: asked to stop. The same command goes on from here."),
        (
            signal.SIGINT,
            130,
            "Stopped. Finished runs are kept; the same command goes on from here.",
        ),
    ],
)
def test_a_single_run_saves_its_state_at_a_signal(
    number: int, status: int, says: str, small_dataset_name: str, record_store: Path, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    with command(log, "run", "dbc", small_dataset_name, *SMALL) as process:
        (folder,) = begun(record_store, 1, process, log)
        os.kill(process.pid or 0, number)
        process.join(30)
        assert process.exitcode == status
    assert log.read_text().count("Stopped") == log.read_text().count(says) == 1
    assert load_state(folder / STATE)[1]["method"]["step"] > 0


def test_a_closed_terminal_saves_the_state(
    small_dataset_name: str, record_store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Printing on a terminal that is no longer there is an error, which must not be the end."""
    monkeypatch.setenv("TERM", "xterm")
    number, terminal = pty.fork()
    if not number:
        status: object = 1
        try:
            sys.stdout = sys.stderr = os.fdopen(1, "w", buffering=1)
            sys.argv = ["obdbench", "run", "dbc", small_dataset_name, *SMALL]
            main()
        except SystemExit as end:
            status = end.code
        finally:
            os._exit(int(str(status)))
    deadline = time.monotonic() + 60
    while not any((s := last_sign(f.parent)) and s.step for f in record_store.rglob(ALIVE)):
        assert time.monotonic() < deadline
        if select.select([terminal], [], [], 0.05)[0]:
            os.read(terminal, 65536)
    os.close(terminal)
    assert os.waitstatus_to_exitcode(os.waitpid(number, 0)[1]) == 128 + HANGUP
    (state,) = record_store.rglob(STATE)
    assert load_state(state)[1]["method"]["step"] > 0


class FullDisk(io.StringIO):
    def write(self, text: str) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")


def test_progress_into_a_log_on_a_full_disk_fails_no_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(console, "err", Console(file=FullDisk()))
    monkeypatch.setattr(console, "PLAIN_SECONDS", -1.0)
    with pytest.raises(OSError, match="No space left"):
        console.err.print("there is no room for this")
    console.ProgressBar("a run", "steps", 10).update(1)


@pytest.mark.parametrize(("takes", "looks"), [(0.0001, 3999), (0.008, 1000), (0.36, 28)])
def test_looking_how_far_runs_are_takes_a_hundredth_of_the_time(takes: float, looks: int) -> None:
    now, seen = 0.0, []

    def look() -> None:
        nonlocal now
        now += takes
        seen.append(now)

    call = console.sparingly(look, clock=lambda: now)
    while now < 1000:  # as a sweep calls it, while its processes work
        now += 0.25
        call()
    assert seen[0] < 1  # at once
    assert len(seen) == pytest.approx(looks, rel=0.05)
    assert (len(seen) - 1) * takes < 1000 * console.LOOKING


@pytest.mark.parametrize(
    ("signals", "status"),
    [((WARNING,), QUEUE_AGAIN), ((WARNING, END), 143), ((END, WARNING), 143)],
)
def test_a_command_that_is_ended_does_not_ask_to_be_queued_again(
    signals: tuple[int, ...], status: int
) -> None:
    stop = StopRequest()
    with pytest.raises(typer.Exit) as ended, _saved_by_signals(stop):
        for number in signals:
            os.kill(os.getpid(), number)
        stop.check()
    assert ended.value.exit_code == status


def test_a_hang_up_asks_once_but_not_under_nohup() -> None:
    stop = StopRequest()
    with pytest.raises(Stopped), stopped_by_signals(stop, 60) as came:
        os.kill(os.getpid(), HANGUP)
        stop.check()
    assert came == [HANGUP]

    stop = StopRequest()
    before = signal.signal(HANGUP, signal.SIG_IGN)
    try:
        with ended_by_signals(), stopped_by_signals(stop, 60) as came:
            os.kill(os.getpid(), HANGUP)
            stop.check()
        assert came == []
        assert signal.getsignal(HANGUP) is signal.SIG_IGN
    finally:
        signal.signal(HANGUP, before)


def test_ctrl_c_asks_once_then_ends_at_once_but_not_where_it_is_ignored() -> None:
    stop = StopRequest()
    with pytest.raises(KeyboardInterrupt), stopped_by_signals(stop, 60) as came:
        os.kill(os.getpid(), signal.SIGINT)
        assert stop.asked
        os.kill(os.getpid(), signal.SIGINT)
    assert came == [signal.SIGINT]

    stop = StopRequest()
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with stopped_by_signals(stop, 60) as came:
            os.kill(os.getpid(), signal.SIGINT)
            stop.check()
        assert came == []
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_command_that_a_signal_ends_leaves_nothing_half_written(
    number: int, cli: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "made" / "file"

    def writes() -> None:
        with atomic_path(target):
            os.kill(os.getpid(), number)
            time.sleep(10)

    monkeypatch.setattr(commands, "app", writes)
    assert cli("anything").code == 128 + number
    assert list(target.parent.iterdir()) == []

"""Signs of life of the runs of a pack: one thread, whole files, and what they say at the end."""

from __future__ import annotations

import errno
import itertools
import os
import threading
import time
from pathlib import Path

import pytest

from benchmark import heartbeat
from benchmark.heartbeat import ALIVE, Beating, Heartbeat, last_sign
from benchmark.stopping import StopRequest


def runs_of(folder: Path, count: int = 3) -> list[Heartbeat]:
    folders = [folder / str(number) for number in range(count)]
    for one in folders:
        one.mkdir()
    return [Heartbeat(one, 1) for one in folders]


def wait_for(step: int, run: Heartbeat) -> None:
    deadline = time.monotonic() + 30
    while (sign := last_sign(run.folder)) is None or sign.step != step:
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_one_thread_keeps_all_runs_of_a_pack_alive(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(heartbeat, "HEARTBEAT_SECONDS", 0.05)
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    runs, threads = runs_of(tmp_path), threading.active_count()
    with Beating(runs, StopRequest()):
        assert threading.active_count() == threads + 1
        for step, run in enumerate(runs, start=5):
            run.step = step
        for step, run in enumerate(runs, start=5):
            wait_for(step, run)
    assert threading.active_count() == threads
    assert not list(tmp_path.rglob(f"*{ALIVE}*"))


@pytest.mark.parametrize("code", [errno.EACCES, errno.ESTALE, errno.EIO, errno.ENOENT])
def test_a_file_that_the_disk_does_not_give_is_no_sign(
    code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stale handle of a shared disk must not end a `status` of five hundred other runs."""

    def fail(path: Path) -> bytes:
        raise OSError(code, os.strerror(code), str(path))

    Heartbeat(tmp_path, 1).beat(alive=True)
    assert last_sign(tmp_path) is not None
    monkeypatch.setattr(heartbeat, "read_small", fail)
    assert last_sign(tmp_path) is None


def test_a_request_to_stop_is_said_at_once_on_a_cluster_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    stop, (run, *_) = StopRequest(), runs_of(tmp_path)
    with pytest.raises(KeyboardInterrupt), Beating([run], stop) as beating:
        assert beating.longest == heartbeat.ON_A_CLUSTER
        sign = last_sign(run.folder)
        assert sign is not None and sign.pid is not None
        run.step = 3
        stop.ask()
        wait_for(3, run)
        sign = last_sign(run.folder)
        assert sign is not None and sign.pid is None
        raise KeyboardInterrupt
    sign = last_sign(run.folder)
    assert sign is not None and (sign.pid, sign.step) == (None, 3)


def test_on_a_cluster_files_are_written_less_often_as_the_run_ages(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setattr(heartbeat, "HEARTBEAT_SECONDS", 0.1)
    monkeypatch.setattr(heartbeat, "ON_A_CLUSTER", 0.5)
    monkeypatch.setattr(heartbeat, "LOOK_SECONDS", 0.01)
    (run, *_), at = runs_of(tmp_path), []
    monkeypatch.setattr(run, "beat", lambda *, alive: at.append(time.monotonic()))
    with Beating([run], StopRequest()):
        time.sleep(3.5)
    gaps = [later - earlier for earlier, later in itertools.pairwise(at)]
    assert gaps[0] < 0.3 < max(gaps)  # soon at first
    assert 5 < len(gaps) < 20  # 35 at the rate of the beginning

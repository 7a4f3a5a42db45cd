"""The record store: what state every run of a sweep is in, whoever left it that way."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from benchmark.errors import ObdBenchError
from benchmark.files import write_atomic
from benchmark.heartbeat import ALIVE
from benchmark.record import FILE, BadRecord
from benchmark.registry import load_plugin
from benchmark.run import run_folder
from benchmark.spec import RunSpec
from benchmark.sweep import Sweep
from results.record_store import (
    SHIPPED,
    STALE_SECONDS,
    RunStatus,
    all_records,
    load_sweep,
    readable_records,
    run_status,
    save_sweep,
    sweep_records,
)
from results.stores import store_option
from tests.tiny_runs import PLUGIN, execute, tiny_spec


@pytest.fixture(scope="module")
def sweep(small_dataset_name: str) -> Sweep:
    """A run that ends well, one that fails, and one that nobody starts."""
    load_plugin(PLUGIN)
    names = ("random", "raises", "dbc")
    return Sweep("three", "one of each", tuple(tiny_spec(n, small_dataset_name) for n in names))


@pytest.fixture(scope="module")
def store(sweep: Sweep, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The first two were done."""
    store = tmp_path_factory.mktemp("store")
    for run in sweep.runs[:2]:
        execute(run, store)
    return store


def say_alive(
    store: Path, run: RunSpec, *, host: str | None = None, pid: int | None = None, **facts: Any
) -> Path:
    """The sign of life of a process that is at step 3 of 12."""
    pid = os.getpid() if pid is None else pid
    sign = {
        "host": host or platform.node(),
        "pid": pid,
        "process_started": psutil.Process().create_time(),
        "attempt": 1,
        "step": 3,
        "total": 12,
        **facts,
    }
    path = run_folder(store, run) / ALIVE
    write_atomic(path, json.dumps(sign))
    return path


def ended_process() -> int:
    """The number of a process that has ended."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_done_failed_and_missing(store: Path, sweep: Sweep) -> None:
    assert [run_status(store, run) for run in sweep.runs] == [
        RunStatus("done", 1.0),
        RunStatus("failed", 1.0, "ValueError"),
        RunStatus("missing"),
    ]


def test_a_run_with_a_live_process_is_running_and_says_how_far_it_is(
    sweep: Sweep, tmp_path: Path
) -> None:
    say_alive(tmp_path, sweep.runs[0])
    assert run_status(tmp_path, sweep.runs[0]) == RunStatus("running", 0.25)


def test_a_run_that_has_not_said_of_how_many_steps_is_running_too(
    sweep: Sweep, tmp_path: Path
) -> None:
    say_alive(tmp_path, sweep.runs[0], step=0, total=0)
    assert run_status(tmp_path, sweep.runs[0]) == RunStatus("running", 0.0)


def test_a_failed_run_under_retry_is_running(sweep: Sweep, tmp_path: Path) -> None:
    execute(sweep.runs[1], tmp_path)
    sign = say_alive(tmp_path, sweep.runs[1])
    assert run_status(tmp_path, sweep.runs[1]) == RunStatus("running", 0.25)
    sign.unlink()
    assert run_status(tmp_path, sweep.runs[1]).state == "failed"


def test_a_run_whose_process_ended_is_stopped(sweep: Sweep, tmp_path: Path) -> None:
    say_alive(tmp_path, sweep.runs[0], pid=ended_process())
    assert run_status(tmp_path, sweep.runs[0]) == RunStatus("stopped", 0.25)


def test_another_process_with_the_same_number_does_not_keep_a_run_alive(
    sweep: Sweep, tmp_path: Path
) -> None:
    say_alive(tmp_path, sweep.runs[0], process_started=time.time() - 7 * 24 * 3600)
    assert run_status(tmp_path, sweep.runs[0]).state == "stopped"


def test_a_dead_process_that_no_one_collected_does_not_keep_a_run_alive(
    sweep: Sweep, tmp_path: Path
) -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        started = psutil.Process(process.pid).create_time()
        say_alive(tmp_path, sweep.runs[0], pid=process.pid, process_started=started)
        assert run_status(tmp_path, sweep.runs[0]).state == "running"
        process.kill()
        while psutil.Process(process.pid).status() != psutil.STATUS_ZOMBIE:
            time.sleep(0.01)
        assert run_status(tmp_path, sweep.runs[0]).state == "stopped"


def test_a_run_of_another_host_is_running_until_it_is_silent_for_long(
    sweep: Sweep, tmp_path: Path
) -> None:
    # The number means nothing here: that this host has no such process must not matter.
    sign = say_alive(tmp_path, sweep.runs[0], host="another-host", pid=ended_process())
    assert run_status(tmp_path, sweep.runs[0]).state == "running"
    silent = time.time() - STALE_SECONDS - 5
    os.utime(sign, (silent, silent))
    assert run_status(tmp_path, sweep.runs[0]) == RunStatus("stopped", 0.25)


@pytest.mark.parametrize(
    "facts",
    [{"pid": "1"}, {"pid": -1}, {"pid": 10**30}, {"step": None}, {"step": -1}, {"total": 2**70},
     {"host": 3}, {"process_started": "today"}, {"attempt": []}],
    ids=str,
)  # fmt: skip
def test_a_sign_of_life_that_cannot_be_read_is_none(
    facts: dict[str, Any], sweep: Sweep, tmp_path: Path
) -> None:
    path = say_alive(tmp_path, sweep.runs[0], **facts)
    assert run_status(tmp_path, sweep.runs[0]) == RunStatus("missing")
    for content in (b"", b"[]", b"\xff", b"null", b"[" * 100_000):
        path.write_bytes(content)
        assert run_status(tmp_path, sweep.runs[0]) == RunStatus("missing")


def test_a_sign_of_more_steps_than_there_are_is_of_all(sweep: Sweep, tmp_path: Path) -> None:
    say_alive(tmp_path, sweep.runs[0], step=30)
    assert run_status(tmp_path, sweep.runs[0]) == RunStatus("running", 1.0)


def test_an_interrupted_run_is_stopped_while_its_process_lives_on(
    sweep: Sweep, tmp_path: Path
) -> None:
    def interrupt(_: str, step: int, total: int) -> None:
        assert run_status(tmp_path, sweep.runs[2]).state == "running"
        if step == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        execute(sweep.runs[2], tmp_path, interrupt)
    assert run_status(tmp_path, sweep.runs[2]) == RunStatus("stopped", 0.5)


def test_a_sweep_is_read_back_as_it_was_saved(sweep: Sweep, tmp_path: Path) -> None:
    save_sweep(tmp_path, sweep)
    assert load_sweep(tmp_path, "three") == sweep


def test_a_list_with_other_runs_is_not_replaced_in_silence(sweep: Sweep, tmp_path: Path) -> None:
    assert not save_sweep(tmp_path, Sweep("three", "", sweep.runs[:1]))
    assert not save_sweep(tmp_path, sweep), "it has more runs and loses none"
    assert not save_sweep(tmp_path, Sweep("three", "other words", sweep.runs))
    said = save_sweep(tmp_path, Sweep("three", "", sweep.runs[2:]))
    assert said.startswith("three asked for 2 other runs before; their records stay")
    assert load_sweep(tmp_path, "three").runs == sweep.runs[2:]


def test_a_command_names_a_store_that_is_neither_the_default_nor_shipped(tmp_path: Path) -> None:
    assert store_option(tmp_path) == f" --store {tmp_path}"
    assert store_option(Path("obdbench-runs").resolve()) == store_option(SHIPPED) == ""


def test_an_unknown_sweep_is_answered_with_the_nearest(sweep: Sweep, tmp_path: Path) -> None:
    save_sweep(tmp_path, sweep)
    with pytest.raises(ObdBenchError, match=r"No sweep 'thre' .* Did you mean 'three'\?"):
        load_sweep(tmp_path, "thre")


def test_records_come_in_the_order_of_the_sweep_and_only_those_that_there_are(
    store: Path, sweep: Sweep
) -> None:
    turned = Sweep("turned", "", sweep.runs[::-1])
    ids = [record.run_id for record in sweep_records(store, turned)]
    assert ids == [sweep.runs[1].run_id, sweep.runs[0].run_id]
    assert {record.run_id for record in all_records(store)} == set(ids)


def test_a_record_that_was_cut_short_is_named_not_skipped(sweep: Sweep, tmp_path: Path) -> None:
    execute(sweep.runs[0], tmp_path)
    path = run_folder(tmp_path, sweep.runs[0]) / FILE
    path.write_text(path.read_text()[:-40])
    with pytest.raises(BadRecord, match=f"{path} is not JSON"):
        sweep_records(tmp_path, sweep)
    assert run_status(tmp_path, sweep.runs[0]) == RunStatus("failed", 1.0, "BadRecord")
    records, damaged = readable_records(tmp_path, sweep)
    assert records == []
    assert [message.startswith(f"{path} is not JSON") for message in damaged] == [True]

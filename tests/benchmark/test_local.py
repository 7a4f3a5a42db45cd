"""Runs in this process and in others: the same records, and what a dead process costs."""

from __future__ import annotations

import io
import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from filelock import Timeout

from benchmark import local_worker
from benchmark.errors import ObdBenchError
from benchmark.heartbeat import last_sign
from benchmark.local import _costly_first, execute_here, execute_in_processes
from benchmark.record import FILE, Record, read_record
from benchmark.registry import load_plugin
from benchmark.run import Conditions, _locked, existing_record, run_folder
from benchmark.spec import RunSpec
from results.record_store import run_status
from tests.tiny_runs import PLUGIN, execute, numbers, sets, tiny_spec

PLUGINS = (str(PLUGIN),)


@pytest.fixture(scope="module", autouse=True)
def misbehaving_methods() -> None:
    load_plugin(PLUGIN)


@pytest.fixture(scope="module")
def specs(small_dataset_name: str) -> list[RunSpec]:
    """Five runs: three that end well, and two that do not."""
    return [
        tiny_spec("random", small_dataset_name),
        tiny_spec("raises", small_dataset_name),
        tiny_spec("dbc", small_dataset_name),
        tiny_spec("silent", small_dataset_name),
        tiny_spec("dbc", small_dataset_name, seed=1),
    ]


@pytest.fixture(scope="module")
def inline(
    specs: list[RunSpec], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, list[Record]]:
    """The store and records of the five runs, done one after the other in this process."""
    store = tmp_path_factory.mktemp("inline")
    polls: list[int] = []
    execute_here(specs, Conditions(store, PLUGINS), lambda: polls.append(1))
    assert polls
    return store, records(store, specs)


class _Stop(Exception):
    pass


def records(store: Path, specs: list[RunSpec]) -> list[Record]:
    return [read_record(run_folder(store, spec) / FILE) for spec in specs]


def test_a_run_that_raises_does_not_stop_the_others(inline: tuple[Path, list[Record]]) -> None:
    statuses = [record.status for record in inline[1]]
    assert statuses == ["complete", "failed", "complete", "failed", "complete"]


def test_a_run_in_a_sweep_has_the_numbers_that_it_has_alone(
    specs: list[RunSpec], inline: tuple[Path, list[Record]], tmp_path: Path
) -> None:
    assert numbers(execute(specs[-1], tmp_path)) == numbers(inline[1][-1])


def test_local_processes_give_the_records_of_this_process(
    specs: list[RunSpec], inline: tuple[Path, list[Record]], tmp_path: Path
) -> None:
    polls: list[int] = []
    execute_in_processes(specs, Conditions(tmp_path, PLUGINS), 2, lambda: polls.append(1))
    local = records(tmp_path, specs)
    assert [numbers(r) for r in local] == [numbers(r) for r in inline[1]]
    assert [r.error and r.error.message for r in local] == [
        r.error and r.error.message for r in inline[1]
    ]
    for spec in specs:
        assert sets(tmp_path, spec) == sets(inline[0], spec)
    assert polls
    assert {r.provenance.threads for r in local} == {1}


def test_a_device_that_is_not_there_costs_no_run(small_dataset_name: str, tmp_path: Path) -> None:
    spec = tiny_spec("random", small_dataset_name)
    with pytest.raises(ObdBenchError, match="'tpu' is not a torch device"):
        execute_in_processes([spec], Conditions(tmp_path / "store", device="tpu"), 2)
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize("before", [None, "7"])
def test_bounds_on_threads_reach_new_processes_and_are_taken_back(
    before: str | None, small_dataset_name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if before is not None:
        monkeypatch.setenv("OMP_NUM_THREADS", before)
    environment = dict(os.environ)
    inherited: list[dict[str, str]] = []

    def look() -> None:
        assert dict(os.environ) == environment
        inherited.extend(p.environ() for p in psutil.Process().children())
        raise _Stop

    spec = tiny_spec("random", small_dataset_name)
    with pytest.raises(_Stop):
        execute_in_processes([spec], Conditions(tmp_path, threads=2), 1, look)
    bounds = [[e.get(f"{n}_NUM_THREADS") for n in ("OMP", "MKL", "OPENBLAS")] for e in inherited]
    assert ["2", "2", "2"] in bounds


def test_this_process_gets_its_threads_back(small_dataset_name: str, tmp_path: Path) -> None:
    before = torch.get_num_threads()
    spec = tiny_spec("random", small_dataset_name)
    execute_here([spec], Conditions(tmp_path, threads=before + 1))
    assert records(tmp_path, [spec])[0].provenance.threads == before + 1
    assert torch.get_num_threads() == before


def test_a_killed_process_costs_one_run_and_a_retry_goes_on_from_its_state(
    small_dataset_name: str, tmp_path: Path
) -> None:
    marker = tmp_path / "died"
    deadly = tiny_spec("dies_once", small_dataset_name, marker=str(marker))
    raises, good = (tiny_spec(name, small_dataset_name) for name in ("raises", "random"))
    store, whole = tmp_path / "store", tmp_path / "whole"

    # One process for all three, so that the two others wait behind the one that dies.
    conditions = Conditions(store, PLUGINS, save_every=0)
    execute_in_processes([deadly, raises, good], conditions, 1)
    died, raised, done = records(store, [deadly, raises, good])
    assert (raised.error.type, done.status) == ("ValueError", "complete")
    assert (died.status, died.error.type) == ("failed", "WorkerDied")
    assert "The process working on this run died" in died.error.message
    assert "the last words of this process" in died.error.message
    assert [c.outer_step for c in died.checkpoints] == [0, 2]
    assert died.cost.attempts == 1

    # It dies in the retry too: what is behind it is retried all the same.
    marker.unlink()
    execute_in_processes([deadly, raises], conditions, 1)
    died, raised = records(store, [deadly, raises])
    assert died.error.type == "WorkerDied"
    assert (died.cost.attempts, raised.cost.attempts) == (2, 2)

    again = execute(deadly, store)
    assert (again.status, again.cost.attempts) == ("complete", 3)
    assert numbers(again) == numbers(execute(deadly, whole))
    assert sets(store, deadly) == sets(whole, deadly)


def test_a_plugin_that_does_not_load_in_the_processes_is_in_every_record(
    small_dataset_name: str, tmp_path: Path
) -> None:
    broken = tmp_path / "broken.py"
    broken.write_text("raise ImportError('no such library')\n")
    spec = tiny_spec("random", small_dataset_name)
    execute_in_processes([spec], Conditions(tmp_path / "store", (str(broken),)), 1)
    record = records(tmp_path / "store", [spec])[0]
    assert record.error.type == "WorkerDied"
    assert "no such library" in record.error.message


def test_no_process_outlives_an_interrupt(small_dataset_name: str, tmp_path: Path) -> None:
    spec = tiny_spec("dbc", small_dataset_name, outer_steps=100_000)
    folder = run_folder(tmp_path, spec)
    workers: set[psutil.Process] = set()

    def stop_when_begun() -> None:
        if (sign := last_sign(folder)) and sign.step:
            workers.update(psutil.Process().children(recursive=True))
            assert run_status(tmp_path, spec).state == "running"
            raise _Stop

    before = set(psutil.Process().children(recursive=True))
    with pytest.raises(_Stop):
        execute_in_processes([spec], Conditions(tmp_path), 1, stop_when_begun)
    assert len(workers - before) == 1
    ended, _ = psutil.wait_procs(workers - before, timeout=10)
    assert len(ended) == 1
    assert existing_record(folder) is None
    assert run_status(tmp_path, spec).state == "stopped"


def test_a_worker_whose_method_hears_nothing_is_killed_when_its_pipe_ends(
    small_dataset_name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = tiny_spec("deaf", small_dataset_name)
    folder = run_folder(tmp_path, spec)
    told = os.open(os.devnull, os.O_WRONLY)
    begin = {"conditions": Conditions(tmp_path, PLUGINS).as_dict(), "done": told}
    work = [begin, {"runs": [spec.as_dict()], "before": {}}]
    monkeypatch.setattr(local_worker, "SECONDS_TO_SAVE", 1.0)
    monkeypatch.setattr(local_worker, "MARGIN_SECONDS", 0.0)
    read, write = os.pipe()
    if not (number := os.fork()):
        try:
            os.close(write)
            sys.stdin = io.TextIOWrapper(os.fdopen(read, "rb"))
            local_worker.main()
        finally:
            os._exit(1)
    os.close(read)
    os.write(write, b"".join(json.dumps(line).encode() + b"\n" for line in work))
    while last_sign(folder) is None:
        time.sleep(0.02)
    time.sleep(0.2)
    assert os.waitpid(number, os.WNOHANG) == (0, 0), "it ended while the pipe was open"
    assert run_status(tmp_path, spec).state == "running"
    os.close(write)
    # A sweep that begins now takes the run up, once this worker has let go of its lock.
    while run_status(tmp_path, spec).state != "stopped":
        assert os.waitpid(number, os.WNOHANG) == (0, 0), "it was left to a worker that ended"
        time.sleep(0.02)
    with pytest.raises(Timeout), _locked(tmp_path, [spec]):
        pass
    assert os.waitstatus_to_exitcode(os.waitpid(number, 0)[1]) == -signal.SIGKILL


@pytest.mark.parametrize("jobs", [0, 1])
def test_a_run_that_fails_in_another_shell_meanwhile_is_left_alone(
    jobs: int, small_dataset_name: str, tmp_path: Path
) -> None:
    """It fails while this shell works on the run before it, here (0) or in a process."""
    marker, store = tmp_path / "marker", tmp_path / "store"
    first = tiny_spec("waits_for", small_dataset_name, marker=str(marker))
    raises = tiny_spec("raises", small_dataset_name)

    def other_shell() -> None:
        if not marker.exists():
            execute(raises, store)
            marker.touch()

    if jobs:
        execute_in_processes([first, raises], Conditions(store, PLUGINS), jobs, other_shell)
    else:
        first = tiny_spec("random", small_dataset_name)
        execute_here([first, raises], Conditions(store, PLUGINS), other_shell)
    done, failed = records(store, [first, raises])
    assert (done.status, failed.status, failed.cost.attempts) == ("complete", "failed", 1)


@pytest.mark.parametrize("last", [False, True])
def test_no_process_waits_while_there_is_work(
    last: bool, small_dataset_name: str, tmp_path: Path
) -> None:
    """One run waits for another's file, whichever of the two others that is."""
    marker = str(tmp_path / "marker")
    waits = tiny_spec("waits_for", small_dataset_name, marker=marker)
    leaves = tiny_spec("leaves", small_dataset_name, marker=marker)
    others = [tiny_spec("raises", small_dataset_name), leaves]
    runs = [waits, *(others if last else reversed(others))]
    execute_in_processes(runs, Conditions(tmp_path / "store", PLUGINS), 2)
    made = dict(zip((run.method for run in runs), records(tmp_path / "store", runs), strict=True))
    assert {name: record.status for name, record in made.items()} == {
        "waits_for": "complete", "leaves": "complete", "raises": "failed",
    }  # fmt: skip


def test_what_costs_most_is_begun_first() -> None:
    """Else the last process would still be at it when the others have long ended."""

    def runs(method: str, count: int, **parameters: Any) -> list[RunSpec]:
        return [tiny_spec(method, "hopper/medium", seed=s, **parameters) for s in range(count)]

    cheap = runs("random", 3)
    small, large = (runs("dbc", 2, synthetic_size=size) for size in (4, 64))
    more = runs("dbc", 3, synthetic_size=64)
    unknown = runs("raises", 1)
    assert _costly_first([cheap, small, large, unknown, more]) == [
        unknown, more, large, small, cheap,
    ]  # fmt: skip

"""A job and its signals: it saves, is queued again, goes on to the same numbers; or gives up."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmark.registry import load_plugin
from benchmark.run import Conditions, existing_record, run_folder
from benchmark.spec import RunSpec
from benchmark.stopping import END, WARNING, Stopped, StopRequest, stopped_by_signals
from slurm.job import QUEUED_AGAIN, Command, Job, _insist, main
from tests.tiny_runs import PLUGIN, execute, numbers, sets, tiny_spec

GRACE = 20


@pytest.fixture(scope="module", autouse=True)
def plugin() -> None:
    load_plugin(PLUGIN)


def job(store: Path, runs: list[RunSpec], *, grace: int = GRACE, requeues: int = 5) -> Job:
    conditions = Conditions(store, (str(PLUGIN),), save_every=3600.0)
    return Job([run.as_dict() for run in runs], conditions.as_dict(), grace, requeues)


@pytest.fixture(autouse=True)
def requeued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What a stand-in for scontrol was asked for."""
    asked = tmp_path / "asked"
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "scontrol").write_text(f'#!/bin/sh\necho "$@" >> "{asked}"\n')
    (tmp_path / "bin" / "scontrol").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    return asked


def in_a_process(work: Job | Command, pause: float, restarts: int = 0) -> multiprocessing.Process:
    """The job as the second element of an array has it."""

    def act() -> None:
        os.environ.update(
            OBDBENCH_TEST_PAUSE=str(pause), SLURM_RESTART_COUNT=str(restarts), SLURM_JOB_ID="8",
            SLURM_ARRAY_JOB_ID="7", SLURM_ARRAY_TASK_ID="1",
        )  # fmt: skip
        work()

    process = multiprocessing.get_context("fork").Process(target=act)
    process.start()
    return process


def signalled(
    work: Job, run: RunSpec, *numbers: int, pause: float = 0.2, restarts: int = 0
) -> int | None:
    """How a job ends that gets signals, one after the other, once its run is some steps on."""
    process = in_a_process(work, pause, restarts)
    folder = run_folder(Path(work.conditions["store"]), run)
    deadline = time.monotonic() + 60
    while not (folder / "set-00000002.safetensors").exists():
        assert time.monotonic() < deadline and process.is_alive()
        time.sleep(0.05)
    assert process.pid is not None
    for number in numbers:
        os.kill(process.pid, number)
    process.join(60)
    return process.exitcode


@pytest.mark.parametrize("count", [1, 3])
def test_a_warned_job_saves_every_run_and_asks_to_be_queued_again(
    count: int, small_dataset_name: str, tmp_path: Path, requeued: Path
) -> None:
    runs = [tiny_spec("slow", small_dataset_name, outer_steps=30, seed=s) for s in range(count)]
    work = job(tmp_path / "job", runs)
    assert signalled(work, runs[-1], WARNING) == QUEUED_AGAIN
    assert requeued.read_text() == "requeue 7_1\n"
    for run in runs:
        folder = run_folder(tmp_path / "job", run)
        assert (folder / "state.safetensors").exists()
        assert existing_record(folder) is None
    again = in_a_process(work, pause=0, restarts=1)
    again.join(60)
    assert again.exitcode == 0
    for run in runs:
        record = existing_record(run_folder(tmp_path / "job", run))
        assert record is not None
        assert record.cost.attempts == 2
        assert numbers(record) == numbers(execute(run, tmp_path / "whole"))
        assert sets(tmp_path / "job", run) == sets(tmp_path / "whole", run)


def test_a_run_that_failed_is_not_done_again_at_the_jobs_next_start(
    small_dataset_name: str, tmp_path: Path
) -> None:
    raises = tiny_spec("raises", small_dataset_name)
    slow = tiny_spec("slow", small_dataset_name, outer_steps=30)
    work = job(tmp_path, [raises, slow])
    assert signalled(work, slow, WARNING) == QUEUED_AGAIN
    again = in_a_process(work, pause=0, restarts=1)
    again.join(60)
    assert again.exitcode == 0
    failed, done = (existing_record(run_folder(tmp_path, run)) for run in (raises, slow))
    assert failed is not None and done is not None
    assert (failed.error.type, failed.cost.attempts) == ("ValueError", 1)
    assert (done.status, done.cost.attempts) == ("complete", 2)


WARNED_ON_LOADING = f"""
import os, sys
from pathlib import Path
class Warns:
    def find_spec(self, name, path, target=None):
        if name == "slurm.job":
            os.kill(os.getpid(), {int(WARNING)})
sys.meta_path.insert(0, Warns())
from slurm.start import main
main(Path(sys.argv[1]))
"""


def test_a_warning_while_a_job_is_loaded_waits_for_it(
    small_dataset_name: str, tmp_path: Path, requeued: Path
) -> None:
    """The process is warned as it begins to import what does the work."""
    run = tiny_spec("slow", small_dataset_name, outer_steps=30)
    job(tmp_path, [run]).write(tmp_path, 0)
    environment = {k: v for k, v in os.environ.items() if not k.startswith("SLURM_ARRAY")}
    done = subprocess.run(
        [sys.executable, "-c", WARNED_ON_LOADING, str(tmp_path)],
        env={**environment, "OBDBENCH_TEST_PAUSE": "0.2", "SLURM_JOB_ID": "7"},
        timeout=60,
        check=False,
    )
    assert done.returncode == QUEUED_AGAIN
    assert requeued.read_text() == "requeue 7\n"
    assert existing_record(run_folder(tmp_path, run)) is None


@pytest.mark.parametrize("signals", [(END,), (WARNING, END)])
def test_a_cancelled_job_saves_and_is_not_queued_again(
    signals: tuple[int, ...], small_dataset_name: str, tmp_path: Path, requeued: Path
) -> None:
    """Cancelled while it works, or while it saves after a warning."""
    run = tiny_spec("slow", small_dataset_name, outer_steps=30)
    assert signalled(job(tmp_path, [run]), run, *signals, pause=1.0) == 128 + END
    assert not requeued.exists()
    assert (run_folder(tmp_path, run) / "state.safetensors").exists()


def test_a_job_queued_again_too_often_is_a_row_and_keeps_its_state(
    small_dataset_name: str, tmp_path: Path
) -> None:
    run = tiny_spec("slow", small_dataset_name, outer_steps=30)
    assert signalled(job(tmp_path, [run], requeues=2), run, WARNING, restarts=2) == 0
    record = existing_record(run_folder(tmp_path, run))
    assert record is not None
    assert (record.status, record.error.type) == ("failed", "TimedOut")
    assert "raise `time` or `requeues`" in record.error.message
    assert (run_folder(tmp_path, run) / "state.safetensors").exists()


def test_giving_up_leaves_the_records_of_runs_that_ended_by_themselves(
    small_dataset_name: str, tmp_path: Path
) -> None:
    """A job of three packs: done, failed by itself, and too slow."""
    done, raises = (tiny_spec(name, small_dataset_name) for name in ("random", "raises"))
    slow = tiny_spec("slow", small_dataset_name, outer_steps=30)
    work = job(tmp_path, [done, raises, slow], requeues=2)
    assert signalled(work, slow, WARNING, restarts=2) == 0
    records = [existing_record(run_folder(tmp_path, run)) for run in (done, raises, slow)]
    assert [r and r.error and r.error.type for r in records] == [None, "ValueError", "TimedOut"]


def test_a_job_is_read_from_its_file_by_its_place_in_the_array(
    small_dataset_name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a folder with every symbol of SLURM's names of files."""
    folder = tmp_path / "100% %j %A_%a"
    folder.mkdir()
    runs = [tiny_spec("random", small_dataset_name, seed=seed) for seed in range(2)]
    for place, run in enumerate(runs):
        job(tmp_path, [run]).write(folder, place)
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "1")
    main(folder)
    written = [existing_record(run_folder(tmp_path, run)) is not None for run in runs]
    assert written == [False, True]


def test_a_step_longer_than_the_grace_is_left_where_it_is(
    small_dataset_name: str, tmp_path: Path
) -> None:
    """The next start goes on from the last save, here none."""
    run = tiny_spec("slow", small_dataset_name, outer_steps=30)
    began = time.monotonic()
    work = job(tmp_path, [run], grace=1)
    process = in_a_process(work, pause=3600)
    folder = run_folder(tmp_path, run)
    while not (folder / "alive.json").exists():
        time.sleep(0.05)
    time.sleep(1)
    assert process.pid is not None
    os.kill(process.pid, WARNING)
    process.join(60)
    assert process.exitcode == QUEUED_AGAIN
    assert time.monotonic() - began < 60
    assert existing_record(folder) is None


def test_signals_are_given_back(tmp_path: Path) -> None:
    before = [signal.getsignal(number) for number in (WARNING, END, signal.SIGALRM)]
    stop = StopRequest()
    with pytest.raises(Stopped), stopped_by_signals(stop, 60) as came:
        os.kill(os.getpid(), WARNING)
        stop.check()
    assert came == [WARNING]
    assert [signal.getsignal(number) for number in (WARNING, END, signal.SIGALRM)] == before
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)


def test_a_controller_that_is_away_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("slurm.job.ASK_AGAIN_SECONDS", 0.01)
    asked: list[int] = []

    def request() -> None:
        asked.append(1)
        if len(asked) < 3:
            raise subprocess.CalledProcessError(1, "scontrol")

    _insist(request, seconds=10)
    assert len(asked) == 3
    asked.clear()
    with pytest.raises(subprocess.CalledProcessError):
        _insist(request, seconds=0)
    assert len(asked) == 1


# --- commands -------------------------------------------------------------------------------------
@pytest.mark.parametrize(("restarts", "asked"), [(0, "requeue 7_1\n"), (5, "")])
def test_a_command_that_is_warned_is_ended_and_queued_again(
    restarts: int, asked: str, tmp_path: Path, requeued: Path
) -> None:
    began = tmp_path / "began"
    work = Command(["sh", "-c", f"echo $$ > {began}; exec sleep 60"], requeues=5)
    process = in_a_process(work, 0, restarts)
    deadline = time.monotonic() + 60
    while not (began.exists() and began.read_text()):
        assert time.monotonic() < deadline and process.is_alive()
        time.sleep(0.02)
    assert process.pid is not None
    os.kill(process.pid, WARNING)
    process.join(60)
    assert process.exitcode == (QUEUED_AGAIN if asked else 1)
    assert (requeued.read_text() if requeued.exists() else "") == asked
    with pytest.raises(ProcessLookupError):
        os.kill(int(began.read_text()), 0)


def test_a_warning_while_the_command_starts_ends_it(
    requeued: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = subprocess.Popen

    def slow(words: list[str]) -> subprocess.Popen[bytes]:
        process = real(words)
        os.kill(os.getpid(), WARNING)
        return process

    monkeypatch.setattr("slurm.job.subprocess.Popen", slow)
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.delenv("SLURM_ARRAY_JOB_ID", raising=False)
    monkeypatch.delenv("SLURM_RESTART_COUNT", raising=False)
    monkeypatch.setattr("slurm.job._insist", lambda request, seconds: None)
    before = signal.signal(WARNING, signal.SIG_IGN)
    try:
        with pytest.raises(SystemExit) as ended:
            Command(["sleep", "60"], requeues=5)()
    finally:
        signal.signal(WARNING, before)
    assert ended.value.code == QUEUED_AGAIN


@pytest.mark.parametrize(("line", "status"), [("exit 0", 0), ("exit 3", 3), ("kill -9 $$", 137)])
def test_a_commands_status_is_the_jobs(
    line: str, status: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Command(["sh", "-c", line], requeues=5).write(tmp_path, 0)
    monkeypatch.delenv("SLURM_ARRAY_TASK_ID", raising=False)
    before = signal.getsignal(WARNING)
    try:
        with pytest.raises(SystemExit) as ended:
            main(tmp_path)
    finally:
        signal.signal(WARNING, before)
    assert ended.value.code == status

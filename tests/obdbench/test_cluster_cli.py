"""`submit`, `plan`, `collect`, `cancel`, shares: what they print and refuse."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from benchmark.stopping import WARNING
from tests.obdbench.conftest import Result
from tests.slurm.fake_scheduler import FakeScheduler, fake_sbatch, taken
from tests.tiny_runs import PLUGIN


@pytest.fixture
def scheduler(monkeypatch: pytest.MonkeyPatch) -> FakeScheduler:
    """The one that every command finds."""
    found = FakeScheduler()
    monkeypatch.setattr("slurm.cluster.Scheduler", lambda: found)
    monkeypatch.setattr("obdbench.cli.cluster.Scheduler", lambda: found)
    return found


@pytest.fixture
def journal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return fake_sbatch(tmp_path / "bin", monkeypatch)


def test_a_dry_run_prints_what_would_be_sent_and_sends_nothing(
    cli: Any, sweep_file: Path, scheduler: FakeScheduler, journal: Path, record_store: Path
) -> None:
    result: Result = cli("submit", sweep_file, "--dry-run")
    assert result.code == 0
    assert "2 runs in 2 jobs, 1 array would be submitted" in result.out
    assert "2 jobs (1 run each), 100 at a time; cpus 1, memory 4G, time 4:00:00" in result.out
    assert "export OMP_NUM_THREADS=1" in result.out
    assert "2 runs to do, about 0.00 CPU hours" in result.out
    assert not journal.read_text()
    assert not record_store.exists()


def test_submitting_returns_at_once_and_the_rest_is_done_from_anywhere(
    cli: Any, sweep_file: Path, scheduler: FakeScheduler, journal: Path, record_store: Path
) -> None:
    sent = cli("submit", sweep_file)
    assert "2 runs in 2 jobs, 1 array submitted" in sent.out
    assert f"obdbench status tiny --store {record_store}" in sent.err
    scheduler.jobs = taken(journal)
    status = cli("status", "tiny")
    assert "2 queued" in status.out
    assert "Queued: 2 Priority" in status.out
    assert "2 queued, 0 to do" in cli("submit", sweep_file).err
    collected = cli("collect", "tiny")
    assert (collected.code, "2 runs are still queued or running" in collected.err) == (0, True)
    assert "2 runs were cancelled" in cli("cancel", "tiny").err
    collected = cli("collect", "tiny")
    assert collected.code == 3
    assert collected.err.count(": Cancelled") == 2
    assert "2 failed" in cli("status", "tiny").out
    again = cli("submit", sweep_file, "--retry", "failed")
    assert "2 runs in 2 jobs" in again.out
    scheduler.answers = False
    assert "What is queued is not known: `squeue` failed" in cli("status", "tiny").out
    assert cli("collect", "tiny").code == 1


def test_waiting_stays_until_the_jobs_are_gone(
    cli: Any, sweep_file: Path, scheduler: FakeScheduler, journal: Path
) -> None:
    """At first there is no room; then the runs are sent, and their jobs vanish."""
    sbatch = journal.parent / "sbatch"
    taking = sbatch.read_text()
    full = f"test -e {journal}.seen || {{ touch {journal}.seen; echo temporarily >&2; exit 1; }}"
    sbatch.write_text(taking.replace("#!/bin/sh", f"#!/bin/sh\n{full}"))
    result = cli("submit", sweep_file, "--wait", "--poll", "0.01")
    assert result.code == 3
    assert result.err.count(": Vanished") == 2
    assert len(journal.read_text().splitlines()) == 1


def test_a_plan_is_counted_until_its_own_cells_are_measured(
    cli: Any, sweep_file: Path, scheduler: FakeScheduler
) -> None:
    before = cli("plan", sweep_file, "--profile", "cpu")
    assert re.search(r"│ counted +│ cpu", before.out)
    assert "Counted hours are those of one core of this machine (" in before.out
    assert "2 runs in 2 jobs, 1 array to submit" in before.out
    cli("sweep", sweep_file, "--share", "0/2")
    between = cli("plan", sweep_file)
    assert "measured here (1 records)" in between.out
    assert "1 runs to do, about 0.00 CPU hours" in between.out


def test_rates_are_measured_once_and_anew_when_asked(
    cli: Any, sweep_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OBDBENCH_CACHE", str(tmp_path / "cache"))
    rates = tmp_path / "cache" / "rates.json"
    cli("plan", sweep_file)
    first = rates.read_bytes()
    cli("plan", sweep_file)
    assert rates.read_bytes() == first
    cli("plan", sweep_file, "--measure")
    assert rates.read_bytes() != first


def test_what_was_never_measured_is_said_to_be_unknown(cli: Any, tmp_path: Path) -> None:
    path = tmp_path / "published.toml"
    path.write_text(
        'name = "p"\ndatasets = ["hopper/medium"]\nseeds = 3\n[[methods]]\nname = "sdr"\n'
    )
    result = cli("plan", path)
    assert "?" in result.out and "0.00" not in result.out
    assert "3 runs to do, about 3 runs of unknown cost" in result.out
    assert "The cost of 3 of them is unknown: their method does not count" in result.out


def test_a_device_of_unknown_speed_is_never_free(cli: Any, tmp_path: Path) -> None:
    (tmp_path / "gpu.toml").write_text('gpus = 1\ndevice = "cuda"\n')
    path = tmp_path / "published.toml"
    path.write_text('name = "p"\ndatasets = ["hopper/medium"]\n[[methods]]\nname = "dbc"\n')
    result = cli("plan", path, "--profile", str(tmp_path / "gpu.toml"))
    assert "1 runs to do, about 1 runs of unknown cost" in result.out
    assert "GPU hours" not in result.out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--jobs", "2", "--share", "0/2"), "--jobs is 2; expected 1, since a share is done in"),
        (("--share", "2/2"), "--share is '2/2'; expected a place"),
        (("--share", "half"), "--share is 'half'; expected a place"),
    ],
)
def test_shares_that_do_not_exist_are_refused(
    cli: Any, sweep_file: Path, options: tuple[str, ...], message: str
) -> None:
    result = cli("sweep", sweep_file, *options)
    assert result.code == 1
    assert message in " ".join(result.err.split())


def test_an_unknown_profile_is_answered_with_the_nearest(cli: Any, sweep_file: Path) -> None:
    result = cli("submit", sweep_file, "--profile", "cpuu")
    assert result.code == 1
    assert "No profile is called 'cpuu'" in result.err


def test_shares_make_up_the_whole(cli: Any, sweep_file: Path) -> None:
    for place in range(3):
        assert cli("sweep", sweep_file, "--share", f"{place}/3").code == 0
    assert "2 done" in cli("status", "tiny").out


def test_a_warned_process_saves_and_says_so_by_its_status(
    cli: Any, small_dataset_name: str, record_store: Path, tmp_path: Path
) -> None:
    """What a plain array script goes by."""
    toml = tmp_path / "slow.toml"
    toml.write_text(
        f'name = "slow"\ndatasets = ["{small_dataset_name}"]\n'
        'protocol = { name = "t", students = 2, episodes = 2, checkpoint_every = 2, last = 2 }\n'
        "student = { width = 8, depth = 2, steps = 4 }\n[[methods]]\n"
        'name = "slow"\nsynthetic_size = 4\nouter_batch = 8\nouter_steps = 30\n'
    )
    command = ["--plugin", str(PLUGIN), "sweep", str(toml), "--jobs", "1"]
    process = subprocess.Popen(
        [sys.executable, "-m", "obdbench", *command],
        env={**os.environ, "OBDBENCH_TEST_PAUSE": "0.2"},
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 90
    while not list(record_store.glob("*/seed0/set-00000002.safetensors")):
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.1)
    process.send_signal(WARNING)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 75
    assert "The same command goes on from here" in errors
    assert list(record_store.glob("*/seed0/state.safetensors"))
    again = cli(*command)
    assert again.code == 0, again.err
    assert not list(record_store.glob("*/seed0/state.safetensors"))

"""`submit`, `plan`, `collect`, `cancel`, shares: what they print and refuse."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from benchmark.run import Conditions, execute
from benchmark.spec import RunSpec
from benchmark.stopping import WARNING
from obdbench.cli import console
from obdbench.cli.options import find_sweep
from obdbench.cli.runs import _share
from slurm.cluster import Cluster, QueueFull, Sent
from tests.obdbench.conftest import Result
from tests.slurm.fake_scheduler import FakeScheduler, fake_sbatch, taken
from tests.tiny_runs import PLUGIN


@pytest.fixture
def scheduler(monkeypatch: pytest.MonkeyPatch) -> FakeScheduler:
    """The one that every command finds."""
    found = FakeScheduler()
    monkeypatch.setattr("slurm.live_jobs.Scheduler", lambda: found)
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
    assert "2 runs in 1 job, 1 array would be submitted" in result.out
    assert "1 job (2 runs each), less than a minute each, 100 at a time; cpus 1" in result.out
    assert "export OMP_NUM_THREADS=1" in result.out
    assert "2 runs to do, about 0.00 CPU hours" in result.out
    assert not journal.read_text()
    assert not record_store.exists()


def test_submitting_returns_at_once_and_the_rest_is_done_from_anywhere(
    cli: Any, sweep_file: Path, scheduler: FakeScheduler, journal: Path, record_store: Path
) -> None:
    sent = cli("submit", sweep_file)
    assert "2 runs in 1 job, 1 array submitted" in sent.out
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
    assert "2 runs in 1 job" in again.out
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


def test_waiting_for_room_sends_only_what_has_no_record_yet(
    cli: Any, sweep_file: Path, scheduler: FakeScheduler, record_store: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """A job of an earlier call ends while the queue is full: its runs are not sent again."""
    asked: list[int] = []
    real = Cluster.submit

    def submit(self: Cluster, sweep: str, runs: Sequence[RunSpec], *rest: Any) -> Sent:
        asked.append(len(runs))
        if len(asked) == 1:
            execute(runs[:1], Conditions(record_store))
            raise QueueFull("no room.")
        return real(self, sweep, runs, *rest)

    monkeypatch.setattr(Cluster, "submit", submit)
    cli("submit", sweep_file, "--wait", "--poll", "0.01")
    assert asked == [2, 1]


def put(folder: Path, name: str, lines: str) -> None:
    """A program of shell lines, before everything else on the path."""
    (folder / name).write_text(f"#!/bin/sh\n{lines}\n")
    (folder / name).chmod(0o755)


@pytest.mark.parametrize("away", ["missing", "silent"])
def test_without_an_answer_of_slurm_every_command_says_so_in_one_sentence(
    cli: Any, sweep_file: Path, journal: Path, monkeypatch: pytest.MonkeyPatch, away: str
) -> None:
    """After a submission; nothing is called dead, and what is there is shown."""
    for name in ("squeue", "scontrol"):
        put(journal.parent, name, "exit 0")
    assert cli("submit", sweep_file).code == 0
    if away == "missing":
        monkeypatch.setenv("PATH", str(journal.parent / "nowhere"))
        sentence = "No SLURM was found"
    else:
        for name in ("squeue", "sacct", "scontrol", "sbatch", "scancel"):
            put(journal.parent, name, f"echo '{name}: error: Unable to contact' >&2; exit 1")
        sentence = "Unable to contact"
    status = cli("status", "tiny")
    assert status.code == 0
    assert f"What is queued is not known: {'No SLURM' if away == 'missing' else '`squeue`'}" in (
        status.out
    )
    collected = cli("collect", "tiny")
    assert collected.code == 1
    assert "table.md" in collected.out
    for command in (("submit", sweep_file), ("cancel", "tiny"), ("collect", "tiny")):
        result = cli(*command)
        assert (result.code, result.err.count(sentence)) == (1, 1), result.err
        assert ("obdbench sweep" in result.err) == (away == "missing")
    if away == "missing":
        for command in (("submit", sweep_file), ("collect", "tiny")):
            result = cli(*command, "--wait", "--poll", "0.01")
            assert (result.code, result.err.count(sentence)) == (1, 1), result.err
    assert cli("status", "tiny", "--json").out.count('"error": null') == 2
    assert cli("submit", sweep_file, "--dry-run").code == 0


def test_lines_that_are_no_jobs_are_counted_and_nobody_is_called_dead(
    cli: Any, sweep_file: Path, journal: Path
) -> None:
    put(journal.parent, "scontrol", "exit 0")
    put(
        journal.parent,
        "squeue",
        f'echo; echo "*** Maintenance | Monday ***"\n'
        f"while read name last; do for i in $(seq 0 $last); do\n"
        f'echo "$name|$i|BEAMING_UP|a | b[/x]||12_$i"; done; done < {journal}',
    )
    assert cli("submit", sweep_file).code == 0
    remark = "2 lines of `squeue` could not be read and were skipped."
    status, collected = cli("status", "tiny"), cli("collect", "tiny")
    assert (status.code, status.err.count(remark)) == (0, 1)
    assert "Queued: 2 a | b[/x]" in status.out
    assert (collected.code, collected.err.count(remark)) == (0, 1)
    assert "2 runs are still queued or running" in collected.err
    assert f'"remarks": [\n  "{remark}"' in cli("status", "tiny", "--json").out


@pytest.mark.parametrize("size", [0, 1])
def test_a_site_without_arrays_gets_single_jobs(
    cli: Any, sweep_file: Path, journal: Path, tmp_path: Path, size: int
) -> None:
    put(journal.parent, "scontrol", f"echo 'MaxArraySize            = {size}'")
    put(journal.parent, "squeue", "exit 0")
    profile = tmp_path / "p.toml"
    profile.write_text("group_minutes = 0\n")
    sent = cli("submit", sweep_file, "--profile", profile)
    assert sent.code == 0, sent.err
    assert "This SLURM takes no job arrays" in sent.out
    assert "array 0: 2 jobs (1 run each), less than a minute each, 2 at a time" in sent.out
    assert [line.split()[1] for line in journal.read_text().splitlines()] == ["0", "0"]


def test_variables_that_would_go_before_the_profile_are_named_and_not_used(
    cli: Any,
    sweep_file: Path,
    scheduler: FakeScheduler,
    journal: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SBATCH_PARTITION", "elsewhere")
    said = cli("submit", sweep_file).err
    assert "Not used: SBATCH_PARTITION. What jobs ask for stands in the profile." in said


def test_a_shape_without_any_measured_run_says_so(
    cli: Any, small_dataset_name: str, scheduler: FakeScheduler, journal: Path, tmp_path: Path
) -> None:
    path = tmp_path / "new.toml"
    path.write_text(
        f'name = "new"\ndatasets = ["{small_dataset_name}"]\n[[methods]]\nname = "deaf"\n'
    )
    result = cli("--plugin", PLUGIN, "submit", path)
    assert "expected minutes unknown (their method does not count its work)" in result.out, (
        result.err
    )


def test_a_plan_is_counted_until_its_own_cells_are_measured(
    cli: Any, sweep_file: Path, scheduler: FakeScheduler
) -> None:
    before = cli("plan", sweep_file, "--profile", "cpu")
    assert re.search(r"│ counted +│ cpu", before.out)
    assert "Counted hours are those of one core of this machine (" in before.out
    assert "2 runs in 1 job, 1 array to submit" in before.out
    cli("sweep", sweep_file, "--share", "0/2")
    between = cli("plan", sweep_file)
    assert "measured here (1 records)" in between.out
    assert "1 runs to do, about 0.00 CPU hours" in between.out


def test_a_plan_on_a_narrow_terminal_names_every_dataset(
    cli: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [f"halfcheetah/medium{end}" for end in ("", "-replay", "-expert")]
    path = tmp_path / "wide.toml"
    path.write_text(f'name = "p"\ndatasets = {names}\n[[methods]]\nname = "dbc"\n')
    monkeypatch.setattr(console.out, "width", 80)
    result = cli("plan", path)
    rows = [line.split("│")[2].strip() for line in result.out.splitlines() if "│" in line]
    assert "".join(rows) == "".join(names)


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


@pytest.mark.parametrize("device", ["cuda", "cuda:0+tf32"])
def test_a_device_of_unknown_speed_is_never_free(cli: Any, device: str, tmp_path: Path) -> None:
    (tmp_path / "gpu.toml").write_text(f'gpus = 1\ndevice = "{device}"\n')
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


def test_runs_of_the_same_sets_are_in_one_share(cli: Any, sweep_file: Path) -> None:
    """Distilled at the same time in several, they would be distilled several times."""
    text = sweep_file.read_text()
    sweep_file.write_text(f"{text}grid.protocol.episodes = [1, 2, 3]\n".replace(
        "grid.protocol.episodes", 'grid."protocol.episodes"'))  # fmt: skip
    plan = find_sweep(str(sweep_file), Path("none"))
    shares = [_share(plan, list(plan.runs), f"{place}/3") for place in range(3)]
    assert sum(map(len, shares)) == len(plan.runs) == 6
    assert sorted(len({run.distillation_id for run in share}) for share in shares) == [0, 1, 1]


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
    try:
        while not list(record_store.glob("*/seed0/set-00000002.safetensors")):
            assert time.monotonic() < deadline and process.poll() is None
            time.sleep(0.1)
        process.send_signal(WARNING)
        _, errors = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 75
    assert "The same command goes on from here" in errors
    assert list(record_store.glob("*/seed0/state.safetensors"))
    again = cli(*command)
    assert again.code == 0, again.err
    assert not list(record_store.glob("*/seed0/state.safetensors"))

"""What SLURM's commands print is read as it is meant; commands that fail say so."""

from __future__ import annotations

from pathlib import Path

import pytest

from slurm.answers import Answer, JobKey, JobState
from slurm.scheduler import Scheduler, Unreachable

SQUEUE = """\
obd.a.1|0|RUNNING|None|n1|12_0
obd.a.1|1|PENDING|Resources||12_1
obd.a.1|2|COMPLETED|None|n1|12_2
obd.b.2|N/A|PENDING|ReqNodeNotAvail, May be reserved for other job||13
obd.b.3|0|PENDING|launch failed requeued held||14_0
"""
SACCT = """\
obd.a.1|12_0|COMPLETED|0:0|n1
obd.a.1|12_1|CANCELLED by 0|0:0|n2
obd.a.1|12_[2-9%4]|PENDING|0:0|None assigned
obd.b.2|13|FAILED|0:9|n1
"""


@pytest.fixture
def commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder whose programs are all that there is."""
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    return tmp_path


def put(folder: Path, name: str, prints: str, status: int = 0) -> Path:
    """A program that notes its arguments and prints something."""
    (folder / f"{name}.out").write_text(prints)
    path = folder / name
    path.write_text(
        f'#!/bin/sh\necho "$@" > {folder}/{name}.arguments\n'
        f"cat {folder}/{name}.out{' >&2' if status else ''}\nexit {status}\n"
    )
    path.chmod(0o755)
    return folder / f"{name}.arguments"


def test_the_queue_is_one_query_for_all_arrays(commands: Path) -> None:
    arguments = put(commands, "squeue", SQUEUE)
    jobs = Scheduler().queue(["obd.a.1", "obd.b.2", "obd.b.3"]).jobs
    assert "--name=obd.a.1,obd.b.2,obd.b.3" in arguments.read_text()
    assert jobs[JobKey("obd.a.1", 0)] == JobState("RUNNING", node="n1", number="12_0")
    assert jobs[JobKey("obd.a.1", 1)] == JobState("PENDING", "Resources", number="12_1")
    assert jobs[JobKey("obd.b.2", 0)].reason.startswith("ReqNodeNotAvail")
    assert [state.ended for state in jobs.values()] == [False, False, True, False, True]


def test_the_history_holds_jobs_that_began_or_ended(commands: Path) -> None:
    put(commands, "sacct", SACCT)
    jobs = Scheduler().history(["obd.a.1", "obd.b.2"]).jobs
    assert jobs == {
        JobKey("obd.a.1", 0): JobState("COMPLETED", "", "n1", "0:0"),
        JobKey("obd.a.1", 1): JobState("CANCELLED", "", "n2", "0:0"),
        JobKey("obd.b.2", 0): JobState("FAILED", "", "n1", "0:9"),
    }


def test_a_site_without_accounting_has_no_history(commands: Path) -> None:
    put(commands, "sacct", "Slurm accounting storage is disabled", status=1)
    assert Scheduler().history(["obd.a.1"]) == Answer()


def test_a_controller_that_does_not_answer_is_an_error_of_its_own(commands: Path) -> None:
    put(commands, "squeue", "slurm_load_jobs error: Unable to contact slurm controller", status=1)
    with pytest.raises(Unreachable, match=r"`squeue` failed: .*Unable to contact"):
        Scheduler().queue(["obd.a.1"])


def test_a_machine_without_slurm_is_told_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(
        Unreachable, match="No SLURM was found: `squeue` is not on this machine.*obdbench sweep"
    ):
        Scheduler().queue(["obd.a.1"])
    assert Scheduler().queue([]) == Answer()


@pytest.mark.parametrize(
    ("config", "size"), [("MaxArraySize            = 4001\n", 4001), ("AuthType = x\n", 1001)]
)
def test_the_largest_array_is_asked_for(commands: Path, config: str, size: int) -> None:
    put(commands, "scontrol", config)
    assert Scheduler().max_array_size() == size

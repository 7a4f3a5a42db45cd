"""What SLURM's commands print is read as it is meant; commands that fail say so."""

from __future__ import annotations

import contextlib
import json
import random
from collections.abc import Sequence
from pathlib import Path

import pytest

from slurm.answers import (
    Answer,
    JobKey,
    JobState,
    read_history_entry,
    read_history_line,
    read_json,
    read_lines,
    read_queue_entry,
    read_queue_line,
)
from slurm.scheduler import NoSlurm, Scheduler, Unreachable, UnreadableAnswer

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
    scheduler = Scheduler()
    assert scheduler.history(["obd.a.1"]) == Answer()
    assert scheduler.remarks() == [
        "The accounting does not answer, so causes come from the queue and the logs "
        "(`sacct` failed: Slurm accounting storage is disabled)."
    ]


def test_a_controller_that_does_not_answer_is_an_error_of_its_own(commands: Path) -> None:
    put(commands, "squeue", "slurm_load_jobs error: Unable to contact slurm controller", status=1)
    with pytest.raises(Unreachable, match=r"`squeue` failed: .*Unable to contact"):
        Scheduler().queue(["obd.a.1"])


def test_a_machine_without_slurm_is_told_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(NoSlurm, match=r"No SLURM was found: `squeue` is not .*obdbench sweep"):
        Scheduler().queue(["obd.a.1"])
    assert Scheduler().queue([]) == Answer()


@pytest.mark.parametrize(
    ("config", "size"),
    [
        ("MaxArraySize            = 4001\n", 4001),
        ("AuthType = x\n", 1001),
        ("MaxArraySize            = 0\n", 1),
        ("MaxArraySize            = 1\n", 1),
        ("MaxArraySize            = UNLIMITED\n", 4_000_001),
        ("MaxArraySize = 9\nMaxJobCount = 1\n", 1),
        ("Welcome!\nMaxArraySize = 1001\nMaxJobCount             = 50\n", 49),
        ("MaxArraySize = 20\nMaxJobCount = 10000\n", 20),
        ("", 1001),
    ],
)
def test_the_largest_array_is_asked_for(commands: Path, config: str, size: int) -> None:
    put(commands, "scontrol", config)
    assert Scheduler().max_array_size() == size


def test_what_others_print_between_the_lines_is_skipped_and_counted(commands: Path) -> None:
    """And a job that an unreadable line may tell of is in doubt, not gone."""
    noise = """
CLUSTER: big
************ Maintenance on Monday | all day ************
obd.a.1|3||None|n1|12_3
obd.a.1|7-|PENDING|None||12_7
obd.b.2|N/A
slurm_load_jobs: warning: something
"""
    odd = (
        "obd.a.1|4|RECONFIGURING|a|b || c|n1|12_4\nobd.a.1|6-8:2%2|PENDING|Priority||12_[6-8:2%2]\n"
    )
    put(commands, "squeue", f"{noise}{SQUEUE}{odd}other|0|RUNNING|None|n1|3\n")
    scheduler = Scheduler()
    answer = scheduler.queue(["obd.a.1", "obd.b.2", "obd.b.3"])
    put(commands, "squeue", SQUEUE)
    plain = Scheduler().queue(["obd.a.1", "obd.b.2", "obd.b.3"])
    assert plain.skipped == 0
    assert {key: answer.jobs[key] for key in plain.jobs} == plain.jobs
    assert answer.jobs.keys() - plain.jobs.keys() == {JobKey("obd.a.1", p) for p in (4, 6, 8)}
    new = answer.jobs[JobKey("obd.a.1", 4)]
    assert (new.state, new.reason, new.ended) == ("RECONFIGURING", "a|b || c", False)
    assert answer.jobs[JobKey("obd.a.1", 8)].number == "12_8"
    assert (answer.skipped, answer.doubtful) == (7, {"obd.a.1", "obd.b.2"})
    assert scheduler.remarks() == ["7 lines of `squeue` could not be read and were skipped."]


def test_odd_lines_of_the_accounting_are_skipped_and_counted(commands: Path) -> None:
    odd = "\nbanner\nobd.a.1|12_5||0:0|n1\nobd.a.1|12_6|OUT_OF_MEMORY+|0:125|n|1\nobd.b.2\n"
    put(commands, "sacct", odd + SACCT)
    scheduler = Scheduler()
    answer = scheduler.history(["obd.a.1", "obd.b.2"])
    assert answer.jobs[JobKey("obd.a.1", 6)] == JobState("OUT_OF_MEMORY", "", "n|1", "0:125")
    assert (len(answer.jobs), answer.skipped) == (4, 4)
    assert scheduler.remarks() == ["4 lines of `sacct` could not be read and were skipped."]


def number(value: int | None) -> dict[str, object]:
    """A number as SLURM's JSON has it since 23.02."""
    return {"set": value is not None, "infinite": False, "number": value or 0}


OLD_QUEUE = [  # as SLURM 22.05 prints it, with its other keys left out
    {"name": "obd.a.1", "job_id": 13, "array_job_id": 12, "array_task_id": 0,
     "array_task_string": "", "job_state": "RUNNING", "state_reason": "None", "nodes": "n1"},
    {"name": "obd.a.1", "job_id": 12, "array_job_id": 12, "array_task_id": None,
     "array_task_string": "1-5:2,8%2", "job_state": "PENDING",
     "state_reason": "JobArrayTaskLimit", "nodes": ""},
    {"name": "obd.b.2", "job_id": 14, "array_job_id": 0, "array_task_id": None,
     "array_task_string": "", "job_state": "COMPLETING", "state_reason": "None", "nodes": "n2"},
    {"name": "other", "job_id": 15, "array_job_id": 0, "array_task_id": None,
     "array_task_string": "", "job_state": "RUNNING", "state_reason": "None", "nodes": "n2"},
]  # fmt: skip
NEW_QUEUE = [  # as later ones do
    {**OLD_QUEUE[0], "job_id": 13, "array_job_id": number(12), "array_task_id": number(0),
     "job_state": ["RUNNING"]},
    {**OLD_QUEUE[1], "array_job_id": number(12), "array_task_id": number(None),
     "job_state": ["PENDING"]},
    {**OLD_QUEUE[2], "array_job_id": number(0), "array_task_id": number(None),
     "job_state": ["COMPLETED", "COMPLETING"]},
]  # fmt: skip


def as_json(jobs: list[object], errors: Sequence[object] = ()) -> str:
    return json.dumps({"meta": {}, "jobs": jobs, "errors": list(errors), "warnings": []}, indent=1)


@pytest.mark.parametrize("entries", [OLD_QUEUE, NEW_QUEUE], ids=["22.05", "later"])
def test_the_queue_is_read_from_json_whatever_the_version_calls_a_number(
    commands: Path, entries: list[dict[str, object]]
) -> None:
    arguments = put(commands, "squeue", f"Welcome\n{as_json([*entries])}\n")
    scheduler = Scheduler()
    answer = scheduler.queue(["obd.a.1", "obd.b.2"])
    assert "--json" in arguments.read_text()
    waits = {p: JobState("PENDING", "JobArrayTaskLimit", number=f"12_{p}") for p in (1, 3, 5, 8)}
    assert answer.jobs == {
        JobKey("obd.a.1", 0): JobState("RUNNING", node="n1", number="12_0"),
        **{JobKey("obd.a.1", place): state for place, state in waits.items()},
        JobKey("obd.b.2", 0): JobState("COMPLETING", node="n2", number="14"),
    }
    assert scheduler.remarks() == ["1 line of `squeue` could not be read and was skipped."]


@pytest.mark.parametrize(
    "entry",
    [
        {"name": "obd.a.1"},
        {**OLD_QUEUE[0], "job_state": ""},
        {**OLD_QUEUE[0], "job_state": []},
        {**OLD_QUEUE[0], "job_state": ["RUNNING", 3]},
        {**OLD_QUEUE[0], "array_task_id": {"unit": 3}},
        {**OLD_QUEUE[0], "array_task_id": [0]},
        {**OLD_QUEUE[0], "nodes": {"list": ["n1"]}},
        {**OLD_QUEUE[1], "array_task_string": "1,3,..."},
        {**OLD_QUEUE[1], "array_task_string": "0x3F"},
        {**OLD_QUEUE[1], "array_task_string": "5-3"},
        {**OLD_QUEUE[1], "array_task_string": "0-9:0"},
        {**OLD_QUEUE[1], "array_task_string": "0-99999999999"},
        "obd.a.1",
        None,
    ],
)
def test_json_entries_of_another_form_are_skipped_and_in_doubt(
    commands: Path, entry: object
) -> None:
    put(commands, "squeue", as_json([entry, OLD_QUEUE[2]]))
    answer = Scheduler().queue(["obd.a.1", "obd.b.2"])
    assert set(answer.jobs) == {JobKey("obd.b.2", 0)}
    assert (answer.skipped, answer.doubtful) == (1, set() if entry is None else {"obd.a.1"})


SACCT_JSON = [
    {"name": "obd.a.1", "job_id": 13, "array": {"job_id": 12, "task": None, "task_id": 0},
     "state": {"current": "COMPLETED", "reason": "None"},
     "exit_code": {"status": "SUCCESS", "return_code": 0}, "nodes": "n1"},
    {"name": "obd.a.1", "job_id": 14, "nodes": "n2",
     "array": {"job_id": number(12), "task": "", "task_id": number(1)},
     "state": {"current": ["CANCELLED"], "reason": "None"},
     "exit_code": {"status": ["SIGNALED"], "return_code": number(0),
                   "signal": {"id": number(9), "name": "KILL"}}},
    {"name": "obd.a.1", "job_id": 12, "array": {"job_id": 12, "task": "2-9%4", "task_id": None},
     "state": {"current": "PENDING"}, "exit_code": {}, "nodes": "None assigned"},
    {"name": "obd.b.2", "job_id": 15, "array": {"job_id": 0, "task": None, "task_id": None},
     "state": {"current": "FAILED", "reason": "None"}, "nodes": "n1",
     "exit_code": {"status": "SIGNALED", "return_code": 0,
                   "signal": {"signal_id": 9, "name": "KILL"}}},
    {"name": "obd.b.2", "state": "FAILED"},
]  # fmt: skip


def altered(text: str, draw: random.Random) -> str:
    """A text with one to five pieces taken out, doubled, or put in."""
    for _ in range(draw.randint(1, 5)):
        start = draw.randrange(len(text) + 1)
        end = min(len(text), start + draw.randint(0, 12))
        piece = draw.choice(
            ["", "|", "\n", "\x00", "\u00e9", "[]", "null", "-1", text[start:end] * 2]
        )
        text = text[:start] + piece + text[end:]
    return text


def test_no_alteration_of_an_answer_ends_in_another_error() -> None:
    """600 answers, as lines and as JSON; whole lines are read whatever stands between them."""
    draw = random.Random(0)
    names = ["obd.a.1", "obd.b.2"]
    for _ in range(150):
        for text, read in ((SQUEUE, read_queue_line), (SACCT, read_history_line)):
            changed = altered(text, draw)
            answer = read_lines(changed, names, read)
            whole = [line for line in text.splitlines() if line in changed.splitlines()]
            expected = read_lines("\n".join(whole), names, read)
            assert expected.jobs.keys() <= answer.jobs.keys()
        for entries, reader in (
            (draw.choice([OLD_QUEUE, NEW_QUEUE]), read_queue_entry),
            (SACCT_JSON, read_history_entry),
        ):
            with contextlib.suppress(ValueError):  # then lines are asked for
                read_json(altered(as_json([*entries]), draw), names, reader)


def test_the_accounting_is_read_from_json(commands: Path) -> None:
    put(commands, "sacct", as_json([*SACCT_JSON]))
    answer = Scheduler().history(["obd.a.1", "obd.b.2"])
    assert answer.skipped == 1
    assert answer.jobs == {
        JobKey("obd.a.1", 0): JobState("COMPLETED", "", "n1", "0:0"),
        JobKey("obd.a.1", 1): JobState("CANCELLED", "", "n2", "0:9"),
        JobKey("obd.b.2", 0): JobState("FAILED", "", "n1", "0:9"),
    }


@pytest.mark.parametrize(
    "json_answer",
    [
        "echo 'squeue: unrecognized option --json' >&2; exit 1",
        "echo 'squeue: error: serializer plugin not found' >&2; exit 1",
        "echo '{ torn'",
        "echo '{\"jobs\": 3}'",
        'echo \'{"jobs": [], "errors": [{"error": "Unable to contact"}]}\'',
        "exit 0",
    ],
)
def test_without_json_the_queue_is_read_as_lines(commands: Path, json_answer: str) -> None:
    put(commands, "squeue", SQUEUE)
    plain = (commands / "squeue").read_text().removeprefix("#!/bin/sh\n")
    script = f'#!/bin/sh\ncase "$*" in *--json*) {json_answer}; exit;; esac\n{plain}'
    (commands / "squeue").write_text(script)
    assert JobKey("obd.a.1", 1) in Scheduler().queue(["obd.a.1"]).jobs


@pytest.mark.parametrize(("version", "used"), [("22.05.8", False), ("23.02.1", True)])
def test_json_of_versions_that_print_it_wrong_is_not_asked_for(
    commands: Path, version: str, used: bool
) -> None:
    for name, prints in (("squeue", SQUEUE), ("sacct", SACCT)):
        arguments = put(commands, name, prints)
        answer = f'[ "$1" = --version ] && {{ echo slurm {version}; exit; }}\n'
        noted = (commands / name).read_text().replace(f"> {arguments}", f">> {arguments}")
        (commands / name).write_text(noted.replace("#!/bin/sh\n", f"#!/bin/sh\n{answer}"))
    scheduler = Scheduler()
    assert scheduler.queue(["obd.a.1"]).skipped == 0
    assert scheduler.history(["obd.a.1"]).skipped == 0
    for name in ("squeue", "sacct"):
        assert ("--json" in (commands / f"{name}.arguments").read_text()) is used


@pytest.mark.parametrize(
    ("prints", "cluster"),
    [
        ("Submitted batch job 7", ""),
        ("Welcome, your last job 3 ran well\n\nSubmitted batch job 7 on cluster big\nBye", "big"),
        ("7", ""),
        ("Welcome\n7;big", "big"),
    ],
)
def test_the_answer_of_sbatch_is_found_among_other_lines(
    commands: Path, prints: str, cluster: str
) -> None:
    put(commands, "sbatch", prints)
    assert Scheduler().submit(commands / "script") == cluster


def test_an_answer_of_sbatch_without_a_number_is_an_error_that_quotes_it(commands: Path) -> None:
    put(commands, "sbatch", "Have a nice day")
    with pytest.raises(UnreadableAnswer, match="no job's number, but 'Have a nice day'"):
        Scheduler().submit(commands / "script")


@pytest.mark.parametrize("command", ["squeue", "sacct", "sbatch", "scancel", "scontrol"])
def test_no_command_sees_the_variables_of_an_enclosing_job(
    commands: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    leaks = {
        "SLURM_JOB_ID": "5", "SLURM_CPUS_PER_TASK": "64", "SLURM_MEM_PER_NODE": "9",
        "SLURM_EXPORT_ENV": "NONE", "SBATCH_PARTITION": "wrong", "SBATCH_EXPORT": "NONE",
        "SQUEUE_PARTITION": "wrong", "SQUEUE_FORMAT": "%i", "SRUN_CPUS_PER_TASK": "64",
        "SACCT_FORMAT": "JobID", "SCANCEL_PARTITION": "wrong",
    }  # fmt: skip
    stay = {"SLURM_CONF": "/etc/here", "SLURM_CLUSTERS": "big", "MY_SLURM_CODE": "1"}
    for key, value in {**leaks, **stay}.items():
        monkeypatch.setenv(key, value)
    path = commands / command
    path.write_text(f"#!/bin/sh\nenv > {commands}/seen\necho Submitted batch job 1\n")
    path.chmod(0o755)
    scheduler = Scheduler()
    {
        "squeue": lambda: scheduler.queue(["a"]),
        "sacct": lambda: scheduler.history(["a"]),
        "sbatch": lambda: scheduler.submit(commands / "script"),
        "scancel": lambda: scheduler.cancel(["a"]),
        "scontrol": lambda: scheduler.max_array_size(),
    }[command]()
    seen = dict(line.split("=", 1) for line in (commands / "seen").read_text().splitlines())
    assert not leaks.keys() & seen.keys()
    assert {key: seen[key] for key in stay} == stay


def test_a_job_that_is_gone_needs_no_end(commands: Path) -> None:
    put(commands, "scancel", "scancel: error: Kill job error on job id 7: Invalid job id", status=1)
    Scheduler().end(["7"])
    put(commands, "scancel", "scancel: error: Unable to contact slurm controller", status=1)
    with pytest.raises(Unreachable, match="Unable to contact"):
        Scheduler().end(["7"])


def test_a_command_that_does_not_end_is_unreachable(
    commands: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("slurm.scheduler.SECONDS", 0.1)
    (commands / "scontrol").write_text("#!/bin/sh\nexec sleep 20\n")
    (commands / "scontrol").chmod(0o755)
    with pytest.raises(Unreachable, match=r"`scontrol` gave no answer in 0\.1 s"):
        Scheduler().max_array_size()

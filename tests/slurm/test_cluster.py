"""What becomes of submitted runs, with a scheduler that only remembers."""

from __future__ import annotations

import json
import shlex
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from benchmark.errors import ObdBenchError
from benchmark.record import record_folder
from benchmark.run import Conditions, existing_record, run_folder
from benchmark.spec import RunSpec
from benchmark.sweep import Sweep
from obdbench.sweep_status import sweep_status
from results.record_store import run_status
from slurm.answers import Answer, JobState
from slurm.cluster import Cluster, QueueFull
from slurm.fates import fate
from slurm.job import Command, main
from slurm.profile import Profile, build_profile, make_arrays
from slurm.scheduler import Unreachable
from slurm.submissions import note, submissions
from tests.slurm.fake_scheduler import FakeScheduler, fake_sbatch, taken
from tests.tiny_runs import execute, tiny_spec

PROFILE = build_profile({"pack": 2}, "test", "the test")


@pytest.fixture
def runs(small_dataset_name: str) -> list[RunSpec]:
    """Three jobs: two runs alone, and a pack of two."""
    return [
        tiny_spec("random", small_dataset_name),
        tiny_spec("random", small_dataset_name, seed=1),
        tiny_spec("dbc", small_dataset_name),
        tiny_spec("dbc", small_dataset_name, seed=1),
    ]


@pytest.fixture
def journal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What an sbatch that takes everything was given."""
    return fake_sbatch(tmp_path / "bin", monkeypatch)


@pytest.fixture
def scheduler() -> FakeScheduler:
    return FakeScheduler()


@pytest.fixture
def cluster(scheduler: FakeScheduler, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cluster:
    cluster = Cluster(tmp_path / "runs", scheduler)
    monkeypatch.setattr("slurm.cluster.Cluster", lambda store: cluster)
    monkeypatch.setattr("obdbench.sweep_status.LiveJobs", lambda store: cluster)
    return cluster


def submit(cluster: Cluster, runs: list[RunSpec], profile: Profile = PROFILE) -> None:
    cluster.submit("test", runs, profile, Conditions(cluster.store))


def where(runs: list[RunSpec]) -> Sweep:
    return Sweep("test", "", tuple(runs))


def test_a_live_job_keeps_its_runs_from_being_sent_again(
    cluster: Cluster, scheduler: FakeScheduler, runs: list[RunSpec], journal: Path
) -> None:
    submit(cluster, runs[:3])
    scheduler.jobs = taken(journal)
    assert cluster.live() == {run.run_id for run in runs[:3]}
    submit(cluster, runs)
    assert len(journal.read_text().splitlines()) == 2, "one array for each call"
    scheduler.jobs = taken(journal)
    assert cluster.live() == {run.run_id for run in runs}
    states = sweep_status(cluster.store, where(runs))
    assert (states.counts["queued"], dict(states.waiting)) == (4, {"Priority": 4})


def test_settling_touches_no_run_whose_job_may_work(
    cluster: Cluster, scheduler: FakeScheduler, runs: list[RunSpec], journal: Path
) -> None:
    submit(cluster, runs)
    for state in ("PENDING", "RUNNING", "COMPLETING", "SUSPENDED", "REQUEUED", "CONFIGURING"):
        scheduler.jobs = taken(journal, state)
        settled = cluster.settle()
        assert (settled.died, settled.live) == ({}, {run.run_id for run in runs})
    assert not any(existing_record(run_folder(cluster.store, run)) for run in runs)


@pytest.mark.parametrize(
    ("state", "log", "kind"),
    [
        ("OUT_OF_MEMORY", "", "OutOfMemory"),
        ("TIMEOUT", "", "TimedOut"),
        ("NODE_FAIL", "", "NodeFailed"),
        ("PREEMPTED", "", "Preempted"),
        ("CANCELLED", "", "Cancelled"),
        ("FAILED", "", "WorkerDied"),
        ("COMPLETED", "", "WorkerDied"),
        ("FAILED", "error: Detected 1 oom_kill event in StepId=3.0", "OutOfMemory"),
        (None, "*** JOB 3 ON n1 CANCELLED AT 2026 DUE TO TIME LIMIT ***", "TimedOut"),
        (None, "*** JOB 3 ON n1 CANCELLED AT 2026 ***", "Cancelled"),
        (None, "", "Vanished"),
    ],
)
def test_the_cause_is_what_slurm_says_or_else_what_the_log_says(
    state: str | None, log: str, kind: str
) -> None:
    error = fate(JobState(state, node="n1", exit_code="0:9") if state else None, log)
    assert type(error).__name__ == kind
    assert (log or "no log") in str(error)
    assert ("SLURM says" in str(error)) == (state is not None)


def test_runs_of_an_ended_job_get_their_cause_and_the_others_stay(
    cluster: Cluster, scheduler: FakeScheduler, runs: list[RunSpec], journal: Path
) -> None:
    submit(cluster, runs)
    scheduler.jobs = taken(journal, "RUNNING")
    done, _, dead = scheduler.jobs
    scheduler.jobs[done] = JobState("COMPLETED")
    del scheduler.jobs[dead]
    scheduler.past[dead] = JobState("OUT_OF_MEMORY", node="n2", exit_code="0:125")
    execute(runs[0], cluster.store)
    folder = next((cluster.store / "jobs").glob("obd.test.*/"))
    (folder / "7_2_0_log.err").write_text("allocating\nKilled\n")

    settled = cluster.settle()
    assert settled.died == {runs[2].run_id: "OutOfMemory", runs[3].run_id: "OutOfMemory"}
    record = existing_record(run_folder(cluster.store, runs[2]))
    assert record is not None
    assert "SLURM says OUT_OF_MEMORY on n2, exit code 0:125." in record.error.message
    assert record.error.message.endswith("allocating\nKilled")
    assert record.cost.peak_memory_bytes == 0, "this process's memory is not the run's"
    states = [run_status(cluster.store, run).state for run in runs]
    assert states == ["done", "missing", "failed", "failed"]
    assert cluster.settle().died == {}, "a cause is noted once"
    assert list(submissions(cluster.store)), "one job is still live"

    scheduler.jobs = {}
    assert cluster.settle().died == {runs[1].run_id: "Vanished"}
    assert not list(submissions(cluster.store))
    assert folder.exists(), "the logs of dead jobs are kept"


def test_an_accounting_that_lags_behind_the_queue_is_not_believed(
    cluster: Cluster, scheduler: FakeScheduler, runs: list[RunSpec], journal: Path
) -> None:
    submit(cluster, runs)
    scheduler.jobs = taken(journal, "OUT_OF_MEMORY")
    scheduler.past = taken(journal, "RUNNING")
    assert set(cluster.settle().died.values()) == {"OutOfMemory"}


def test_a_job_that_slurm_holds_for_ever_is_ended_and_is_a_row(
    cluster: Cluster, scheduler: FakeScheduler, runs: list[RunSpec], journal: Path
) -> None:
    submit(cluster, runs[:1])
    key = next(iter(taken(journal)))
    scheduler.jobs = {key: JobState("PENDING", "launch failed requeued held", number="1_0")}
    assert cluster.settle().died == {runs[0].run_id: "LaunchFailed"}
    assert scheduler.ended == ["1_0"]


def test_nothing_is_left_of_jobs_that_went_well(
    cluster: Cluster, scheduler: FakeScheduler, runs: list[RunSpec], journal: Path
) -> None:
    submit(cluster, runs)
    for run in runs:
        execute(run, cluster.store)
    assert cluster.settle().died == {}
    assert [p.name for p in (cluster.store / "jobs").iterdir()] == [".lock"]


def test_a_run_that_failed_by_itself_keeps_its_own_error(
    cluster: Cluster, scheduler: FakeScheduler, runs: list[RunSpec], journal: Path
) -> None:
    """And one that failed before it was sent again does not."""
    broken = tiny_spec("random", runs[0].dataset, synthetic_size=10**9)
    execute(broken, cluster.store)
    submit(cluster, [broken])
    scheduler.jobs = taken(journal)
    assert sweep_status(cluster.store, where([broken])).counts["queued"] == 1
    time.sleep(0.02)
    execute(broken, cluster.store)
    assert sweep_status(cluster.store, where([broken])).counts["failed"] == 1
    scheduler.jobs = {}
    assert cluster.settle().died == {}

    submit(cluster, [broken])
    assert cluster.settle().died == {broken.run_id: "Vanished"}


def test_a_run_that_is_sent_again_is_tried_once_however_often_its_job_starts(
    cluster: Cluster, runs: list[RunSpec], journal: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SLURM_ARRAY_TASK_ID", raising=False)
    broken = tiny_spec("random", runs[0].dataset, synthetic_size=10**9)
    assert execute(broken, cluster.store).status == "failed"
    submit(cluster, [broken])
    for _ in range(2):
        main(next((cluster.store / "jobs").glob("obd.test.*/")))
    record = existing_record(run_folder(cluster.store, broken))
    assert record is not None and record.cost.attempts == 2


def test_a_scheduler_that_is_away_changes_nothing(
    cluster: Cluster, scheduler: FakeScheduler, runs: list[RunSpec], journal: Path
) -> None:
    submit(cluster, runs)
    scheduler.answers = False
    with pytest.raises(Unreachable):
        cluster.settle()
    with pytest.raises(Unreachable):
        submit(cluster, runs)
    states = sweep_status(cluster.store, where(runs))
    assert (states.counts["missing"], states.unknown) == (4, "`squeue` failed: no controller")
    assert len(journal.read_text().splitlines()) == 1


def test_a_run_that_somebody_works_on_is_not_called_dead(
    cluster: Cluster, runs: list[RunSpec], journal: Path
) -> None:
    from filelock import FileLock

    submit(cluster, runs[:1])
    folder = run_folder(cluster.store, runs[0])
    folder.parent.mkdir(parents=True)
    with FileLock(folder.with_name(f".{folder.name}.lock")):
        assert cluster.settle().died == {}
    assert existing_record(folder) is None


def test_a_submission_that_was_never_sent_frees_its_runs(
    cluster: Cluster, scheduler: FakeScheduler, runs: list[RunSpec], journal: Path
) -> None:
    array = make_arrays(runs[:1], PROFILE, 10)[0]
    lost, sent = (note(cluster.store, "test", array) for _ in range(2))
    scheduler.jobs = {sent.keys[0]: JobState("PENDING")}
    assert cluster.settle().live == {runs[0].run_id}
    assert [s.name for s in submissions(cluster.store)] == [sent.name]
    assert not next(submissions(cluster.store)).provisional
    assert not lost.folder.exists()


SBATCH_SAYS = {
    "Requested node configuration is not available": "Refused",
    "invalid partition specified: gpuu": "Refused",
    "Unable to contact slurm controller (connect failure)": None,
    "Job violates accounting/QOS policy (job submit limit, user's size and/or time limits)": None,
}


@pytest.mark.parametrize(("words", "kind"), SBATCH_SAYS.items())
def test_a_refusal_for_good_is_a_row_and_one_for_now_is_not(
    cluster: Cluster, runs: list[RunSpec], journal: Path, words: str, kind: str | None
) -> None:
    sbatch = journal.parent / "sbatch"
    taking = sbatch.read_text()
    refuse = f'grep -q "cpus-per-task=2" "$1" && {{ echo "sbatch: error: {words}" >&2; exit 1; }}'
    sbatch.write_text(taking.replace("#!/bin/sh", f"#!/bin/sh\n{refuse}"))
    profile = build_profile({"methods": {"dbc": {"cpus": 2}}}, "test", "the test")
    if kind is None:
        with pytest.raises(QueueFull, match="2 jobs were sent; the same command sends the rest"):
            submit(cluster, runs, profile)
    else:
        submit(cluster, runs, profile)
    records = [existing_record(run_folder(cluster.store, run)) for run in runs]
    assert records[:2] == [None, None]
    assert [r and r.error.type for r in records[2:]] == [kind, kind]
    assert all(words in r.error.message for r in records[2:] if r)
    assert [len(s.jobs) for s in submissions(cluster.store)] == [2]


def put_sbatch(journal: Path, after: str) -> None:
    """Let the stand-in for sbatch end in another way, after it took an array."""
    sbatch = journal.parent / "sbatch"
    taking = sbatch.read_text().replace('echo "Submitted batch job $number"', after)
    sbatch.write_text(taking)


SBATCH_ENDS = {
    "echo Welcome, job 1 is long done; echo Submitted batch job 7": "",
    "echo sbatch: warning: low priority >&2; echo '7;big'": "big",
    "echo Submitted batch job 7 on cluster big": "big",
}


@pytest.mark.parametrize(("after", "name"), SBATCH_ENDS.items())
def test_jobs_are_asked_for_where_sbatch_says_that_they_are(
    cluster: Cluster,
    scheduler: FakeScheduler,
    runs: list[RunSpec],
    journal: Path,
    monkeypatch: pytest.MonkeyPatch,
    after: str,
    name: str,
) -> None:
    put_sbatch(journal, after)
    submit(cluster, runs)
    scheduler.jobs = taken(journal)
    asked = []
    queue = scheduler.queue
    monkeypatch.setattr(
        scheduler, "queue", lambda names, at="": (asked.append(at), queue(names, at))[1]
    )
    assert cluster.settle().live == {run.run_id for run in runs}
    assert asked == [name]


@pytest.mark.parametrize(
    "after",
    [
        "echo sbatch: error: Socket timed out on send/recv operation >&2; exit 1",
        "echo sbatch: error: something of the site >&2; exit 1",
        "echo Have a nice day",
    ],
)
def test_an_array_that_slurm_took_in_spite_of_what_sbatch_said_is_not_lost(
    cluster: Cluster,
    scheduler: FakeScheduler,
    runs: list[RunSpec],
    journal: Path,
    monkeypatch: pytest.MonkeyPatch,
    after: str,
) -> None:
    put_sbatch(journal, after)

    def answer(names: Sequence[str], cluster: str = "") -> Answer:
        return Answer({key: s for key, s in taken(journal).items() if key.name in names})

    monkeypatch.setattr(scheduler, "queue", answer)
    submit(cluster, runs)
    assert cluster.live() == {run.run_id for run in runs}
    assert not any(s.provisional for s in submissions(cluster.store))
    assert not any(existing_record(run_folder(cluster.store, run)) for run in runs)


def test_an_array_of_which_nobody_can_tell_is_settled_later(
    cluster: Cluster, scheduler: FakeScheduler, runs: list[RunSpec], journal: Path
) -> None:
    """sbatch gives up, and the controller does not answer the question after it."""
    away = "echo sbatch: error: Unable to contact slurm controller >&2; exit 1"
    put_sbatch(journal, away)
    asked = []

    def answer(names: Sequence[str], cluster: str = "") -> Answer:
        asked.append(names)
        if len(asked) == 1:
            raise Unreachable("no controller")
        return Answer({key: s for key, s in taken(journal).items() if key.name in names})

    scheduler.queue = answer  # type: ignore[method-assign]
    with pytest.raises(QueueFull, match=r"Unable to contact.*no controller"):
        submit(cluster, runs)
    assert [s.provisional for s in submissions(cluster.store)] == [True]
    assert cluster.settle().live == {run.run_id for run in runs}
    assert [s.provisional for s in submissions(cluster.store)] == [False]


def test_a_job_that_an_unreadable_line_may_tell_of_is_not_called_dead(
    cluster: Cluster,
    scheduler: FakeScheduler,
    runs: list[RunSpec],
    journal: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    submit(cluster, runs)
    first, *_ = states = taken(journal, "RUNNING")
    answer = Answer({first: states[first]}, skipped=1, doubtful={first.name})
    monkeypatch.setattr(scheduler, "queue", lambda names, cluster="": answer)
    settled = cluster.settle()
    assert (settled.died, settled.live) == ({}, {run.run_id for run in runs})
    assert sweep_status(cluster.store, where(runs)).waiting["unknown"] == 3
    monkeypatch.setattr(
        scheduler, "queue", lambda names, cluster="": replace(answer, doubtful=set())
    )
    assert len(cluster.settle().died) == 3


def test_without_arrays_every_job_is_sent_by_itself(
    cluster: Cluster, scheduler: FakeScheduler, runs: list[RunSpec], journal: Path
) -> None:
    scheduler.array_size = 1
    submit(cluster, runs)
    assert len(journal.read_text().splitlines()) == 3
    scripts = [path.read_text() for path in (cluster.store / "jobs").glob("*/array.sh")]
    assert not any("--array" in script for script in scripts)
    scheduler.jobs = taken(journal)
    assert cluster.live() == {run.run_id for run in runs}


def test_names_of_files_are_escaped_for_slurm_and_for_the_shell(
    scheduler: FakeScheduler, runs: list[RunSpec], journal: Path, tmp_path: Path
) -> None:
    cluster = Cluster(tmp_path / "100% %j 'x'", scheduler)
    submit(cluster, runs)
    folder = next(path for path in (cluster.store / "jobs").iterdir() if path.is_dir())
    script = (folder / "array.sh").read_text().splitlines()
    (command,) = (line for line in script if line.startswith("srun "))
    options = [line.removeprefix("#SBATCH ") for line in script if line.startswith("#SBATCH ")]
    flags = [shlex.split(line)[0] for line in options]
    escaped = str(folder).replace("%", "%%")
    assert f"--output={escaped}/%A_%a_0_log.out" in flags
    assert f"--error={escaped}/%A_%a_0_log.err" in flags
    words = shlex.split(command)
    assert words[-1] == str(folder)
    assert "--export=ALL" in words, "a site's SLURM_EXPORT_ENV would empty the environment"


@pytest.mark.parametrize(
    "text", ["{", "[]", '{"sweep": "s", "jobs": [[1]]}', '{"jobs": 3}', "\xff"]
)
def test_a_note_that_is_damaged_says_which_jobs_it_was_about(cluster: Cluster, text: str) -> None:
    path = cluster.store / "jobs" / "obd.test.12345678.json"
    path.parent.mkdir(parents=True)
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(ObdBenchError, match=r"not a note of submitted jobs.*obd.test.12345678"):
        cluster.live()
    unknown = sweep_status(cluster.store, where([])).unknown
    assert unknown is not None and "not a note of submitted jobs" in unknown


@pytest.mark.parametrize("text", ["{", "[3]", '[{"method": "x"}]', "\xff"])
def test_a_damaged_list_of_runs_is_named(
    cluster: Cluster, runs: list[RunSpec], journal: Path, text: str
) -> None:
    submit(cluster, runs)
    path = next((cluster.store / "jobs").glob("*/runs.json"))
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(ObdBenchError, match=r"runs.json does not hold the runs of submitted jobs"):
        cluster.settle()


def test_a_refused_job_that_slurm_lists_as_failed_is_refused(
    cluster: Cluster,
    scheduler: FakeScheduler,
    runs: list[RunSpec],
    journal: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    put_sbatch(journal, "echo Requested node configuration is not available >&2; exit 1")

    def answer(names: Sequence[str], cluster: str = "") -> Answer:
        listed = taken(journal, "FAILED")
        return Answer({key: s for key, s in listed.items() if key.name in names})

    monkeypatch.setattr(scheduler, "queue", answer)
    sent = cluster.submit("test", runs, PROFILE, Conditions(cluster.store))
    assert (sent.arrays, sent.refused) == ([], runs)
    assert list(submissions(cluster.store)) == []


def test_a_retry_that_is_refused_again_is_among_the_refused(
    cluster: Cluster, runs: list[RunSpec], journal: Path
) -> None:
    (journal.parent / "sbatch").write_text("#!/bin/sh\necho invalid partition >&2; exit 1\n")
    for _ in range(2):
        sent = cluster.submit("test", runs[:2], PROFILE, Conditions(cluster.store))
        assert (sent.arrays, sent.refused) == ([], runs[:2])


def test_cancelling_names_the_arrays_of_one_sweep(
    cluster: Cluster, scheduler: FakeScheduler, runs: list[RunSpec], journal: Path
) -> None:
    submit(cluster, runs[:2])
    cluster.submit("other", runs[2:], PROFILE, Conditions(cluster.store))
    scheduler.jobs = taken(journal)
    assert cluster.cancel("test") == 2
    assert cluster.settle().died == {run.run_id: "Cancelled" for run in runs[:2]}
    assert cluster.live() == {run.run_id for run in runs[2:]}


def test_jobs_are_given_plain_values_and_what_their_shape_asks_for(
    cluster: Cluster, runs: list[RunSpec], journal: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OBDBENCH_CACHE", "/somewhere/my cache")
    profile = build_profile(
        {"partition": "p", "memory": "3G", "time": "1:00:00", "setup": ["module load x"],
         "environment": {"A": "b c"}, "sbatch": {"reservation": "course"}, "parallelism": 2},
        "test", "the test",
    )  # fmt: skip
    submit(cluster, runs, profile)
    script = next((cluster.store / "jobs").glob("*/array.sh")).read_text()
    for line in (
        "#SBATCH --array=0-2%2", "#SBATCH --mem=3G", "#SBATCH --partition=p", "#SBATCH --requeue",
        "#SBATCH --reservation=course", "#SBATCH --time=60", "#SBATCH --signal=USR2@120",
        "module load x", "export A='b c'", "export OBDBENCH_CACHE='/somewhere/my cache'",
        "export OMP_NUM_THREADS=1",
    ):  # fmt: skip
        assert line in script.splitlines(), script
    assert "wckey" not in script
    specs = json.loads(next((cluster.store / "jobs").glob("*/runs.json")).read_text())
    assert [RunSpec.from_dict(spec).run_id for spec in specs] == [run.run_id for run in runs]


def test_a_folder_is_known_by_the_id_alone(runs: list[RunSpec], tmp_path: Path) -> None:
    assert tmp_path / record_folder(runs[1].run_id) == run_folder(tmp_path, runs[1])


# --- work that is not a run -----------------------------------------------------------------------
TRAINING = Command(["true"], requeues=5)


def send(cluster: Cluster, *, again: bool = False) -> str:
    return cluster.send("obd.teacher.1a", TRAINING, PROFILE.shape, again=again)


def test_a_command_is_sent_once_while_its_job_lives_and_again_only_when_asked(
    cluster: Cluster, scheduler: FakeScheduler, journal: Path
) -> None:
    assert send(cluster) == "submitted"
    scheduler.jobs = taken(journal, "RUNNING")
    assert send(cluster) == "running"
    assert send(cluster, again=True) == "running"
    scheduler.jobs = taken(journal, "FAILED")
    (folder,) = (cluster.store / "jobs").glob("obd.teacher.1a.*")
    (folder / "12_0_log.err").write_text("Error: it diverged.\n")
    with pytest.raises(ObdBenchError, match=r"ended without a result; .*\n.*it diverged"):
        send(cluster)
    assert len(journal.read_text().splitlines()) == 1
    assert send(cluster, again=True) == "submitted"
    assert len(set(journal.read_text().split("\n"))) == 3, "two jobs of one name"
    assert list(submissions(cluster.store)) == [], "no run waits for it"


@pytest.mark.parametrize(
    ("words", "error", "says"),
    [
        ("invalid partition", ObdBenchError, "SLURM refused the job obd.teacher.1a"),
        ("Unable to contact slurm controller", QueueFull, "SLURM takes no more jobs now"),
    ],
)
def test_a_command_that_slurm_does_not_take_leaves_nothing(
    cluster: Cluster, journal: Path, words: str, error: type[ObdBenchError], says: str
) -> None:
    (journal.parent / "sbatch").write_text(f"#!/bin/sh\necho {words} >&2; exit 1\n")
    with pytest.raises(error, match=says):
        send(cluster)
    assert not list((cluster.store / "jobs").glob("obd.*"))

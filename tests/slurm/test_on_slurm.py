"""Every fault of a cluster, tried on a real SLURM: no record is lost, none is double."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from benchmark.local import execute_here
from benchmark.run import Conditions, existing_record, run_folder
from benchmark.spec import RunSpec
from benchmark.sweep import Sweep, read_sweep
from benchmark.teachers.teacher import NetworkTeacher
from obdbench.sweep_status import sweep_status
from slurm.answers import (
    HISTORY_FORMAT,
    JobKey,
    JobState,
    read_history_entry,
    read_history_line,
    read_json,
    read_lines,
    read_queue_entry,
)
from slurm.scheduler import Scheduler
from tests.d4rl_files import write_file
from tests.file_server import serve
from tests.obdbench import test_reproduce as tiny
from tests.one_node_cluster import OneNodeCluster
from tests.slurm.conftest import GRACE, Bench, wait_until
from tests.tiny_runs import PLUGIN, numbers, sets, tiny_spec

pytestmark = pytest.mark.slurm

SLOW = {"environment": {"OBDBENCH_TEST_PAUSE": "0.5"}}
STEPS = 40


@pytest.fixture
def inline(tmp_path: Path) -> Conditions:
    """Runs in this process: the truth that others are held to."""
    return Conditions(tmp_path / "inline", (str(PLUGIN),), pack=1)


def slow(dataset: str, steps: int = STEPS, seed: int = 0) -> RunSpec:
    """A run that takes half a second a step on the cluster, and none of that here."""
    return tiny_spec("slow", dataset, outer_steps=steps, seed=seed)


def assert_same(bench: Bench, inline: Conditions, runs: list[RunSpec]) -> None:
    """The cluster's runs are complete, with the numbers and sets of runs in this process."""
    execute_here(runs, inline)
    for run, record in zip(runs, bench.records(runs), strict=True):
        here = existing_record(run_folder(inline.store, run))
        assert here is not None
        assert numbers(record) == numbers(here)
        assert sets(bench.store, run) == sets(inline.store, run)


def jobs(slurm: OneNodeCluster, states: str = "all") -> list[str]:
    """The numbers of the jobs that are there."""
    return slurm.command("squeue", "-h", "-r", f"--states={states}", "-o", "%i").split()


# The longest come first: several processes share these tests.
def test_a_time_limit_is_met_and_survived(
    bench: Bench,
    inline: Conditions,
    small_dataset_name: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """50 seconds of work under a limit of a minute; and a run that hears no warning.

    SLURM may warn half a minute early, and a busy machine takes as long to start: an attempt may
    do almost nothing, so there are many of them.
    """
    monkeypatch.setattr("slurm.profile.SECONDS_TO_SPARE", 0)  # a minute is SLURM's shortest
    patient, deaf = slow(small_dataset_name, steps=100), tiny_spec("deaf", small_dataset_name)
    bench.submit([patient, deaf], time="0:01:00", requeues=20, **SLOW)
    bench.wait(500)
    goes_on, ended = bench.records([patient, deaf])
    assert goes_on.cost.attempts >= 2
    assert ended.error.type == "TimedOut"
    assert "DUE TO TIME LIMIT" in ended.error.message
    execute_here([patient], inline)
    here = existing_record(run_folder(inline.store, patient))
    assert here is not None
    assert numbers(goes_on) == numbers(here)


def test_many_runs_over_two_nodes_are_those_of_one_process(
    slurm: OneNodeCluster, small_dataset_name: str, tiny_teacher: NetworkTeacher, tmp_path: Path
) -> None:
    """From the command line, and looked at from other processes."""
    toml = tmp_path / "many.toml"
    toml.write_text(f'''
name = "many"
datasets = ["{small_dataset_name}"]
protocol = {{ name = "tiny", students = 2, episodes = 2, checkpoint_every = 2, last = 2 }}
student = {{ width = 8, depth = 2, steps = 4 }}
seeds = 5

[[methods]]
name = "random"
synthetic_size = 4

[[methods]]
name = "dbc"
synthetic_size = 4
outer_batch = 8
outer_steps = 6

[[methods]]
name = "pbc"
synthetic_size = 4
outer_batch = 8
outer_steps = 6

[[methods]]
name = "herding"
synthetic_size = 4
''')
    profile = tmp_path / "here.toml"
    late = 'sbatch = { begin = "now+20" }'  # so that the queue is still full when it is looked at
    profile.write_text(
        f'memory = "500M"\npack = 4\ngroup_minutes = 0\n{late}\n[methods.random]\ncpus = 2\n'
    )
    store = tmp_path / "runs"

    def obdbench(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "obdbench", *words, "--store", str(store)],
            capture_output=True,
            text=True,
            timeout=300,
        )

    sent = obdbench("submit", str(toml), "--profile", str(profile))
    assert sent.returncode == 0, sent.stderr
    assert "20 runs in 13 jobs, 2 arrays submitted" in sent.stdout
    assert "20 queued" in obdbench("status", "many").stdout
    again = obdbench("submit", str(toml), "--profile", str(profile))
    assert ", 0 to do" in again.stderr, "runs that wait in the queue were sent twice"
    collected = obdbench("collect", "many", "--wait", "--poll", "1")
    assert collected.returncode == 0, collected.stderr
    assert "20 done" in obdbench("status", "many").stdout
    nodes = slurm.command("sacct", "-n", "-X", "-P", "-o", "JobName,NodeList").split()
    assert {line.split("|")[1] for line in nodes if line.startswith("obd.many")} == {"n1", "n2"}

    runs = list(read_sweep(toml).runs)
    inline = Conditions(tmp_path / "inline", pack=1)
    assert_same(Bench(store), inline, runs)


def test_a_killed_task_costs_its_run_alone(
    bench: Bench, inline: Conditions, small_dataset_name: str, tmp_path: Path
) -> None:
    deadly = tiny_spec("dies_once", small_dataset_name, marker=str(tmp_path / "marker"))
    raises, good = (tiny_spec(name, small_dataset_name) for name in ("raises", "random"))
    runs = [deadly, raises, good]
    bench.submit(runs, save_every=0)
    bench.wait()
    died, raised, done = bench.records(runs)
    assert (died.status, died.error.type) == ("failed", "WorkerDied")
    assert "the last words" in died.error.message or "Killed" in died.error.message
    assert "SLURM says FAILED" in died.error.message
    assert [c.outer_step for c in died.checkpoints] == [0, 2]
    assert (raised.error.type, done.status) == ("ValueError", "complete")

    bench.submit([deadly], save_every=0)
    bench.wait()
    assert_same(bench, inline, [deadly, raises, good])


def test_a_warned_job_saves_and_goes_on_to_the_same_numbers(
    bench: Bench, slurm: OneNodeCluster, inline: Conditions, small_dataset_name: str
) -> None:
    """Two runs alone, four in packs of two; the save clock would not have saved for an hour."""
    single = [slow(small_dataset_name, seed=seed) for seed in range(2)]
    packed = [slow(small_dataset_name, steps=STEPS + 1, seed=seed) for seed in range(4)]
    runs = [*single, *packed]
    bench.submit(runs, save_every=3600, pack=2, **SLOW)
    wait_until(lambda: len(jobs(slurm, "running")) == 3, "three jobs run")
    where = Sweep("test", "", tuple(runs))
    wait_until(
        lambda: all(at.fraction > 0.1 for at in sweep_status(bench.store, where).at.values()),
        "all began",
    )
    assert not any(bench.begun(run) for run in runs)
    for job in jobs(slurm, "running"):
        slurm.command("scancel", "--signal=USR2", job)
    wait_until(lambda: all(bench.begun(run) for run in runs), "all have saved")
    bench.wait()
    assert_same(bench, inline, runs)
    assert {record.cost.attempts for record in bench.records(runs)} == {2}


def test_a_job_is_not_queued_again_for_ever(
    bench: Bench, slurm: OneNodeCluster, inline: Conditions, small_dataset_name: str
) -> None:
    run = slow(small_dataset_name)
    bench.submit([run], requeues=1, **SLOW)
    for times in (1, 2):
        wait_until(partial(_is_at, bench, run, times), f"attempt {times}")
        slurm.command("scancel", "--signal=USR2", *jobs(slurm, "running"))
    bench.wait()
    record = bench.records([run])[0]
    assert record.error.type == "TimedOut"
    assert "queued again 1 times" in record.error.message
    bench.submit([run])
    bench.wait()
    assert_same(bench, inline, [run])


def test_cancelled_elements_are_rows(
    bench: Bench, slurm: OneNodeCluster, small_dataset_name: str
) -> None:
    """One that works, one that waits; the third goes on."""
    runs = [slow(small_dataset_name, seed=seed) for seed in range(3)]
    bench.submit(runs, save_every=3600, pack=1, parallelism=1, **SLOW)
    wait_until(lambda: _attempt(bench, runs[0]) == 1, "the first began")
    first = jobs(slurm, "running")[0]
    array = first.split("_")[0]
    slurm.command("scancel", first)
    slurm.command("scancel", f"{array}_1")
    bench.wait()
    working, waiting, third = bench.records(runs)
    assert (working.error.type, third.status) == ("Cancelled", "complete")
    assert waiting.error.type in ("Cancelled", "Vanished")
    assert "it never began" in waiting.error.message
    assert bench.begun(runs[0]), "a cancelled run did not save its state"


def test_a_node_that_goes_down_loses_nothing(
    bench: Bench, slurm: OneNodeCluster, inline: Conditions, small_dataset_name: str
) -> None:
    """SLURM queues its jobs again; two copies of a run may work at the same time."""
    runs = [slow(small_dataset_name, seed=seed) for seed in range(4)]
    bench.submit(runs, save_every=1, pack=1, cpus=2, **SLOW)
    wait_until(lambda: all(bench.begun(run) for run in runs), "all have saved")
    slurm.command("scontrol", "update", "nodename=n1", "state=down", "reason=test")
    bench.wait()
    assert_same(bench, inline, runs)


def test_a_pre_empted_job_goes_on(
    bench: Bench, slurm: OneNodeCluster, inline: Conditions, small_dataset_name: str
) -> None:
    runs = [slow(small_dataset_name, seed=seed) for seed in range(2)]
    bench.submit(runs, save_every=1, pack=1, cpus=4, **SLOW)
    wait_until(lambda: all(bench.begun(run) for run in runs), "both have saved")
    slurm.command("sbatch", "-p", "urgent", "-c", "4", "-o", "/dev/null", "--wrap", "sleep 3")
    wait_until(lambda: len(jobs(slurm, "running")) == 2 and jobs(slurm, "pending"), "pre-empted")
    bench.wait()
    assert_same(bench, inline, runs)
    assert sorted(record.cost.attempts for record in bench.records(runs)) == [1, 2]


def test_a_controller_that_is_away_loses_nothing(
    bench: Bench, slurm: OneNodeCluster, inline: Conditions, small_dataset_name: str
) -> None:
    """Runs end while nobody manages them; nothing is called dead that may live."""
    runs = [slow(small_dataset_name, seed=seed) for seed in range(2)]
    bench.submit(runs, pack=1, **SLOW)
    wait_until(lambda: all(_attempt(bench, run) == 1 for run in runs), "both began")
    slurm.stop_controller()
    where = sweep_status(bench.store, Sweep("test", "", tuple(runs)))
    assert where.unknown is not None
    assert where.counts["running"] == 2
    wait_until(lambda: all(existing_record(run_folder(bench.store, r)) for r in runs), "both end")
    slurm.start_controller()
    bench.wait()
    assert_same(bench, inline, runs)


def test_without_accounting_every_run_still_has_its_cause(
    bench: Bench, slurm: OneNodeCluster, small_dataset_name: str, tmp_path: Path
) -> None:
    deadly = tiny_spec("dies_once", small_dataset_name, marker=str(tmp_path / "marker"))
    works, waits = (slow(small_dataset_name, seed=seed) for seed in range(2))
    runs = [deadly, works, waits, tiny_spec("random", small_dataset_name)]
    slurm.set_accounting(False)
    try:
        bench.submit(runs, pack=1, cpus=4, **SLOW)
        wait_until(lambda: _attempt(bench, works) == 1, "one of the slow ones began")
        slurm.command("scancel", *(job for job in jobs(slurm, "running,pending")))
        bench.wait()
    finally:
        slurm.set_accounting(True)
    died, working, waiting, _ = bench.records(runs)
    assert died.error.type == "WorkerDied"
    assert working.error.type == "Cancelled"
    assert waiting.error.type in ("Cancelled", "Vanished")


def test_a_full_disk_costs_one_run_and_a_retry_mends_it(
    bench: Bench, inline: Conditions, small_dataset_name: str
) -> None:
    runs = [tiny_spec("dbc", small_dataset_name, seed=seed) for seed in range(3)]
    folder = run_folder(bench.store, runs[1])
    folder.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16k", "tmpfs", str(folder)], check=True)
    try:
        (folder / "filler").write_bytes(bytes(4 * 4096 - 4096))
        (folder / "more").write_bytes(bytes(4096))
    except OSError:
        pass
    try:
        bench.submit(runs, save_every=0, pack=3)
        wait_until(lambda: not bench.cluster.live(), "no job is live")
        settled = bench.cluster.settle()
        assert list(settled.unwritten) == [runs[1].run_id]
        assert "No space left" in settled.unwritten[runs[1].run_id]
        for name in ("filler", "more"):
            (folder / name).unlink(missing_ok=True)
        bench.wait()
        statuses = [record.status for record in bench.records(runs)]
        assert statuses == ["complete", "failed", "complete"]
    finally:
        subprocess.run(["umount", str(folder)], check=True)
    bench.submit([runs[1]])
    bench.wait()
    assert_same(bench, inline, runs)


def test_a_store_whose_name_is_full_of_symbols_is_used_as_it_is_named(
    slurm: OneNodeCluster, small_dataset_name: str, tmp_path: Path
) -> None:
    """Two jobs in an array and one by itself; from inside a job with other demands."""
    bench = Bench(tmp_path / "100% of %j, %A_%a %t 'it'")
    runs = [tiny_spec("random", small_dataset_name, seed=seed) for seed in range(3)]
    with pytest.MonkeyPatch.context() as patch:
        leaks = {"SLURM_JOB_ID": "99999", "SLURM_CPUS_PER_TASK": "64", "SLURM_MEM_PER_CPU": "9",
                 "SBATCH_PARTITION": "nowhere", "SLURM_NTASKS": "7", "SQUEUE_PARTITION": "urgent",
                 "SLURM_EXPORT_ENV": "NONE"}  # fmt: skip
        for key, value in leaks.items():
            patch.setenv(key, value)
        bench.submit(runs[:2], pack=1)
        bench.submit(runs[2:])
        logs = bench.store / "jobs"
        bench.wait()
    assert {record.status for record in bench.records(runs)} == {"complete"}
    assert [path.name for path in logs.iterdir()] == [".lock"], "logs or work were left elsewhere"
    assert sorted(path.name for path in tmp_path.iterdir()) == [bench.store.name]


def test_what_this_slurm_prints_is_read_the_same_from_json_and_from_lines(
    slurm: OneNodeCluster,
) -> None:
    """A waiting array with a job that ran, and a job by itself."""
    submit = ("sbatch", "--mem=100M", "--output=/dev/null")
    slurm.command(*submit, "--job-name=obd.a.1", "--array=0-9:3%1", "--wrap=sleep 20")
    slurm.command(*submit, "--job-name=obd.b.2", "--wrap=exit 3")
    names = ["obd.a.1", "obd.b.2"]
    wait_until(lambda: any(s.ended for s in Scheduler().queue(names).jobs.values()), "one ended")
    lines = Scheduler().queue(names)
    entries = read_json(slurm.command("squeue", "--json"), names, read_queue_entry)
    assert lines.jobs == entries.jobs
    assert (lines.skipped, entries.skipped, len(lines.jobs)) == (0, 0, 5)

    def ended() -> JobState | None:
        return Scheduler().history(names).jobs.get(JobKey("obd.b.2", 0))

    wait_until(lambda: (state := ended()) and state.ended, "the accounting has it")
    words = ["sacct", "-n", "-P", "-X", f"--name={','.join(names)}", f"--format={HISTORY_FORMAT}"]
    printed = read_lines(slurm.command(*words), names, read_history_line)
    assert (printed.jobs[JobKey("obd.b.2", 0)].exit_code, printed.skipped) == ("3:0", 0)
    entries = read_json(slurm.command("sacct", "--json"), names, read_history_entry)
    # This version's JSON says exit code 0 for every job; the rest is the same.
    assert {key: (s.state, s.node) for key, s in entries.jobs.items()} == {
        key: (s.state, s.node) for key, s in printed.jobs.items()
    }


def test_a_request_that_no_node_can_serve_fails_its_runs_and_no_others(
    bench: Bench, small_dataset_name: str
) -> None:
    runs = [tiny_spec(name, small_dataset_name) for name in ("random", "dbc")]
    bench.submit(runs, methods={"dbc": {"memory": "900G"}})
    bench.wait()
    done, refused = bench.records(runs)
    assert (done.status, refused.error.type) == ("complete", "Refused")
    assert "memory 900G" in refused.error.message
    assert "not available" in refused.error.message or "Memory" in refused.error.message


def test_a_process_that_dies_while_it_submits_leaves_nothing_behind(
    bench: Bench, inline: Conditions, small_dataset_name: str
) -> None:
    """Before sbatch: the runs are free again. After it: the jobs are known by their name."""
    from slurm.cluster import Sent
    from slurm.profile import make_arrays
    from slurm.submissions import note
    from tests.slurm.conftest import profile

    runs = [tiny_spec("dbc", small_dataset_name, seed=seed) for seed in range(2)]
    never, sent = (make_arrays([run], profile(), 16)[0] for run in runs)
    note(bench.store, "test", never)
    noted = note(bench.store, "test", sent)
    bench.cluster._send(noted, sent, Conditions(bench.store, (str(PLUGIN),)), 50, Sent())
    (bench.store / "jobs" / f"{noted.name}.json").rename(noted._path)  # as before sbatch answered
    bench.wait()
    assert existing_record(run_folder(bench.store, runs[0])) is None
    bench.submit([runs[0]])
    bench.wait()
    assert_same(bench, inline, runs)


TINY = """
name = "tiny"
datasets = ["{dataset}"]
protocol = {{ name = "tiny", students = 2, episodes = 2, checkpoint_every = 2, last = 2 }}
student = {{ width = 8, depth = 2, steps = 4 }}
seeds = 4

[[methods]]
name = "{method}"
synthetic_size = 4
outer_batch = 8
outer_steps = {steps}
"""


@pytest.fixture
def script(
    slurm: OneNodeCluster, tmp_path: Path, small_dataset_name: str
) -> Callable[..., tuple[Path, list[RunSpec]]]:
    """Submits one of the sbatch scripts for a sweep of four runs; its store and runs."""

    def submit(
        name: str, *options: str, method: str = "dbc", steps: int = 6, **variables: str
    ) -> tuple[Path, list[RunSpec]]:
        toml = tmp_path / "tiny.toml"
        toml.write_text(TINY.format(dataset=small_dataset_name, method=method, steps=steps))
        profile = tmp_path / "here.toml"
        profile.write_text('memory = "500M"\npack = 1\n')
        store = tmp_path / "runs"
        command = tmp_path / "obdbench"
        command.write_text(
            f'#!/bin/sh\nexec "{sys.executable}" -m obdbench --plugin "{PLUGIN}" "$@"\n'
        )
        command.chmod(0o755)
        given = {
            "SWEEP": str(toml),
            "STORE": str(store),
            "PROFILE": str(profile),
            "OBDBENCH": str(command),
            "POLL": "1",
            **variables,
        }
        subprocess.run(
            ["sbatch", "--mem=500M", f"--output={tmp_path}/%j.log", *options, f"slurm/{name}"],
            env={**os.environ, **given},
            check=True,
        )
        return store, list(read_sweep(toml).runs)

    return submit


def test_the_driver_does_a_whole_sweep_from_inside_an_allocation(
    slurm: OneNodeCluster, script: Callable[..., tuple[Path, list[RunSpec]]], inline: Conditions
) -> None:
    store, runs = script("full_sweep.sbatch")
    wait_until(lambda: not jobs(slurm, "running,pending"), "the driver has ended")
    assert (store / "reports" / "tiny" / "table.md").exists()
    assert_same(Bench(store), inline, runs)


def test_the_plain_array_survives_a_warning(
    slurm: OneNodeCluster, script: Callable[..., tuple[Path, list[RunSpec]]], inline: Conditions
) -> None:
    """A share each; every element is warned once."""
    store, runs = script(
        "array.sbatch", "--array=0-1", method="slow", steps=STEPS // 2, OBDBENCH_TEST_PAUSE="0.5"
    )
    bench = Bench(store)
    wait_until(lambda: sum(_attempt(bench, run) for run in runs) >= 2, "both elements work")
    for job in jobs(slurm, "running"):
        slurm.command("scancel", "--batch", "--signal=USR2", job)
    wait_until(lambda: not jobs(slurm, "running,pending"), "the array has ended")
    assert_same(bench, inline, runs)
    assert max(record.cost.attempts for record in bench.records(runs)) == 2


def _is_at(bench: Bench, run: RunSpec, times: int) -> bool:
    return _attempt(bench, run) == times


def _attempt(bench: Bench, run: RunSpec) -> int:
    """Which attempt at a run is under way; 0 where none is."""
    try:
        sign = json.loads((run_folder(bench.store, run) / "alive.json").read_text())
    except FileNotFoundError:
        return 0
    return int(sign["attempt"]) if sign["pid"] and sign["step"] else 0


def test_a_paper_table_is_reproduced_with_its_teacher_density_and_runs_as_jobs(
    slurm: OneNodeCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Called again whenever jobs have ended."""
    for variable, folder in (("MINARI_DATASETS_PATH", "datasets"), ("OBDBENCH_CACHE", "cache")):
        monkeypatch.setenv(variable, str(tmp_path / folder))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    profile, store = tmp_path / "site.toml", tmp_path / "runs"
    profile.write_text(f'memory = "1G"\ntime = "0:10:00"\ngrace = {GRACE}\n')
    settings = {k: v for k, v in tiny.TINY.items() if k not in ("steps", "batch_size")}
    command = [
        "reproduce",
        "sdw-main",
        "--scale",
        "paper",
        "--data",
        "d4rl",
        *tiny.options(settings),
    ]
    command += ["--profile", str(profile), "--store", str(store)]
    said = []

    def call() -> bool:
        done = subprocess.run(
            [sys.executable, "-m", "obdbench", *command],
            capture_output=True, text=True, timeout=300,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        said.append(done.stderr)
        return "The same command goes on" not in done.stderr

    with serve() as mirror:
        monkeypatch.setenv("OBDBENCH_D4RL_MIRROR", mirror.url)
        mirror.content = write_file(tmp_path / "hopper.hdf5", tiny.stand_in()).read_bytes()
        assert not call()
    for work in ("teacher cal_ql_corl", "density maf_published"):
        assert f"{work} on d4rl/hopper-medium-v2: submitted" in said[0]
    wait_until(lambda: not jobs(slurm, "pending,running,completing"), "both have ended")
    assert not call(), said[-1]
    wait_until(lambda: not jobs(slurm, "pending,running,completing"), "the runs have ended")
    assert call(), said[-1]
    assert len(list(store.glob("*/seed0/record.json"))) == 2
    (table,) = store.glob("reports/d4rl_sdw_main.*/sdw-main.md")
    assert "sdw_obd" in table.read_text() and "No expected run is missing or failed" in (
        table.read_text()
    )

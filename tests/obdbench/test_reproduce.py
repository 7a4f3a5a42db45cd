"""`obdbench reproduce`: from a table's name to the table, planned, checked, killed and resumed."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from benchmark.config import BadConfiguration
from benchmark.datasets.d4rl_facts import d4rl_statistics
from benchmark.method import METHODS
from benchmark.teachers.teacher_files import imported_path
from obdbench.cli import console
from obdbench.cli.reproduce import _prepare
from obdbench.reproduction import Step, reproducible, reproduction
from obdbench.sweeps import shipped_sweeps
from tests.d4rl_files import Arrays, made_up, write_file
from tests.file_server import FileServer, serve
from tests.slurm.fake_scheduler import FakeScheduler, fake_sbatch, taken

TINY = {
    "datasets": '["d4rl/hopper-medium-v2"]',
    "seeds": "1", "synthetic_size": "4", "outer_batch": "8", "outer_steps": "6", "steps": "20",
    "batch_size": "16", "student.width": "8", "student.depth": "2", "student.steps": "4",
    "protocol.students": "2", "protocol.episodes": "2", "protocol.checkpoint_every": "2",
    "protocol.last": "2",
    "teacher.steps": "30", "teacher.width": "8", "teacher.batch_size": "8",
    "teacher.report_every": "10",
}  # fmt: skip
PAPER = ("reproduce", "obd-table-1", "--scale", "paper", "--data", "d4rl")
CELLS = 6
"""Random, three objectives, BC on everything and the teacher."""


def options(settings: dict[str, str]) -> list[str]:
    return [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]


def stand_in() -> Arrays:
    """Rows of Hopper's dimensions, with the published moments of hopper-medium-v2."""
    arrays = made_up([60] * 5, "totot")
    mean, std = map(np.array, d4rl_statistics("hopper-medium-v2"))
    drawn = arrays["observations"]
    scaled = (drawn - drawn.mean(0)) / drawn.std(0) * std + mean
    return {**arrays, "observations": scaled.astype(np.float32)}


def stand_in_for_random() -> Arrays:
    """The same rows elsewhere: a name without published moments takes no file of another's."""
    arrays = stand_in()
    return {**arrays, "observations": arrays["observations"] + 5}


@pytest.fixture(autouse=True)
def own_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty dataset store and an empty cache."""
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "datasets"))
    monkeypatch.setenv("OBDBENCH_CACHE", str(tmp_path / "cache"))
    return tmp_path


@pytest.fixture
def mirror(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FileServer]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with serve() as state:
        monkeypatch.setenv("OBDBENCH_D4RL_MIRROR", state.url)
        state.content = write_file(tmp_path / "hopper.hdf5", stand_in()).read_bytes()
        yield state


def test_a_plan_on_a_narrow_terminal_cuts_no_command(
    cli: Any, own_folders: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(console.out, "width", 80)
    plan = cli("reproduce", "obd-table-1", "--plan").out
    rows = [line.split("│") for line in plan.splitlines() if line.startswith("│")]
    words = "".join(row[5].strip() for row in rows)
    assert "obdbench data buildhalfcheetah/medium-expert" in words
    assert "…" not in plan


def test_a_table_on_d4rl_is_made_by_one_command_that_goes_on_after_a_kill(
    cli: Any, mirror: FileServer, record_store: Path, own_folders: Path
) -> None:
    command = [*PAPER, *options(TINY), "--jobs", "1"]
    killed = subprocess.Popen([sys.executable, "-m", "obdbench", *command], stderr=subprocess.PIPE)
    deadline = time.monotonic() + 120
    while not list(record_store.glob("*/seed0/record.json")):
        assert killed.poll() is None, killed.stderr and killed.stderr.read().decode()
        assert time.monotonic() < deadline
        time.sleep(0.01)
    killed.kill()
    killed.communicate()
    assert killed.returncode == -signal.SIGKILL
    made = {path: path.stat().st_mtime_ns for path in record_store.glob("*/seed0/record.json")}
    assert 0 < len(made) < CELLS, "it was not killed in the middle"
    mirror.plan = [500] * 99  # what was fetched is not fetched again

    plan = cli(*command, "--plan")
    assert plan.code == 0, plan.err
    assert len(re.findall(r"│ (?:dataset|teacher) .*│ there ", plan.out)) == 2
    assert re.search(
        r"cal_ql_corl on d4rl/hopper-medium-v2 +│ there +│ +│ trained here, 30 steps", plan.out
    )
    done = cli(*command)
    assert done.code == 0, done.err
    records = list(record_store.glob("*/seed0/record.json"))
    assert len(records) == CELLS
    assert {path: path.stat().st_mtime_ns for path in made} == made, "a finished run was repeated"

    (folder,) = (record_store / "reports").iterdir()
    assert folder.name.startswith("d4rl_main_table.")
    files = {path.name for path in folder.iterdir()}
    assert {"obd-table-1.md", "table.md", "published.md"} <= files
    table = (folder / "obd-table-1.md").read_text()
    for method in ("random", "dbc_published", "pbc_published", "av_pbc_published", "bc_whole"):
        assert re.search(rf"^\| d4rl/hopper-medium-v2 \| {method} ", table, re.M), table
    spec = json.loads(records[0].read_text())["spec"]
    assert spec["student"]["width"] == 8 and spec["protocol"]["name"] == "obd (varied)"


def test_what_is_missing_is_named_before_anything_is_started(
    cli: Any,
    mirror: FileServer,
    record_store: Path,
    own_folders: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for module in ("benchmark.work", "baselines.outer_loop"):
        monkeypatch.setattr(f"{module}.SAMPLE", 1e7)  # shorter measurements at the paper's size
    monkeypatch.setattr("results.costs.SAMPLE_GRADIENTS", 1)
    mirror.plan = [404] * 99
    refused = cli(*PAPER, "--mirror", mirror.url)
    assert refused.code == 1
    said = " ".join(refused.err.split())
    assert "Nothing was started: 9 things are missing." in said
    assert len(re.findall(r"- http\S+ was answered with 404", said)) == 9
    assert "obdbench data import FILE --as d4rl/walker2d-medium-expert-v2" in said
    assert len(re.findall(r"│ teacher .*to train, 1,000,000 steps", refused.out)) == 9
    assert re.search(r"315 runs of 54 cells: about \S+ CPU hours \(counted\)", refused.out)
    total = re.search(r"In all about ([\d,]+)\.\d\d CPU hours, counted ones on one", refused.out)
    assert total and int(total[1].replace(",", "")) > 500, "15 million outer steps are not cheap"
    assert not record_store.exists()
    assert not list(own_folders.rglob("*.safetensors"))


def test_a_teacher_of_other_settings_is_not_taken_without_a_word(
    cli: Any, mirror: FileServer, own_folders: Path
) -> None:
    settings = {**TINY, "datasets": '["d4rl/hopper-random-v2"]'}
    file = write_file(own_folders / "random.hdf5", stand_in_for_random())
    mirror.content = file.read_bytes()
    assert cli("data", "fetch", "d4rl/hopper-random-v2").code == 0
    trained = options({k.removeprefix("teacher."): v for k, v in TINY.items() if "teacher." in k})
    one = (
        "teacher",
        "train",
        "d4rl/hopper-random-v2",
        "--recipe",
        "cal_ql_corl",
        "--episodes",
        "1",
    )
    assert cli(*one, *trained, "--set", "decay_from=0.5").code == 0
    refused = cli(*PAPER, *options(settings), "--plan")
    assert refused.code == 1
    assert "was trained with decay_from = 0.5, and 1.0 is asked for" in refused.err
    kept = cli(*PAPER, *options(settings), "--set", "teacher.decay_from=0.5", "--plan")
    assert kept.code == 0, kept.err


def test_a_shipped_teacher_of_other_settings_is_not_taken_without_a_word() -> None:
    step = Step("teacher", "hopper/medium", "td3_bc")
    refused = reproduction("obd-table-1", settings={"teacher.steps": 7}).look(step)
    assert "was trained with steps = 60000, and 7 is asked for" in refused.problem
    assert "`obdbench teacher train hopper/medium --recipe td3_bc --seed 0 --set steps=7`" in (
        refused.problem
    )
    for accepted in (
        reproduction("obd-table-1"),
        reproduction("obd-table-1", "paper", "own"),
        reproduction("obd-table-1", settings={"teacher.steps": 60_000}),
    ):
        assert accepted.look(step).done


def test_a_teacher_of_the_authors_is_imported_and_never_trained(
    cli: Any, mirror: FileServer, own_folders: Path
) -> None:
    settings = {**TINY, "teacher": '"cal_ql_authors"'}
    assert "no run of d4rl_main_table.toml" in cli(*PAPER, *options(settings), "--plan").err
    untrained = {k: v for k, v in settings.items() if not k.startswith("teacher.")}
    command = [*PAPER, *options(untrained), "--plan"]
    missing = cli(*command)
    assert missing.code == 1 and "Nothing was started: 1 thing is missing." in missing.err
    assert "teacher import FILE.pt --dataset d4rl/hopper-medium-v2" in " ".join(missing.err.split())
    path = imported_path("d4rl/hopper-medium-v2")
    path.parent.mkdir(parents=True)
    path.write_bytes(b"")
    there = cli(*command)
    assert there.code == 0, there.err
    assert re.search(r"cal_ql_authors on d4rl/hopper-medium-v2 +│ there +│ +│ imported", there.out)


@pytest.mark.parametrize("trained_meanwhile", [True, False])
def test_a_teacher_that_another_process_trains_meanwhile_is_taken(
    trained_meanwhile: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = Step("teacher", "d4rl/hopper-medium-v2", "cal_ql_corl")
    looks = iter([step, dataclasses.replace(step, done=trained_meanwhile)])
    work: Any = SimpleNamespace(look=lambda _: next(looks), teacher_settings={})

    def refuse(*_: Any) -> None:
        raise BadConfiguration("exists already")

    monkeypatch.setattr("obdbench.cli.teacher.train_teacher", refuse)
    with contextlib.nullcontext() if trained_meanwhile else pytest.raises(BadConfiguration):
        _prepare(work, [step])
    assert not list(looks)


def test_on_a_cluster_teachers_are_jobs_and_the_runs_follow_them(
    cli: Any,
    mirror: FileServer,
    record_store: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    scheduler = FakeScheduler()
    monkeypatch.setattr("slurm.live_jobs.Scheduler", lambda: scheduler)
    journal = fake_sbatch(tmp_path / "bin", monkeypatch)
    datasets = ["d4rl/hopper-medium-v2", "d4rl/hopper-random-v2"]
    file = write_file(tmp_path / "random.hdf5", stand_in_for_random())
    assert cli("data", "import", file, "--as", datasets[1]).code == 0
    command = [*PAPER, *options({**TINY, "datasets": json.dumps(datasets)}), "--profile", "cpu"]
    first = cli(*command)
    assert first.code == 0, first.err
    assert first.err.count("submitted") == 2 and "The same command goes on" in first.err
    names = [line.split()[0] for line in journal.read_text().splitlines()]
    assert [name.rpartition(".")[0][:12] for name in names] == ["obd.teacher."] * 2

    scheduler.jobs = taken(journal)
    assert cli(*command).err.count(": pending") == 2
    assert len(journal.read_text().splitlines()) == 2, "a live job was sent twice"
    scheduler.jobs = taken(journal, "FAILED")
    refused = cli(*command)
    assert refused.code == 1 and "ended without a result; `--retry failed` sends it" in refused.err

    for work in sorted((record_store / "jobs").glob("obd.teacher.*/0.json")):
        words = json.loads(work.read_text())["words"]
        assert words[1:3] == ["-m", "obdbench"]
        trained = cli(*words[3:], "--episodes", "1")
        assert trained.code == 0, trained.err
    sent = cli(*command)
    assert sent.code == 0, sent.err
    assert f"{2 * CELLS} runs in" in sent.out and "submitted" in sent.out
    assert not list(record_store.glob("*/seed0/record.json"))


# --- sweeps by scale and data --------------------------------------------------------------------
def test_every_exhibit_on_a_sweep_has_a_small_plan_and_obds_have_the_papers() -> None:
    shipped = shipped_sweeps()
    for name, exhibit in reproducible().items():
        assert reproduction(name).sweep.name == exhibit.sweep
        if f"d4rl_{exhibit.sweep}" in shipped:
            assert reproduction(name, "paper", "d4rl").sweep.name == f"d4rl_{exhibit.sweep}"
    paper = {e.name for e in reproducible().values() if f"d4rl_{e.sweep}" in shipped}
    assert {f"obd-table-{number}" for number in (1, 2, 3, 4, 5)} | {"sdw-main"} <= paper


def test_data_can_be_exchanged_at_both_scales() -> None:
    small = reproduction("obd-table-1", "small", "d4rl")
    assert {run.dataset for run in small.sweep.runs} == {
        run.dataset for run in reproduction("obd-table-1", "paper", "d4rl").sweep.runs
    }
    assert {run.teacher for run in small.sweep.runs} == {"none", "cal_ql_corl"}
    own = reproduction("obd-table-1", "paper", "own")
    assert {run.dataset for run in own.sweep.runs} == {
        run.dataset for run in reproduction("obd-table-1").sweep.runs
    }
    assert {run.teacher for run in own.sweep.runs} == {"none", "td3_bc"}
    steps = {
        (run.dataset.partition("/")[0], run.parameters.get("outer_steps"))
        for run in own.sweep.runs
        if run.method == "dbc_published"
    }
    default = METHODS["dbc_published"].outer_steps  # type: ignore[attr-defined]
    assert default == 50_000
    assert steps == {("halfcheetah", 200_000), ("hopper", None), ("walker2d", 200_000)}
    names = {small.sweep.name, own.sweep.name, "main_table", "d4rl_main_table"}
    assert len(names) == 4, "sweeps of different runs share a name"


def test_a_setting_changes_every_method_that_has_it_and_the_name() -> None:
    settings = {"outer_steps": 7, "synthetic_size": 5, "student.width": 8, "seeds": 2}
    changed = reproduction("obd-table-5", "paper", "d4rl", settings)
    for run in changed.sweep.runs:
        assert run.resolved_parameters.get("outer_steps", 7) == 7
        assert run.resolved_parameters["synthetic_size"] == 5, "an axis was kept"
        assert run.student.width == 8 and run.seed < 2
    assert changed.sweep.name.startswith("d4rl_sizes.")
    again = reproduction("obd-table-5", "paper", "d4rl", {**settings, "seeds": 1})
    assert again.sweep.name != changed.sweep.name
    nested = reproduction("obd-table-2", settings={"evaluation_student.depth": 3})
    assert {(run.evaluation_student or run.student).depth for run in nested.sweep.runs} == {3}


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["obd-tabel-1"], "Did you mean 'obd-table-1'"),
        (["obd-figure-2"], "No table or figure that stands on a sweep is called 'obd-figure-2'"),
        (["obd-table-1", "--scale", "papr"], "--scale is 'papr'. Did you mean 'paper'"),
        (["obd-table-1", "--data", "d4lr"], "--data is 'd4lr'. Did you mean 'd4rl'"),
        (["hades-cartpole", "--scale", "paper"], "has no sweep at the paper's scale; expected one"),
        (["hades-cartpole", "--data", "d4rl"], "cartpole/mixed, of which D4RL has no counterpart"),
        (["obd-table-1", "--set", "outer_step=3"], "Did you mean 'outer_steps'"),
        (["obd-table-1", "--set", "student.widht=3"], "Unknown key 'widht'"),
        (
            ["obd-table-1", "--plan", "--mirror", "http://127.0.0.1:9"],
            "no run of main_table is on one of",
        ),
        (
            ["obd-table-1", "--jobs", "2", "--profile", "cpu"],
            "--jobs 2 is for runs on this machine",
        ),
        (
            ["hades-cartpole", "--plan", "--set", "teacher.stpes=3"],
            "a teacher that is trained here",
        ),
        (["obd-table-1", "--retry", "all"], "--retry takes 'failed', got 'all'"),
        (
            ["obd-table-1", "--set", 'datasets=["local/mine"]', "--plan"],
            "The dataset local/mine is not in the local store",
        ),
    ],
)
def test_a_mistake_is_answered_with_what_was_meant(
    arguments: list[str], says: str, cli: Any
) -> None:
    refused = cli("reproduce", *arguments)
    assert refused.code == 1
    assert says in " ".join(refused.err.split())


def test_the_list_has_every_exhibit(cli: Any) -> None:
    listed = cli("reproduce", "--list")
    assert listed.code == 0 and listed.out == cli("reproduce").out
    for name in reproducible():
        assert f"│ {name} " in listed.out

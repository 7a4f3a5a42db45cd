"""A run: its record says all that happened; a killed one ends with an unkilled one's numbers."""

from __future__ import annotations

import errno
import json
import math
import multiprocessing
import os
import platform
import random
import re
import shutil
import signal
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from baselines.obd import DBC
from baselines.outer_loop import Targets
from benchmark import materials, provenance, run
from benchmark.datasets.catalog import load_dataset
from benchmark.datasets.dataset import Dataset
from benchmark.datasets.source import DatasetName
from benchmark.errors import ObdBenchError
from benchmark.files import file_sha256
from benchmark.heartbeat import ALIVE
from benchmark.method import Monitor, Problem
from benchmark.record import FILE, Record, read_record
from benchmark.registry import load_plugin
from benchmark.run import WorkerDied, _locked, existing_record, record_death, run_folder
from benchmark.spec import RunSpec
from benchmark.state import load_state, save_state
from benchmark.stopping import Stopped, StopRequest
from benchmark.synthetic_set import SyntheticSet, load_synthetic_set
from benchmark.teachers.teacher import NetworkTeacher
from tests.tiny_runs import PLUGIN, PROTOCOL, STUDENT, execute, numbers, sets, tiny_spec

STATE = "state.safetensors"


@pytest.fixture(scope="module", autouse=True)
def misbehaving_methods() -> None:
    load_plugin(PLUGIN)


@pytest.fixture(scope="module")
def spec(small_dataset_name: str) -> RunSpec:
    return tiny_spec("dbc", small_dataset_name, outer_steps=5)


@pytest.fixture(scope="module")
def done(spec: RunSpec, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Record]:
    """A store with one uninterrupted run, and its record."""
    store = tmp_path_factory.mktemp("uninterrupted")
    return store, execute(spec, store)


# --- what a record says -----------------------------------------------------------------------


def test_record_holds_every_return_and_the_mean_over_the_last_checkpoints(
    spec: RunSpec, done: tuple[Path, Record]
) -> None:
    store, record = done
    assert record == read_record(run_folder(store, spec) / FILE)
    assert (record.status, record.error) == ("complete", None)
    # Every second step, and the last one, which is not a second one.
    assert [c.outer_step for c in record.checkpoints] == [0, 2, 4, 5]
    reference = load_dataset(DatasetName.parse(spec.dataset)).reference
    for checkpoint in record.checkpoints:
        returns = np.array(checkpoint.returns)
        assert returns.shape == np.shape(checkpoint.lengths) == (2, 2)
        assert checkpoint.mean_return == pytest.approx(returns.mean())
        normalized = (
            100 * (returns.mean() - reference.random) / (reference.expert - reference.random)
        )
        assert checkpoint.normalized_return == pytest.approx(normalized)
    last = record.checkpoints[-2:]
    assert record.score.outer_steps_used == [4, 5]
    assert record.score.return_ == pytest.approx(np.mean([c.mean_return for c in last]))
    expected = pytest.approx(np.mean([c.normalized_return for c in last]))
    assert record.score.normalized_return == expected


def test_every_checkpoint_leaves_its_set_with_a_card_that_says_where_it_comes_from(
    spec: RunSpec, done: tuple[Path, Record]
) -> None:
    store, record = done
    actions = []
    for checkpoint in record.checkpoints:
        path = run_folder(store, spec) / checkpoint.synthetic_set
        assert file_sha256(path) == checkpoint.sha256
        synthetic, _, card = load_synthetic_set(path)
        assert len(synthetic) == 4
        assert (card["run_id"], card["outer_step"]) == (spec.run_id, checkpoint.outer_step)
        assert RunSpec.from_dict(card["spec"]) == spec
        actions.append(synthetic.actions)
    assert not actions[0].equal(actions[-1])


def test_record_says_what_it_cost_and_where_it_comes_from(
    spec: RunSpec, done: tuple[Path, Record]
) -> None:
    _, record = done
    cost = record.cost
    played = sum(np.sum(c.lengths) for c in record.checkpoints)
    assert cost.evaluation_environment_steps == played
    assert (cost.outer_steps, cost.environment_steps, cost.attempts) == (5, 0, 1)
    assert cost.wall_seconds > 0
    assert cost.cpu_seconds > 0
    assert cost.evaluation_wall_seconds > 0
    seconds = cost.checkpoint_cpu_seconds
    assert len(seconds) == len(record.checkpoints)
    assert 0 < seconds[0] < seconds[-1] <= cost.cpu_seconds
    assert cost.peak_memory_bytes > 50e6
    assert record.needs == ["dataset"]
    assert record.reference is False
    assert record.teacher is None
    assert record.spec == spec
    assert record.parameters == spec.resolved_parameters
    assert record.run_id == f"{record.cell_id}.seed0" == spec.run_id
    provenance = record.provenance
    dataset = load_dataset(DatasetName.parse(spec.dataset))
    assert provenance.dataset_sha256 == dataset.sha256
    assert provenance.seeds.seed == spec.seed
    assert provenance.seeds.distillation == spec.distillation_axes
    assert provenance.seeds.scoring == spec.scoring_axes
    assert provenance.environment == "Hopper-v5"
    assert provenance.host == platform.node()
    assert {"torch", "mujoco", "gymnasium"} <= set(provenance.packages)
    assert record.started <= record.finished


@pytest.mark.parametrize(
    "changed",
    [
        {"evaluation_student": replace(STUDENT, depth=3)},
        {"protocol": replace(PROTOCOL, ensemble=2)},
    ],
)
def test_runs_that_differ_in_who_is_scored_distil_the_same_sets(
    changed: dict[str, Any], spec: RunSpec, done: tuple[Path, Record], tmp_path: Path
) -> None:
    other = replace(spec, **changed)
    record = execute(other, tmp_path)
    assert other.run_id != spec.run_id
    assert other.distillation_axes == spec.distillation_axes
    for name in (checkpoint.synthetic_set for checkpoint in record.checkpoints):
        found, expected = (
            load_synthetic_set(run_folder(store, run) / name)[0]
            for store, run in ((tmp_path, other), (done[0], spec))
        )
        assert torch.equal(found.observations, expected.observations)
        assert torch.equal(found.actions, expected.actions)
    assert record.score != done[1].score


def test_record_of_a_method_with_a_teacher_names_the_teacher(
    small_dataset_name: str, tiny_teacher: Any, tmp_path: Path
) -> None:
    record = execute(tiny_spec("teacher", small_dataset_name), tmp_path)
    assert record.status == "complete"
    assert record.needs == ["dataset", "teacher"]
    assert record.reference is True
    assert record.teacher.name == "td3_bc"
    assert len(record.teacher.sha256) == 64
    # A policy is scored as it is: one of it, and there is no set to keep.
    assert np.shape(record.checkpoints[0].returns) == (1, 2)
    assert record.checkpoints[0].synthetic_set is None


def test_a_record_says_where_its_teacher_comes_from(
    small_dataset_name: str, tiny_teacher: NetworkTeacher
) -> None:
    loaded = materials.Materials.load(tiny_spec("teacher", small_dataset_name))
    origin = {
        "dataset": "hopper/medium",
        "dataset_sha256": "2" * 64,
        "checkpoint_sha256": "1" * 64,
    }
    teacher = replace(tiny_teacher, facts={**tiny_teacher.facts, **origin})
    facts = replace(loaded, teacher=teacher).teacher_facts()
    assert facts is not None
    assert {key: getattr(facts, key) for key in origin} == origin


def test_a_shipped_teacher_that_learned_from_other_data_is_named_once(
    small_dataset: Dataset, caplog: pytest.LogCaptureFixture
) -> None:
    spec = tiny_spec("teacher", small_dataset.name)
    materials._say_other_data.cache_clear()
    _, second = (materials.Materials.load(spec) for _ in range(2))
    learned = second.teacher_facts()
    assert learned is not None and learned.dataset == "hopper/medium"
    assert learned.dataset_sha256 not in (None, small_dataset.sha256)
    (said,) = caplog.messages
    assert small_dataset.sha256[:16] in said and learned.dataset_sha256[:16] in said
    assert said.endswith("obdbench teacher train hopper/medium@2000 --recipe td3_bc")


def test_a_done_run_leaves_nothing_but_its_record_and_sets(
    spec: RunSpec, done: tuple[Path, Record]
) -> None:
    store, record = done
    kept = {path.name for path in run_folder(store, spec).iterdir()}
    assert kept == {FILE, *(c.synthetic_set for c in record.checkpoints)}


@pytest.mark.parametrize("left", [STATE, ALIVE, ".record.json.x1.tmp", ".tmpAbC"])
def test_what_a_process_left_that_died_after_its_record_is_removed(
    left: str, spec: RunSpec, done: tuple[Path, Record], tmp_path: Path
) -> None:
    store = tmp_path / "store"
    shutil.copytree(done[0], store)
    before = {path.name for path in run_folder(store, spec).iterdir()}
    (run_folder(store, spec) / left).write_bytes(b"{}")
    assert execute(spec, store) == done[1]
    assert {path.name for path in run_folder(store, spec).iterdir()} == before


@pytest.mark.parametrize("device", ["tpu", "meta", "cuda:99"])
def test_a_device_that_is_not_there_is_refused_before_anything_is_written(
    device: str, spec: RunSpec, tmp_path: Path
) -> None:
    with pytest.raises(ObdBenchError, match=r"expected 'cpu' or 'cuda'|sees 0 CUDA devices"):
        execute(spec, tmp_path / "store", device=device)
    assert not (tmp_path / "store").exists()


def test_a_complete_run_is_not_done_again(spec: RunSpec, done: tuple[Path, Record]) -> None:
    store, record = done
    path = run_folder(store, spec) / FILE
    before = path.stat().st_mtime_ns
    assert execute(spec, store) == record
    assert path.stat().st_mtime_ns == before


# --- what goes wrong is a record too ----------------------------------------------------------


@pytest.mark.parametrize(
    ("message", "kind", "says"),
    [
        ("no engine here", "ValueError", "no engine here"),
        ("", "ObdBenchError", "The engine of the method no_engine is None; expected a name."),
    ],
)
def test_a_method_that_cannot_name_its_engine_leaves_a_failed_record(
    message: str, kind: str, says: str, small_dataset_name: str, tmp_path: Path
) -> None:
    spec = tiny_spec("no_engine", small_dataset_name, message=message)
    record = execute(spec, tmp_path)
    assert record == read_record(run_folder(tmp_path, spec) / FILE)
    assert (record.status, record.error.type, record.error.message) == ("failed", kind, says)


def test_a_method_that_raises_leaves_a_failed_record_with_its_error(
    small_dataset_name: str, tmp_path: Path
) -> None:
    spec = tiny_spec("raises", small_dataset_name)
    record = execute(spec, tmp_path)
    assert record == read_record(run_folder(tmp_path, spec) / FILE)
    assert (record.status, record.score) == ("failed", None)
    assert record.error.type == "ValueError"
    assert record.error.message == "the third step went wrong"
    assert "misbehaving_methods.py" in record.error.traceback
    assert 'File "benchmark/run.py"' in record.error.traceback
    assert str(Path(materials.__file__).parent) not in record.error.traceback
    assert len(record.checkpoints) == 1
    assert not (run_folder(tmp_path, spec) / ALIVE).exists()


@pytest.mark.parametrize(
    ("method", "error", "says"),
    [
        ("silent", "ObdBenchError", "silent ended without a checkpoint"),
        ("goes_back", "ObdBenchError", "for outer step 1 after one for 2; outer steps must rise"),
        (
            "diverges",
            "NotFinite",
            "The actions of a synthetic set: 12 of 12 values are not finite. The method had "
            "reached outer step 0. Diverges has no learning rate that could be "
            "lowered",
        ),
        ("bad_policy", "ObdBenchError", "2 of 2 returns at outer step 0 are not finite"),
        ("peeks", "UndeclaredNeed", "problem.environment without declaring it"),
    ],
)
def test_a_failed_record_says_what_went_wrong(
    method: str, error: str, says: str, small_dataset_name: str, tmp_path: Path
) -> None:
    record = execute(tiny_spec(method, small_dataset_name), tmp_path)
    assert (record.status, record.error.type) == ("failed", error)
    assert says in record.error.message


def test_students_that_diverge_fail_the_run_with_a_message(
    small_dataset_name: str, tmp_path: Path
) -> None:
    spec = tiny_spec("random", small_dataset_name)
    record = execute(replace(spec, student=replace(STUDENT, learning_rate=1e30)), tmp_path)
    assert record.status == "failed"
    assert "are not finite: the policies that were scored diverged" in record.error.message
    assert re.search(
        r"Lower the learning rate of the student that is scored \(1e\+30\), unless the set itself "
        r"is far outside the data \(its observations reach [\d.]+, its actions .*\)\. Then: "
        r"RandomSelection has no learning rate",
        record.error.message,
    )


@pytest.mark.parametrize("method", ["dbc", "distribution_matching"])
def test_a_diverging_distillation_names_the_step_and_the_settings_of_its_method(
    method: str, small_dataset_name: str, tmp_path: Path
) -> None:
    spec = tiny_spec(method, small_dataset_name, outer_learning_rate=1e36)
    # Outer steps of DBC alone saturate. Students of two layers may overflow to infinity and
    # saturate too, which is finite; the third layer multiplies infinities of both signs.
    rate = 1e30 if method == "dbc" else STUDENT.learning_rate
    diverges = replace(STUDENT, learning_rate=rate, depth=4)
    record = execute(replace(spec, student=diverges, evaluation_student=STUDENT), tmp_path)
    found = re.fullmatch(
        r"The .* after the update of outer step (\d): \d+ of \d+ values are not finite\. The "
        r"method had reached outer step \1\. The distillation diverged: lower outer_learning_rate "
        rf"\(1e\+36\) or student\.learning_rate \({re.escape(f'{rate:g}')}\)\.",
        record.error.message,
    )
    assert found, record.error.message


@pytest.mark.parametrize(("method", "device"), [("random", "cpu"), ("reads_device", "cuda")])
def test_a_record_names_a_device_that_its_method_has_asked_for(
    method: str,
    device: str,
    small_dataset_name: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Asked for a GPU, of which the machine has none: random selection does not use it."""
    for module in (materials, run):
        monkeypatch.setattr(module, "checked_device", torch.device)
    monkeypatch.setattr(provenance, "_device_name", lambda device: f"{device} (a name)")
    record = execute(tiny_spec(method, small_dataset_name), tmp_path, device="cuda")
    assert (record.status, record.provenance.device) == ("complete", f"{device} (a name)")


def test_a_dataset_that_is_not_there_is_named_with_the_command_that_builds_it(
    small_dataset_name: str, tmp_path: Path
) -> None:
    record = execute(tiny_spec("random", "hopper/medium@77"), tmp_path)
    assert record.status == "failed"
    assert "obdbench data build hopper/medium --size 77" in record.error.message
    assert record.provenance.dataset_sha256 is None


def test_a_failed_run_is_tried_again_and_counts_its_attempts(
    small_dataset_name: str, tmp_path: Path
) -> None:
    spec = tiny_spec("raises", small_dataset_name)
    attempts = [execute(spec, tmp_path).cost.attempts for _ in range(3)]
    assert attempts == [1, 2, 3]


def test_a_run_that_failed_since_it_was_planned_is_left_alone(
    small_dataset_name: str, tmp_path: Path
) -> None:
    """Until a retry plans it anew."""
    spec, conditions = tiny_spec("raises", small_dataset_name), run.Conditions(tmp_path)
    for attempts in (1, 2):
        planned = run.record_times(tmp_path, [spec])
        for _ in range(3):
            (record,) = run.execute([spec], conditions, planned)
            assert (record.status, record.cost.attempts) == ("failed", attempts)


# --- the same spec, the same numbers ----------------------------------------------------------


def test_the_same_spec_gives_the_same_numbers_whatever_ran_before(
    spec: RunSpec, done: tuple[Path, Record], small_dataset_name: str, tmp_path: Path
) -> None:
    store, record = done
    execute(tiny_spec("random", small_dataset_name, seed=3), tmp_path)
    np.random.default_rng().random()
    assert numbers(execute(spec, tmp_path)) == numbers(record)
    assert sets(tmp_path, spec) == sets(store, spec)


def test_another_seed_gives_other_numbers_in_the_same_cell(
    spec: RunSpec, done: tuple[Path, Record], tmp_path: Path
) -> None:
    other = execute(spec.with_seed(1), tmp_path)
    assert other.cell_id == done[1].cell_id
    assert numbers(other) != numbers(done[1])


# --- killed and resumed -----------------------------------------------------------------------


class Bomb:
    """Raises when a run reports this step, once."""

    def __init__(self, step: int, error: BaseException) -> None:
        self.step, self.error = step, error

    def __call__(self, run_id: str, step: int, total: int) -> None:
        if step == self.step:
            self.step = -1
            raise self.error


@pytest.mark.parametrize("error", [KeyboardInterrupt(), RuntimeError("a node went away")])
@pytest.mark.parametrize("step", [0, 1, 2, 5])
def test_a_run_interrupted_at_any_step_ends_with_the_same_numbers(
    step: int, error: BaseException, spec: RunSpec, done: tuple[Path, Record], tmp_path: Path
) -> None:
    bomb = Bomb(step, error)
    if isinstance(error, KeyboardInterrupt):
        with pytest.raises(KeyboardInterrupt):
            execute(spec, tmp_path, bomb, save_every=0)
        assert existing_record(run_folder(tmp_path, spec)) is None
    else:
        assert execute(spec, tmp_path, bomb, save_every=0).status == "failed"
    assert (run_folder(tmp_path, spec) / STATE).exists() == (step > 0)

    steps: list[int] = []
    record = execute(spec, tmp_path, lambda _, at, total: steps.append(at), save_every=0)
    assert steps[0] == max(step - 1, 0), "goes on from the last saved step, not from the start"
    assert numbers(record) == numbers(done[1])
    assert sets(tmp_path, spec) == sets(done[0], spec)
    assert record.cost.attempts == 2
    assert len(record.cost.checkpoint_cpu_seconds) == len(record.checkpoints)


def test_cost_adds_up_over_attempts(spec: RunSpec, tmp_path: Path) -> None:
    def slow(_: str, step: int, total: int) -> None:
        time.sleep(0.1)
        if step == 4 and len(begun) < 3:
            raise RuntimeError("again")

    begun: list[Record] = []
    for _ in range(3):
        begun.append(execute(spec, tmp_path, slow, save_every=0))
    # Every step sleeps. The first attempt ends in step 4, with the state of step 3 or later; each
    # further one begins with what was spent by then.
    walls = [record.cost.wall_seconds for record in begun]
    assert walls[0] > 0.5
    assert walls[1] > 0.4 + 0.1
    assert walls[2] > 0.4 + 0.3


def test_state_is_not_written_more_often_than_asked(spec: RunSpec, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        execute(spec, tmp_path, Bomb(5, KeyboardInterrupt()))
    assert not (run_folder(tmp_path, spec) / STATE).exists()


def test_a_disk_that_is_full_for_a_while_costs_a_save_and_no_run(
    spec: RunSpec, done: tuple[Path, Record], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    def full(path: Path, *_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    monkeypatch.setattr("benchmark.monitor.save_state", full)
    assert numbers(execute(spec, tmp_path, save_every=0.0)) == numbers(done[1])
    assert f"state of {spec.run_id} was not saved at outer step 1, and the run goes on" in (
        caplog.text
    )
    stop, other = StopRequest(), tmp_path / "stopped"
    stop.ask()
    with pytest.raises(Stopped):  # before anything is done
        execute(spec, other, stop=stop)
    asked = StopRequest()
    record = execute(spec, other, stop=asked, on_progress=lambda *_: asked.ask())
    assert record.status == "failed" and "No space left" in record.error.message


@pytest.mark.parametrize("content", [b"", b"not a state", b"\x08\0\0\0\0\0\0\0{}      "])
def test_a_corrupted_state_fails_the_run_and_says_which_file_to_remove(
    content: bytes, spec: RunSpec, done: tuple[Path, Record], tmp_path: Path
) -> None:
    state = run_folder(tmp_path, spec) / STATE
    state.parent.mkdir(parents=True)
    state.write_bytes(content)
    record = execute(spec, tmp_path)
    assert record.status == "failed"
    assert f"The saved state {state} cannot be read" in record.error.message
    assert "Remove it" in record.error.message
    state.unlink()
    assert numbers(execute(spec, tmp_path)) == numbers(done[1])


def test_a_state_cut_short_is_an_error_too(spec: RunSpec, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        execute(spec, tmp_path, Bomb(3, KeyboardInterrupt()), save_every=0)
    state = run_folder(tmp_path, spec) / STATE
    state.write_bytes(state.read_bytes()[:-7])
    record = execute(spec, tmp_path)
    assert record.status == "failed"
    assert "Remove it to start that work anew" in record.error.message


def test_the_set_that_a_method_starts_from_is_not_part_of_its_score(
    small_dataset_name: str, tmp_path: Path
) -> None:
    """Two of three checkpoints count though four were asked for; a selection's only one counts."""
    protocol = replace(PROTOCOL, last=4, checkpoint_every=3)
    steps = {
        name: execute(replace(tiny_spec(name, small_dataset_name), protocol=protocol), tmp_path)
        for name in ("dbc", "random")
    }
    assert [c.outer_step for c in steps["dbc"].checkpoints] == [0, 3, 6]
    assert steps["dbc"].score.outer_steps_used == [3, 6]
    assert steps["random"].score.outer_steps_used == [0]


def test_a_recorded_death_keeps_the_state_and_the_log(
    spec: RunSpec, done: tuple[Path, Record], tmp_path: Path
) -> None:
    with pytest.raises(KeyboardInterrupt):
        execute(spec, tmp_path, Bomb(3, KeyboardInterrupt()), save_every=0)
    assert record_death(spec, tmp_path, WorkerDied.with_log("Killed: out of memory"))
    record = read_record(run_folder(tmp_path, spec) / FILE)
    assert (record.status, record.error.type) == ("failed", "WorkerDied")
    assert "Killed: out of memory" in record.error.message
    assert record.cost.attempts == 1
    assert record.checkpoints == done[1].checkpoints[:2]
    again = execute(spec, tmp_path)
    assert numbers(again) == numbers(done[1])
    assert again.cost.attempts == 2


def test_a_death_is_recorded_even_where_the_state_cannot_be_read(
    spec: RunSpec, tmp_path: Path
) -> None:
    folder = run_folder(tmp_path, spec)
    folder.mkdir(parents=True)
    (folder / STATE).write_bytes(b"torn")
    assert record_death(spec, tmp_path, WorkerDied("Killed"))
    assert read_record(folder / FILE).error.type == "WorkerDied"


def _attempt(run: dict[str, Any], store: str, environment: dict[str, str]) -> None:
    """What a worker does, under this environment."""
    os.environ.update(environment)
    execute(RunSpec.from_dict(run), Path(store), save_every=0)


def test_a_run_killed_at_random_moments_ends_with_the_same_numbers(
    small_dataset_name: str, tmp_path: Path
) -> None:
    spec = tiny_spec("dbc", small_dataset_name, outer_steps=100)
    whole = execute(spec, tmp_path / "whole")
    store = tmp_path / "killed"
    folder = run_folder(store, spec)
    server = multiprocessing.get_context("forkserver")
    slow_imports = ["benchmark.run", "benchmark.environments.mujoco_batch", "torch._dynamo"]
    server.set_forkserver_preload(slow_imports)
    names = ("MINARI_DATASETS_PATH", "OBDBENCH_CACHE")
    arguments = (spec.as_dict(), str(store), {name: os.environ[name] for name in names})

    rng, reached = random.Random(20), 0
    attempts = [0, *(rng.randint(1, 6) for _ in range(5))]  # the first is killed where it begins
    for steps in attempts:
        target = reached + steps
        process = server.Process(target=_attempt, args=arguments)
        process.start()
        while not (_begun(folder, process.pid) and _saved(folder) >= target):
            assert process.is_alive(), "the run was over before it was killed"
            time.sleep(0.01)
        time.sleep(rng.uniform(0.0, 0.03))
        process.kill()
        process.join(60)
        assert process.exitcode == -signal.SIGKILL, "the run was over before it was killed"
        assert existing_record(folder) is None, "half a run has a record"
        reached = _saved(folder)

    record = execute(spec, store, save_every=0)
    assert numbers(record) == numbers(whole)
    assert sets(store, spec) == sets(tmp_path / "whole", spec)
    assert record.cost.attempts == len(attempts) + 1
    kept = {path.name for path in folder.iterdir()}
    assert kept == {FILE, *(c.synthetic_set for c in record.checkpoints)}


def _begun(folder: Path, pid: int | None) -> bool:
    """Whether this process said that it works on the run; no file is ever seen half-written."""
    path = folder / ALIVE
    return path.exists() and json.loads(path.read_text())["pid"] == pid


def _saved(folder: Path) -> int:
    """The outer step that a next attempt goes on from."""
    path = folder / STATE
    while path.exists():
        try:
            return int(load_state(path)[1]["method"]["step"])
        except ObdBenchError:  # safetensors opens a path twice: the run replaced it in between
            time.sleep(0.005)
    return 0


def stopped_run(dataset: str, store: Path) -> RunSpec:
    """A run of 20 outer steps that has saved its state and stopped at the tenth."""
    spec = tiny_spec("dbc", dataset, outer_steps=20)

    def bomb(run: str, step: int, total: int) -> None:
        if step == 10:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        execute(spec, store, bomb, save_every=0)
    return spec


def test_a_state_saved_on_other_data_is_refused(small_dataset_name: str, tmp_path: Path) -> None:
    spec = stopped_run(small_dataset_name, tmp_path)
    path = run_folder(tmp_path, spec) / STATE
    tensors, facts = load_state(path)
    save_state(path, tensors, {**facts, "digests": {"the data": "0" * 64}})
    error = execute(spec, tmp_path).error
    assert "was saved with the data of sha256 0000" in error.message
    assert "remove the file to start this run anew" in error.message


def test_a_state_saved_with_other_contacts_is_refused(
    small_dataset_name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A Hopper-v4 of MuJoCo 4 that an older version scored, whose state names no contacts."""
    spec = stopped_run(small_dataset_name, tmp_path)
    monkeypatch.setattr("benchmark.monitor.contact_rule", lambda env_id: "another")
    error = execute(spec, tmp_path).error
    assert "was saved with other contacts in Hopper-v5 (no rule named)" in error.message


def test_a_run_that_waits_for_another_process_hears_a_stop(
    small_dataset_name: str, tmp_path: Path
) -> None:
    spec, stop = tiny_spec("random", small_dataset_name), StopRequest()
    timer = threading.Timer(0.3, stop.ask)
    with _locked(tmp_path, [spec]), pytest.raises(Stopped):
        timer.start()
        execute(spec, tmp_path, stop=stop)
    assert execute(spec, tmp_path).status == "complete"


def test_a_run_that_is_waited_for_is_named_once(
    small_dataset_name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    spec, stop = tiny_spec("random", small_dataset_name), StopRequest()
    monkeypatch.setattr(run, "SILENT_SECONDS", 0.2)
    timer = threading.Timer(0.8, stop.ask)
    with _locked(tmp_path, [spec]), pytest.raises(Stopped):
        timer.start()
        execute(spec, tmp_path, stop=stop)
    (said,) = caplog.messages
    lock = run_folder(tmp_path, spec).with_name(".seed0.lock")
    assert said == (
        f"Another process works on {spec.run_id}, which is waited for (its lock: {lock})."
    )


def test_two_processes_never_work_on_one_run(small_dataset_name: str, tmp_path: Path) -> None:
    """The second waits, and finds it done."""
    spec = tiny_spec("dbc", small_dataset_name, outer_steps=40)
    context = multiprocessing.get_context("forkserver")
    names = ("MINARI_DATASETS_PATH", "OBDBENCH_CACHE")
    arguments = (spec.as_dict(), str(tmp_path), {name: os.environ[name] for name in names})
    processes = [context.Process(target=_attempt, args=arguments) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
        assert process.exitcode == 0
    record = existing_record(run_folder(tmp_path, spec))
    assert record is not None
    assert record.status == "complete"
    assert record.cost.attempts == 1


def test_facts_that_a_method_notes_stand_in_its_record(
    small_dataset_name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    noted: dict[str, Any] = {"rate": 0.5, "chosen": "fast", "wild": math.inf}
    monkeypatch.setattr(
        DBC, "targets", lambda self, problem: Targets(problem.actions, None, facts=noted)
    )
    record = execute(tiny_spec("dbc", small_dataset_name), tmp_path)
    kept = record.method_facts
    assert (kept["rate"], kept["chosen"], kept["wild"]) == (0.5, "fast", None)
    assert kept["mean_weight"] == 1.0 and float(str(kept["gradient_norm_median"])) > 0

    noted.update(rate=np.float32(0.25), chosen=np.int64(3), wild=torch.tensor(True))
    record = execute(tiny_spec("dbc", small_dataset_name, seed=1), tmp_path)
    assert record.error is None, record.error
    kept = record.method_facts
    assert (kept["rate"], kept["chosen"], kept["wild"]) == (0.25, 3, 1)
    noted["chosen"] = "caf\udce9"  # a name of a file that is not UTF-8
    record = execute(tiny_spec("dbc", small_dataset_name, seed=2), tmp_path)
    assert record.method_facts["chosen"] == "caf\\udce9"


@pytest.mark.parametrize(
    ("rate", "says"),
    [
        ([0.5], "noted rate as list; a fact is one number or a text"),
        (2**63, "noted rate = 9223372036854775808, which is beyond 64 bits; note float(rate)"),
    ],
)
def test_a_fact_that_no_record_holds_fails_its_run(
    rate: Any, says: str, small_dataset_name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    targets = lambda self, problem: Targets(problem.actions, None, facts={"rate": rate})  # noqa: E731
    monkeypatch.setattr(DBC, "targets", targets)
    failed = execute(tiny_spec("dbc", small_dataset_name), tmp_path)
    assert failed.status == "failed"
    assert says in failed.failure.message


@pytest.mark.parametrize(
    ("step", "taken", "says"),
    [
        (np.int64(3), torch.tensor(7), None),
        (3.0, 7, "The method gave a result for outer step 3.0 (float); expected an integer"),
        (2**63, 7, "The method gave a result for outer step 9223372036854775808 (int)"),
        (3, -1, "The method counted environment steps: -1 (int); expected an integer, 0 or more"),
        (3, np.float64(0.5), "The method counted environment steps: np.float64(0.5) (float64)"),
    ],
)
def test_steps_are_counts(
    step: Any,
    taken: Any,
    says: str | None,
    small_dataset_name: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def distill(self: DBC, problem: Problem, monitor: Monitor) -> None:
        monitor.count_environment_steps(taken)
        monitor.checkpoint(step, SyntheticSet(problem.observations[:4], problem.actions[:4]))

    monkeypatch.setattr(DBC, "distill", distill)
    record = execute(tiny_spec("dbc", small_dataset_name), tmp_path)
    if says:
        assert record.status == "failed"
        assert says in record.failure.message
    else:
        assert [c.outer_step for c in record.checkpoints] == [3]
        assert record.cost.environment_steps == 7


def test_a_result_that_no_file_can_hold_is_a_failed_run_and_not_lost_work(
    small_dataset_name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = tiny_spec("dbc", small_dataset_name)
    monkeypatch.setattr("benchmark.record.MOST_BYTES", 4500)
    failed = execute(spec, tmp_path)
    assert failed == read_record(run_folder(tmp_path, spec) / FILE)
    assert failed.status == "failed"
    assert re.search(
        r"would have [\d,]+ bytes; at most 4,500 are read. Score fewer", failed.failure.message
    )
    assert failed.checkpoints == []
    monkeypatch.undo()
    assert execute(spec, tmp_path).status == "complete"


def test_a_machine_without_free_threads_does_not_end_a_run(
    small_dataset_name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    spec = tiny_spec("random", small_dataset_name)
    expected = execute(spec, tmp_path / "expected")
    monkeypatch.setattr("benchmark.heartbeat.threading.Thread.start", refuse)
    record = execute(spec, tmp_path / "threadless")
    assert numbers(record) == numbers(expected)
    assert not (run_folder(tmp_path / "threadless", spec) / ALIVE).exists()

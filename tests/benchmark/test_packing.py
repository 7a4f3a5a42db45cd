"""Packing: which runs go together, and that it changes nothing but the time."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from baselines.obd import DBC
from benchmark.datasets.catalog import load_dataset
from benchmark.datasets.dataset import Dataset
from benchmark.datasets.source import DatasetName
from benchmark.method import Assignment
from benchmark.packing import make_packs
from benchmark.record import FILE, Record, read_record, write_record
from benchmark.run import run_folder
from benchmark.spec import RunSpec
from benchmark.teachers.teacher import NetworkTeacher
from tests.tiny_runs import execute, execute_pack, numbers, sets, tiny_spec

pytestmark = pytest.mark.usefixtures("tiny_teacher")


@pytest.fixture
def runs(small_dataset_name: str) -> list[RunSpec]:
    """Two seeds of each objective."""
    return [
        tiny_spec(method, small_dataset_name, seed=seed)
        for seed in (0, 1)
        for method in ("dbc", "pbc", "av_pbc")
    ]


@pytest.fixture(autouse=True)
def one_thread() -> None:
    """The bits of a product depend on the number of threads."""
    torch.set_num_threads(1)


def test_objectives_and_seeds_of_one_student_go_together(runs: list[RunSpec]) -> None:
    assert make_packs(runs, largest=8) == [runs]


def test_a_group_is_split_by_size_and_by_processes(runs: list[RunSpec]) -> None:
    assert [len(pack) for pack in make_packs(runs, largest=4)] == [3, 3]
    assert [len(pack) for pack in make_packs(runs, largest=8, workers=2)] == [3, 3]
    assert [len(pack) for pack in make_packs(runs, largest=1)] == [1] * 6


def test_every_run_is_in_one_pack(runs: list[RunSpec], small_dataset_name: str) -> None:
    mixed = [
        tiny_spec("random", small_dataset_name),
        *runs,
        tiny_spec("teacher", small_dataset_name),
    ]
    packs = make_packs(mixed, largest=2, workers=2)
    assert sorted(run.run_id for pack in packs for run in pack) == sorted(r.run_id for r in mixed)


@pytest.mark.parametrize(
    "other",
    [
        {"parameters": {"outer_steps": 8}},
        {"parameters": {"outer_learning_rate": 0.2}},
        {"parameters": {"adjoint_noise": "fresh"}},
    ],
)
def test_other_outer_loops_stay_apart(
    runs: list[RunSpec], other: dict[str, dict[str, object]]
) -> None:
    changed = dataclasses.replace(runs[1], parameters={**runs[1].parameters, **other["parameters"]})
    assert len(make_packs([runs[0], changed], largest=8)) == 2


def test_other_students_and_datasets_stay_apart(runs: list[RunSpec]) -> None:
    wider = dataclasses.replace(runs[0], student=dataclasses.replace(runs[0].student, width=9))
    elsewhere = dataclasses.replace(runs[0], dataset="hopper/medium@2000")
    assert len(make_packs([runs[0], wider, elsewhere], largest=8)) == 3


def test_the_teacher_of_a_pack_is_asked_once(
    runs: list[RunSpec], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Four runs of six have it, and their actions and values are the same."""
    asked = {"act": 0, "q": 0}
    for name in asked:
        original = getattr(NetworkTeacher, name)

        def counted(*args: Any, name: str = name, original: Any = original) -> torch.Tensor:
            asked[name] += 1
            answer: torch.Tensor = original(*args)
            return answer

        monkeypatch.setattr(NetworkTeacher, name, counted)
    execute_pack(runs, tmp_path)
    assert asked == {"act": 1, "q": 1}


def test_the_dataset_of_a_pack_is_read_once(
    runs: list[RunSpec], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At D4RL's size a copy takes hundreds of MB, and a GPU's pack has 128 runs."""
    read: list[DatasetName] = []

    def counted(name: DatasetName) -> Dataset:
        read.append(name)
        return load_dataset(name)

    monkeypatch.setattr("benchmark.materials.load_dataset", counted)
    execute_pack(runs, tmp_path)
    assert len(runs) == 6 and len(read) == 1


@pytest.mark.parametrize("array", ["observations", "actions"])
def test_runs_that_a_pack_mate_gave_other_data_start_again_by_themselves(
    array: str, runs: list[RunSpec], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    """Also their saved states come from the changed data."""
    distil = DBC.distill_packed

    def writes(assignments: Sequence[Assignment]) -> None:
        getattr(assignments[0].problem.dataset, array)[:] *= 0.5
        distil(assignments)

    monkeypatch.setattr(DBC, "distill_packed", staticmethod(writes))
    execute_pack(runs, tmp_path / "packed", save_every=0.0)
    assert "changed the transitions of" in caplog.text
    monkeypatch.undo()
    for run in runs:
        packed = read_record(run_folder(tmp_path / "packed", run) / FILE)
        assert numbers(packed) == numbers(execute(run, tmp_path / "alone"))


def test_packed_records_are_those_of_the_runs_alone(runs: list[RunSpec], tmp_path: Path) -> None:
    """Bit for bit: scores, sets, which checkpoints; attempts are one."""
    execute_pack(runs, tmp_path / "packed")
    for run in runs:
        alone = execute(run, tmp_path / "alone")
        packed = read_record(run_folder(tmp_path / "packed", run) / FILE)
        assert numbers(packed) == numbers(alone)
        assert sets(tmp_path / "packed", run) == sets(tmp_path / "alone", run)
        assert packed.cost.attempts == 1


def test_the_seconds_of_a_pack_are_shared(runs: list[RunSpec], tmp_path: Path) -> None:
    execute_pack(runs, tmp_path)
    costs = [read_record(run_folder(tmp_path, run) / FILE).cost for run in runs]
    assert len({cost.wall_seconds for cost in costs}) == 1
    assert costs[0].wall_seconds > 0


def test_one_bad_run_of_a_pack_costs_the_others_nothing(
    runs: list[RunSpec], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A synthetic size above the data's: that run fails with its reason, the others complete."""
    too_large = {"synthetic_size": 5000}
    bad = dataclasses.replace(runs[0], parameters={**runs[0].parameters, **too_large})
    with caplog.at_level(logging.WARNING):
        execute_pack([bad, runs[1], runs[2]], tmp_path)
    assert "go on one by one" in caplog.text
    assert read_record(run_folder(tmp_path, bad) / FILE).error.type == "BadParameter"
    for run in runs[1:3]:
        record = read_record(run_folder(tmp_path, run) / FILE)
        assert numbers(record) == numbers(execute(run, tmp_path / "alone"))


def test_every_record_that_cannot_be_written_is_named_and_the_others_are_there(
    runs: list[RunSpec], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    unwritable = {run_folder(tmp_path, run) / FILE for run in runs[:2]}

    def write(path: Path, record: Record) -> None:
        if path in unwritable:
            raise OSError(f"no space left for {path}")
        write_record(path, record)

    monkeypatch.setattr("benchmark.run.write_record", write)
    with pytest.raises(OSError, match="2 records could not be written") as error:
        execute_pack(runs, tmp_path)
    assert all(f"no space left for {path}" in str(error.value) for path in unwritable)
    written = [run for run in runs if (run_folder(tmp_path, run) / FILE).exists()]
    assert written == runs[2:] and len(written) > 0

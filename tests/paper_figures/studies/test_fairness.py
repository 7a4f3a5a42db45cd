"""The study of fairness: groups and tails against plain loops, rows against a policy by hand."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from benchmark.contract.tiny import Toy, toy
from benchmark.density.log_densities import LogDensity
from benchmark.record import FILE, read_record, record_folder, write_record
from benchmark.seeds import torch_generator
from benchmark.students.student import train_on_set
from paper_figures.studies import fairness as module
from paper_figures.studies.fairness import Fairness, equal_groups, group_means, tail_mean
from paper_figures.studies.misalignment import Lesson
from paper_figures.studies.study import NothingToStudy, finished_set, source_of
from results.record_store import SHIPPED
from tests.tiny_runs import altered

NAME = "hopper/medium-expert"
RUN = "hopper-medium-expert.av_pbc.ce83cc58f10c.seed0"


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> Toy:
    """A toy problem in place of every dataset, teacher and density."""
    made = toy()
    monkeypatch.setattr(module, "load_dataset", lambda name: made.dataset)
    monkeypatch.setattr(module, "find_teacher", lambda data, name: made.teacher)
    density = LogDensity(made.log_density, {})
    monkeypatch.setattr(module, "find_or_fit", lambda data, fit: density)
    return made


def source() -> dict[str, Any]:
    record = read_record(SHIPPED / record_folder(RUN) / FILE)
    return {"sets": [{"method": "av_pbc", "seed": 0, **source_of(record)}]}


@pytest.mark.parametrize(("count", "groups"), [(20, 4), (23, 5), (3, 5)])
def test_groups_are_equal_parts_of_the_sorted_values(count: int, groups: int) -> None:
    values = torch.randn(count, generator=torch.Generator().manual_seed(0)).round(decimals=1)
    found = equal_groups(values, groups)
    sizes = [int((found == g).sum()) for g in range(groups)]
    assert max(sizes) - min(sizes) <= 1 and sum(sizes) == count
    for one in range(count):
        for other in range(count):
            if values[one] < values[other]:
                assert found[one] <= found[other]


def test_means_of_groups_are_those_of_a_loop_and_an_empty_group_has_none() -> None:
    draw = torch.Generator().manual_seed(1)
    errors = torch.rand(50, generator=draw)
    group = torch.randint(6, (50,), generator=draw)
    group[group == 3] = 5
    expected = []
    for g in sorted(set(group.tolist())):
        mine = [e for e, at in zip(errors.tolist(), group.tolist(), strict=True) if at == g]
        expected.append(sum(mine) / len(mine))
    assert len(expected) == 5
    np.testing.assert_allclose(group_means(errors, group), expected, rtol=1e-6)


@pytest.mark.parametrize(("share", "taken"), [(0.1, 3), (0.5, 14), (0.001, 1), (1.0, 27)])
def test_the_tail_is_the_mean_of_the_largest_errors(share: float, taken: int) -> None:
    errors = torch.rand(27, generator=torch.Generator().manual_seed(2))
    worst = sorted(errors.tolist())[-taken:]
    assert tail_mean(errors, share) == pytest.approx(sum(worst) / taken, rel=1e-6)


def test_a_row_is_what_students_of_the_set_do_on_the_states(made: Toy) -> None:
    study = Fairness(students_per_set=2, clone_steps=2, bins=3, cells=4, tail=0.2)
    row, whole = study.measure(NAME, source(), SHIPPED)
    assert [(r["method"], r["seed"]) for r in (row, whole)] == [("av_pbc", 0), ("bc_whole", 0)]
    found = finished_set(SHIPPED, source()["sets"][0])
    axes: dict[str, Any] = {"study": "fairness", "dataset": NAME, "seed": 0}
    students = [torch_generator(**axes, student=k) for k in (0, 1)]
    policy = train_on_set(found.student, found.pairs, found.scaling, students)
    states = torch.from_numpy(made.dataset.observations)
    acted = policy(states.numpy()[None].repeat(2, axis=0))  # in [-1, 1], as Hopper's actions are
    wanted = made.teacher.act(states).numpy()
    errors = [
        float(np.mean([np.square(acted[k, i] - wanted[i]).mean() for k in (0, 1)]))
        for i in range(len(states))
    ]
    assert row["error"] == pytest.approx(np.mean(errors), rel=1e-4)
    rarest_first = np.array(errors)[np.argsort(made.log_density.numpy())]
    np.testing.assert_allclose(row["by_density"], rarest_first.reshape(3, 80).mean(1), rtol=1e-4)
    assert row["tail"] == pytest.approx(np.mean(sorted(errors)[-48:]), rel=1e-4)
    cells = study._cells(made.scaling.observations_in(states), NAME).tolist()
    by_hand = [np.mean([e for e, c in zip(errors, cells, strict=True) if c == k]) for k in range(4)]
    np.testing.assert_allclose(row["by_cell"], by_hand, rtol=1e-4)
    assert whole["error"] != row["error"]
    assert [row, whole] == study.measure(NAME, source(), SHIPPED)


def test_errors_are_against_the_teacher_that_the_sets_imitate(
    made: Toy, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    record = read_record(SHIPPED / record_folder(RUN) / FILE)
    spec = replace(record.spec, teacher="cal_ql")
    theirs = altered(record, spec=spec, run_id=spec.run_id, cell_id=spec.cell_id)
    folder = tmp_path / record_folder(spec.run_id)
    shutil.copytree(SHIPPED / record_folder(RUN), folder)
    write_record(folder / FILE, theirs)
    asked = []

    def find(_: Any, name: str) -> Any:
        asked.append(name)
        return made.teacher

    monkeypatch.setattr(module, "find_teacher", find)
    one = {"method": "av_pbc", "seed": 0, **source_of(theirs)}
    Fairness(students_per_set=1, clone_steps=1).measure(NAME, {"sets": [one]}, tmp_path)
    assert asked == ["cal_ql"]


@pytest.mark.parametrize("names", [["none"], ["td3_bc", "none", "cal_ql"]])
def test_sets_of_several_teachers_or_of_none_are_refused(names: list[str]) -> None:
    with pytest.raises(NothingToStudy, match=r"imitate (no teacher|cal_ql, td3_bc); the study"):
        module._only_teacher(NAME, names)


def test_a_cell_holds_the_states_nearest_to_its_mean() -> None:
    """Four heaps far apart are the four cells."""
    draw = torch.Generator().manual_seed(3)
    heap = torch.arange(80) % 4
    states = 50 * torch.eye(4)[heap] + torch.randn(80, 4, generator=draw)
    cells = Fairness(cells=4)._cells(states, "x")
    assert {(int(h), int(c)) for h, c in zip(heap, cells, strict=True)} == {
        (h, int(cells[h])) for h in range(4)
    }
    assert len(set(cells.tolist())) == 4


def test_errors_of_states_have_the_mean_that_the_study_of_misalignment_takes(made: Toy) -> None:
    lesson = Lesson.of(torch.from_numpy(made.dataset.observations), made.teacher, made.scaling)
    found = finished_set(SHIPPED, source()["sets"][0])
    policy = train_on_set(
        found.student, found.pairs, found.scaling, [torch_generator(student=k) for k in (0, 1)]
    )
    errors = lesson.errors(policy)
    assert errors.shape == (2, len(made.dataset))
    torch.testing.assert_close(errors.mean(1), lesson.error(policy))
    assert float(errors.std()) > 0


def test_every_dataset_with_a_set_of_every_method_and_seed_is_an_item(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    known = SimpleNamespace(sha256="d", facts={"sha256": "t"})
    monkeypatch.setattr(module, "load_dataset", lambda name: known)
    monkeypatch.setattr(module, "find_teacher", lambda data, name: known)
    study = Fairness(sweeps=("sdw_main",), methods=("av_pbc", "sdw_obd"))
    items = study.items(SHIPPED)
    assert len(items) == 9
    for name, item in items.items():
        assert (item["dataset_sha256"], item["teacher_sha256"]) == ("d", "t")
        named = {(one["method"], one["seed"]) for one in item["sets"]}
        assert named == {(m, k) for m in study.methods for k in range(5)}
        assert len(item["sets"]) == 10
        assert all(one["run"].startswith(name.replace("/", "-")) for one in item["sets"])
    with pytest.raises(NothingToStudy, match="are both on hopper/medium-expert"):
        Fairness(sweeps=("sizes",), methods=("av_pbc",)).items(SHIPPED)


def test_sweeps_of_two_scales_are_not_compared() -> None:
    study = Fairness(sweeps=("main_table", "kernel_against_unrolled"), methods=("pbc", "frepo"))
    with pytest.raises(NothingToStudy, match=r"100 steps.* 50 steps; .* Give it sweeps of one"):
        study.items(SHIPPED)


def test_without_the_sweeps_the_command_is_named(tmp_path: Path) -> None:
    with pytest.raises(NothingToStudy, match="obdbench sweep main_table"):
        Fairness().items(tmp_path)

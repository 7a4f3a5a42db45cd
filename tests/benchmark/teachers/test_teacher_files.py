"""Which teacher a run gets: by data, recipe and seed; imported; shipped."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from benchmark.datasets.dataset import Dataset
from benchmark.registry import UnknownName
from benchmark.spec import RunSpec
from benchmark.teachers.iql import IQL
from benchmark.teachers.teacher import TeacherProblem
from benchmark.teachers.teacher_files import (
    AUTHORS,
    TeacherName,
    cached_path,
    find_teacher,
    imported_path,
    load_teacher,
    save_teacher,
    shipped_path,
    shipped_teachers,
)
from tests.tiny_runs import PROTOCOL

NINE = {
    f"{environment}/{quality}"
    for environment in ("halfcheetah", "hopper", "walker2d")
    for quality in ("medium-replay", "medium", "medium-expert")
}


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("OBDBENCH_CACHE", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize("text", ["td3_bc", "iql:3"])
def test_a_name_is_written_in_one_way(text: str) -> None:
    assert str(TeacherName.parse(text)) == text
    assert str(TeacherName.parse("td3_bc:0")) == "td3_bc"


def test_bad_names_are_refused_with_what_to_write() -> None:
    with pytest.raises(UnknownName, match="td3_bc"):
        TeacherName.parse("td3bc")
    with pytest.raises(TeacherProblem, match=r"seed in 'iql:x' is 'x'.*iql:1"):
        TeacherName.parse("iql:x")
    for seed in (2**63, "9" * 5000):
        with pytest.raises(TeacherProblem, match=r"expected a number from 0 to 2\^63-1"):
            TeacherName.parse(f"iql:{seed}")


def test_each_seed_has_its_own_teacher(small_dataset: Dataset, cache: Path) -> None:
    recipe = IQL(steps=2, batch_size=4, width=4)
    for seed in (0, 1):
        save_teacher(recipe.train(small_dataset, seed), cached_path(small_dataset, "iql", seed))
    assert find_teacher(small_dataset, "iql").facts["seed"] == 0
    assert find_teacher(small_dataset, "iql:1").facts["seed"] == 1
    with pytest.raises(TeacherProblem, match=r"teacher train .* --recipe iql --seed 2"):
        find_teacher(small_dataset, "iql:2")


def test_other_data_do_not_get_a_trained_teacher(small_dataset: Dataset, cache: Path) -> None:
    recipe = IQL(steps=2, batch_size=4, width=4)
    save_teacher(recipe.train(small_dataset, 0), cached_path(small_dataset, "iql"))
    other = dataclasses.replace(small_dataset, rewards=small_dataset.rewards + 1)
    with pytest.raises(TeacherProblem, match="There is no iql teacher"):
        find_teacher(other, "iql")


@pytest.mark.parametrize("recipe", [AUTHORS, "cal_ql"])  # the second one is an older import
def test_an_imported_teacher_serves_data_of_its_name_under_the_authors(
    recipe: str, small_dataset: Dataset, cache: Path
) -> None:
    """Never as a recipe that may be trained here: a record's teacher says which it was."""
    named = dataclasses.replace(small_dataset, name="d4rl/hopper-medium-v2")
    with pytest.raises(TeacherProblem, match=r"teacher import FILE.pt --dataset d4rl/hopper-med"):
        find_teacher(named, AUTHORS)
    path = imported_path("d4rl/hopper-medium-v2")
    assert path.name == "d4rl-hopper-medium-v2.cal_ql_authors.safetensors"
    teacher = IQL(steps=2, batch_size=4, width=4).train(small_dataset, 0)
    save_teacher(teacher, path.with_name(path.name.replace(AUTHORS, recipe)))
    assert find_teacher(named, AUTHORS).facts["dataset"] == small_dataset.name
    with pytest.raises(TeacherProblem, match="There is no cal_ql teacher"):
        find_teacher(named, "cal_ql")
    with pytest.raises(TeacherProblem, match="has no seed here; expected cal_ql_authors"):
        find_teacher(named, f"{AUTHORS}:1")


@pytest.mark.parametrize("seed", [0, 1, 12])
def test_a_shipped_teacher_has_the_seed_that_is_asked_for(
    seed: int, small_dataset: Dataset, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("benchmark.teachers.teacher_files.SHIPPED", tmp_path / "shipped")
    recipe, name = IQL(steps=2, batch_size=4, width=4), str(TeacherName("iql", seed))
    save_teacher(
        recipe.train(small_dataset, seed), shipped_path(small_dataset.name, TeacherName.parse(name))
    )
    assert find_teacher(small_dataset, name).facts["seed"] == seed
    for other in {"iql", "iql:1", "iql:12"} - {name}:
        with pytest.raises(TeacherProblem, match=f"There is no {other} teacher"):
            find_teacher(small_dataset, other)


def test_a_shipped_teacher_serves_its_own_dataset_of_any_size_and_no_other(
    small_dataset: Dataset, cache: Path
) -> None:
    """The file names of both begin with `hopper-medium-replay`."""
    own = dataclasses.replace(small_dataset, name="hopper/medium-replay@7")
    assert find_teacher(own, "td3_bc").facts["dataset"] == "hopper/medium-replay"
    other = dataclasses.replace(small_dataset, name="hopper-medium/replay")
    with pytest.raises(TeacherProblem, match="There is no td3_bc teacher for hopper-medium/replay"):
        find_teacher(other, "td3_bc")


def test_a_teacher_of_other_dimensions_is_refused(small_dataset: Dataset, cache: Path) -> None:
    teacher = IQL(steps=2, batch_size=4, width=4).train(small_dataset, 0)
    save_teacher(teacher, imported_path("d4rl/walker2d-medium-v2"))
    other = dataclasses.replace(
        small_dataset,
        name="d4rl/walker2d-medium-v2",
        actions=small_dataset.actions[:, :2],
    )
    with pytest.raises(
        TeacherProblem, match=r"takes 11 observations and gives 3 actions.*11 and 2"
    ):
        find_teacher(other, AUTHORS)


def rewritten(
    path: Path,
    tensors: Callable[[dict[str, Tensor]], object] = lambda _: None,
    card: Callable[[dict[str, Any]], object] = lambda _: None,
) -> Path:
    """Write the file anew with other content and, as earlier versions did, without its digest."""
    with safe_open(path, framework="pt") as file:
        found = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        said = json.loads(file.metadata()["teacher"])
    tensors(found)
    card(said)
    save_file(found, path, metadata={"teacher": json.dumps(said)})
    return path


@pytest.fixture
def saved(small_dataset: Dataset, tmp_path: Path) -> Path:
    path = tmp_path / "teacher.safetensors"
    save_teacher(IQL(steps=2, batch_size=4, width=4).train(small_dataset, 0), path)
    return path


def test_a_file_without_a_digest_is_read(saved: Path) -> None:
    before = load_teacher(saved)
    after = load_teacher(rewritten(saved))
    assert torch.equal(before.actor[0][0], after.actor[0][0])


def test_altered_bytes_are_noticed(saved: Path) -> None:
    content = bytearray(saved.read_bytes())
    content[-1] ^= 1
    saved.write_bytes(content)
    with pytest.raises(TeacherProblem, match=r"teacher\.safetensors is not a sound.*was altered"):
        load_teacher(saved)


CUT = torch.zeros(3, 3)
MALFORMED: dict[str, tuple[dict[str, Any], str]] = {
    "only a format": (
        {"card": lambda c: [c.pop(key) for key in list(c) if key != "format"]},
        "missing required field `action_noise`",
    ),
    "unknown noise": ({"card": lambda c: c.update(action_noise="none")}, "Invalid enum value"),
    "facts of another type": ({"card": lambda c: c["facts"].update(dataset=3)}, r"facts\.dataset"),
    "half an evaluation": (
        {"card": lambda c: c["facts"].update(evaluation={"return": 1.0})},
        r"normalized_return.*facts\.evaluation",
    ),
    "infinite scalar": ({"card": lambda c: c.update(log_std_offset=1e999)}, "log_std has numbers"),
    "NaN": ({"tensors": lambda t: t["actor.0.weight"].fill_(math.nan)}, "actor.0.weight has numb"),
    "whole numbers": (
        {"tensors": lambda t: t.update({"actor.0.bias": t["actor.0.bias"].int()})},
        "or of torch.int32",
    ),
    "no mean": ({"tensors": lambda t: t.pop("observation_mean")}, r"observation_mean \[\]"),
    "no spread": ({"tensors": lambda t: t["observation_std"].zero_()}, "deviation is not positive"),
    "no layers": (
        {"tensors": lambda t: [t.pop(key) for key in list(t) if key.startswith("actor")]},
        "actor has no layers",
    ),
    "no bias": ({"tensors": lambda t: t.pop("actor.1.bias")}, r"layer 1 of actor.* bias \[\]"),
    "a gap": ({"tensors": lambda t: t.pop("critics.1.weight")}, "a critic has 4 outputs"),
    "other widths": ({"tensors": lambda t: t.update({"actor.1.weight": CUT})}, "expected 4 inputs"),
    "another critic": (
        {"tensors": lambda t: t.update({"critics.0.weight": torch.zeros(4, 14)})},
        "3 dimensions",
    ),
    "one more": ({"tensors": lambda t: t.update({"actor.9.bias": CUT[0]})}, "no network takes"),
}


@pytest.mark.parametrize("case", MALFORMED)
def test_a_malformed_file_is_named_with_what_to_do(case: str, saved: Path) -> None:
    changes, message = MALFORMED[case]
    with pytest.raises(
        TeacherProblem, match=rf"teacher\.safetensors is not a sound.*{message}.*with --force"
    ):
        load_teacher(rewritten(saved, **changes))


def test_a_teacher_is_shipped_for_each_of_the_nine() -> None:
    shipped = shipped_teachers()
    assert {load_teacher(path).facts["dataset"] for path in shipped} == NINE
    assert sum(path.stat().st_size for path in shipped) < 10e6


def test_a_shipped_teacher_says_how_it_was_made() -> None:
    for path in shipped_teachers():
        facts = load_teacher(path).facts
        assert {"recipe", "parameters", "dataset_sha256", "seed", "evaluation"} <= facts.keys()
        assert facts["evaluation"]["episodes"] == 100


def test_a_run_names_the_seed_of_its_teacher() -> None:
    specs = [
        RunSpec.create(
            method="av_pbc",
            dataset="hopper/medium",
            parameters={},
            where="test",
            protocol=PROTOCOL,
            teacher=teacher,
        )
        for teacher in ("td3_bc", "td3_bc:0", "td3_bc:1")
    ]
    assert [spec.teacher for spec in specs] == ["td3_bc", "td3_bc", "td3_bc:1"]
    assert specs[0].cell_id == specs[1].cell_id != specs[2].cell_id

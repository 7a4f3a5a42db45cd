"""Use: each start is trained on as if it were the only one, on the same share of the data."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmark.datasets.catalog import load_dataset
from benchmark.datasets.source import DatasetName
from benchmark.environments.rollout import rollout
from benchmark.seeds import episode_seeds, torch_generator
from benchmark.students.student import Batch, train_on_set, train_students
from benchmark.sweep import Sweep
from benchmark.teachers.teacher import NetworkTeacher
from paper_figures import use as drawing
from paper_figures.studies.study import NothingToStudy, finished_set
from paper_figures.studies.use import SCRATCH, Use
from results.record_store import save_sweep
from tests.tiny_runs import execute, tiny_spec


@pytest.fixture(scope="module")
def store(
    small_dataset_name: str, tiny_teacher: NetworkTeacher, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    folder = tmp_path_factory.mktemp("use")
    runs = [tiny_spec(method, small_dataset_name) for method in ("random", "dbc")]
    for run in runs:
        execute(run, folder)
    save_sweep(folder, Sweep("tiny", "", tuple(runs)))
    return folder


@pytest.fixture(scope="module")
def study(small_dataset_name: str) -> Use:
    return Use(
        sweeps=("tiny",), datasets=(small_dataset_name,), methods=("random", "dbc"),
        batch_size=8, stages=(0, 2, 5), students=2, episodes=2,
    )  # fmt: skip


@pytest.fixture(scope="module")
def item(study: Use, store: Path) -> Iterator[Any]:
    ((name, source),) = study.items(store).items()
    yield name, source, study.measure(name, source, store)


def test_every_start_is_measured_at_every_stage(item: Any, small_dataset_name: str) -> None:
    name, source, rows = item
    assert name == f"{small_dataset_name}-seed0"
    assert list(source["sets"]) == ["random", "dbc"]
    assert [(row["steps"], row["start"]) for row in rows] == [
        (stage, start) for stage in (0, 2, 5) for start in (SCRATCH, "random", "dbc")
    ]
    assert len({row["normalized_return"] for row in rows}) == 9


@pytest.mark.parametrize("start", [SCRATCH, "random", "dbc"])
def test_a_start_is_what_training_it_by_hand_gives(
    study: Use, store: Path, item: Any, start: str
) -> None:
    _, source, rows = item
    data = load_dataset(DatasetName.parse(source["dataset"]))
    axes = {"study": "use", "dataset": source["dataset"], "seed": 0}

    def generators(purpose: str) -> list[torch.Generator]:
        return [torch_generator(**axes, purpose=purpose, student=k) for k in (0, 1)]

    found = finished_set(store, source["sets"]["random" if start == SCRATCH else start])
    steps = 0 if start == SCRATCH else None
    initial = train_on_set(found.student, found.pairs, found.scaling, generators("student"), steps)
    share = torch.randperm(len(data), generator=torch_generator(**axes, purpose="share"))
    share = share[: len(data) // 100]
    states = found.scaling.observations_in(torch.from_numpy(data.observations[share.numpy()]))
    actions = found.scaling.actions_in(torch.from_numpy(data.actions[share.numpy()]))
    minibatches = torch_generator(**axes, purpose="minibatches")
    drawn = [torch.randint(20, (8,), generator=minibatches) for _ in range(6)]

    def batch(step: int) -> Batch:
        at = drawn[step + 1]  # `training` asks for the first batch once more, for its shapes
        return states[at].expand(2, -1, -1), actions[at].expand(2, -1, -1)

    for stage in study.stages:
        spec = replace(found.student, optimizer="adam", learning_rate=0.001)
        alone = train_students(
            spec, batch, found.scaling, generators("noise"), stage, initial=initial.parameters
        )
        seeds = episode_seeds(2, **axes, purpose="episodes")
        returns = rollout(data.env_id, alone, policies=2, episodes=2, seeds=seeds).returns
        (row,) = [row for row in rows if (row["start"], row["steps"]) == (start, stage)]
        expected = float(data.reference.normalise(float(returns.mean())))
        assert row["normalized_return"] == pytest.approx(expected, rel=1e-6)


def test_a_seed_without_a_set_of_each_method_is_left_out(study: Use, store: Path) -> None:
    with pytest.raises(NothingToStudy, match="no seed with a set of each of random, dbc, pbc"):
        replace(study, methods=("random", "dbc", "pbc")).items(store)


def test_drawing_calls_the_start_from_scratch_by_the_studys_name() -> None:
    assert drawing.SCRATCH == SCRATCH
    assert np.all(np.diff(Use().stages) > 0)

"""A gradient step of each teacher recipe against a plain eager one, in the same run.

The plain one is what a reader of the papers writes: a module a critic, torch's default Adam, every
loss read back. Times are taken turn by turn, because other work on the machine then weighs on both
alike. That both compute the same is asserted in `tests/benchmark/teachers/test_against_plain.py`.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from benchmark.datasets.dataset import Dataset
from benchmark.teachers.cal_ql import CalQL
from benchmark.teachers.iql import IQL
from benchmark.teachers.offline import OfflineRecipe
from benchmark.teachers.td3_bc import TD3BC
from tests.plain_teachers import PlainCalQL, PlainIQL, PlainTD3BC

ROUNDS = 15
STEPS = {"td3_bc": 20, "iql": 20, "cal_ql": 3}


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.benchmark(group="teacher step")
@pytest.mark.parametrize("width", [256, 128])
@pytest.mark.parametrize(
    ("kind", "plain"),
    [(TD3BC, PlainTD3BC), (IQL, PlainIQL), (CalQL, PlainCalQL)],
    ids=["td3_bc", "iql", "cal_ql"],
)
def test_step(
    benchmark: Any, kind: type[OfflineRecipe], plain: Any, width: int, small_dataset: Dataset
) -> None:
    recipe = kind(width=width)
    learner: Any = recipe.learner(small_dataset, 0, "cpu")
    other = plain(learner, small_dataset, recipe)
    ours, theirs = [], []
    for _ in range(ROUNDS):
        for step, seconds in ((learner.advance, ours), (other.step, theirs)):
            began = time.perf_counter()
            for i in range(STEPS[recipe.name]):
                step(i, learner.draw(i))
            seconds.append((time.perf_counter() - began) / STEPS[recipe.name])
    benchmark.pedantic(learner.advance, (0, learner.draw(0)), rounds=STEPS[recipe.name])
    benchmark.extra_info["milliseconds a step, ours"] = 1e3 * statistics.median(ours)
    benchmark.extra_info["times as fast as plain eager"] = statistics.median(
        theirs[i] / ours[i] for i in range(ROUNDS)
    )

"""HaDES on CartPole-v1 from two pairs: how soon 20 fresh students stand, and what batching saves.

`make bench` runs these; the times of a test that compares are taken turn by turn.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from baselines.hades import HaDES
from benchmark.datasets.catalog import build_dataset
from benchmark.datasets.source import DatasetName
from benchmark.environments.lookup import action_space
from benchmark.evaluation import score
from benchmark.method import Policy, Problem, State
from benchmark.protocol import Protocol
from benchmark.scaling import Scaling
from benchmark.students.student import StudentSpec, train_students
from benchmark.synthetic_set import SyntheticSet

DATASET, ENV_ID = "cartpole/mixed", "CartPole-v1"
STUDENT = StudentSpec(width=64, depth=3, head="mean", steps=50)
METHOD = HaDES(
    synthetic_size=2,
    outer_steps=40,
    policies_per_candidate=1,
    episodes_per_policy=1,
    strategy="snes",
    sigma=0.5,
    learning_rate=1.0,
)
TWENTY = Protocol("twenty", students=20, episodes=1, checkpoint_every=10, last=1)
SOLVED = 475.0
"""Mean return at which gymnasium calls CartPole-v1 solved."""


class Solved(Exception):
    """Ends the search."""


@dataclass
class Judge:
    """A monitor that scores 20 fresh students every ten generations and stops when they stand."""

    problem: Problem
    mean_returns: dict[int, float] = field(default_factory=dict)
    environment_steps: int = 0
    scoring_seconds: float = 0.0

    def due(self, step: int) -> bool:
        return step % TWENTY.checkpoint_every == 0

    def checkpoint(self, step: int, result: SyntheticSet | Policy) -> None:
        began = time.perf_counter()
        episodes = score(
            result,
            protocol=TWENTY,
            student=STUDENT,
            scaling=self.problem.scaling,
            environment=ENV_ID,
            axes={"step": step},
        )
        self.scoring_seconds += time.perf_counter() - began
        self.mean_returns[step] = float(episodes.returns.mean())
        if self.mean_returns[step] >= SOLVED:
            raise Solved

    def resume(self) -> State | None:
        return None

    def save(self, step: int, state: Callable[[], State]) -> None: ...

    def progress(self, step: int, total: int) -> None: ...

    def count_environment_steps(self, steps: int) -> None:
        self.environment_steps += steps

    def note(self, **facts: float | str) -> None:
        pass


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def problem(session_folders: Path) -> Problem:
    dataset = build_dataset(DatasetName.parse(DATASET))
    return Problem(
        needs=METHOD.needs,
        student=STUDENT,
        scaling=Scaling.of(dataset, action_space(ENV_ID)),
        axes={"run": "benchmark"},
        loaders={"environment": lambda: ENV_ID},
    )


@pytest.mark.benchmark(group="hades")
def test_two_pairs_solve_cartpole(benchmark: Any, problem: Problem) -> None:
    def solve() -> Judge:
        judge = Judge(problem)
        with pytest.raises(Solved):
            METHOD.distill(problem, judge)
        return judge

    began = time.process_time()
    judge: Judge = benchmark.pedantic(solve, rounds=1)
    benchmark.extra_info["cpu_seconds_with_scoring"] = time.process_time() - began
    benchmark.extra_info["scoring_seconds"] = judge.scoring_seconds
    benchmark.extra_info["generations"] = max(judge.mean_returns)
    benchmark.extra_info["environment_steps"] = judge.environment_steps
    benchmark.extra_info["mean_return_of_20_students"] = judge.mean_returns[max(judge.mean_returns)]
    assert judge.mean_returns[0] < SOLVED


@pytest.mark.benchmark(group="hades")
def test_a_populations_students_as_one_batch(benchmark: Any, problem: Problem) -> None:
    """The batch's students are those that are trained one by one, and there sooner."""
    noise = torch.randn(64, 2 * 6, generator=torch.Generator().manual_seed(0))
    sets = METHOD.sets(noise, problem, None)

    def one_by_one() -> list[np.ndarray[Any, Any]]:
        inputs = np.ones((1, 1, 4), dtype=np.float32)
        acted = []
        for row in range(64):
            pair = sets.observations[row][None], sets.actions[row][None]
            student = train_students(
                STUDENT,
                lambda step, pair=pair: pair,  # type: ignore[misc]
                problem.scaling,
                [METHOD.initialisation(problem, 0, 0)],
            )
            acted.append(student(inputs)[0])
        return acted

    together = benchmark.pedantic(METHOD.clone, args=(sets, problem, 0), rounds=5)
    ratios = []
    for _ in range(3):
        start = time.perf_counter()
        METHOD.clone(sets, problem, 0)
        middle = time.perf_counter()
        acted = one_by_one()
        ratios.append((time.perf_counter() - middle) / (middle - start))
    benchmark.extra_info["median_speedup_over_one_by_one"] = float(np.median(ratios))
    np.testing.assert_allclose(together(np.ones((64, 1, 4), np.float32)), acted, atol=1e-4)

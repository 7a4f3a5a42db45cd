"""What one outer step of each method costs, side by side, at the quick start's size.

A step's seconds are the difference between a longer and a shorter run, so that set-up is left out.
Methods are taken turn by turn; ratios are to Av-PBC in the same turn.
"""

from __future__ import annotations

import dataclasses
import statistics
import time
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from baselines.obd import AvPBC
from baselines.trajectory_matching import TrajectoryMatching
from baselines.truncated_obd import TruncatedAvPBC
from benchmark.datasets.dataset import Dataset
from benchmark.environments.lookup import action_space
from benchmark.method import METHODS, Problem, State
from benchmark.scaling import Scaling
from benchmark.students.spec import StudentSpec
from benchmark.teachers.teacher import NetworkTeacher

STUDENT = StudentSpec(width=64, steps=50)
SHORT, LONG, ROUNDS = 4, 12, 3
WINDOW = 12


class Silent:
    """A monitor that keeps nothing."""

    def due(self, step: int) -> bool:
        return False

    def checkpoint(self, step: int, result: Any) -> None: ...
    def resume(self) -> State | None:
        return None

    def save(self, step: int, state: Any) -> None: ...
    def progress(self, step: int, total: int) -> None: ...
    def count_environment_steps(self, steps: int) -> None: ...
    def note(self, **facts: float | str) -> None: ...


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def offline_methods() -> list[str]:
    """Registered methods that take outer steps on data."""
    fields = {name: {f.name for f in dataclasses.fields(METHODS[name])} for name in METHODS}
    return [
        name
        for name in METHODS
        if "outer_steps" in fields[name] and "environment" not in METHODS[name].needs
    ]


@pytest.mark.benchmark(group="outer step")
def test_outer_step(benchmark: Any, small_dataset: Dataset, tiny_teacher: NetworkTeacher) -> None:
    log_density = torch.linspace(-10, 5, len(small_dataset), dtype=torch.float64)
    scaling = Scaling.of(small_dataset, action_space(small_dataset.env_id))

    def problem(name: str) -> Problem:
        return Problem(
            needs=METHODS[name].needs,
            student=STUDENT,
            scaling=scaling,
            axes={"run": "benchmark"},
            loaders={
                "dataset": lambda: small_dataset,
                "teacher": lambda: tiny_teacher,
                "log_density": lambda: log_density,
            },
        )

    def seconds(name: str, steps: int) -> float:
        settings: dict[str, Any] = {"synthetic_size": 64, "outer_steps": steps}
        if isinstance(METHODS[name], TruncatedAvPBC):
            settings["window"] = WINDOW
        if isinstance(METHODS[name], AvPBC):
            settings["weights"] = "raw"  # the teacher's random values have no positive mean
        if isinstance(METHODS[name], TrajectoryMatching):
            settings |= {"experts": 1, "start_epochs": 1}  # set-up, which would drown the steps
        method = dataclasses.replace(METHODS[name], **settings)
        given = problem(name)
        began = time.perf_counter()
        method.distill(given, Silent())
        return time.perf_counter() - began

    names = offline_methods()
    cost: dict[str, list[float]] = {name: [] for name in names}
    for _ in range(ROUNDS):
        for name in names:
            cost[name].append((seconds(name, LONG) - seconds(name, SHORT)) / (LONG - SHORT))
    benchmark.pedantic(seconds, ("av_pbc", SHORT), rounds=1)
    for name in names:
        ratio = statistics.median(
            one / base for one, base in zip(cost[name], cost["av_pbc"], strict=True)
        )
        benchmark.extra_info[f"{name}: ms a step"] = 1e3 * statistics.median(cost[name])
        benchmark.extra_info[f"{name}: times Av-PBC"] = ratio
    expected = TruncatedAvPBC(window=WINDOW).expected_products(STUDENT.steps)
    benchmark.extra_info["truncated_av_pbc: expected from its products"] = expected

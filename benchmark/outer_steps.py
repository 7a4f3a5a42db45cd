"""Cost of outer steps, timed as a method takes them: its own loop on made-up data, few times over.

A method whose products are easily counted says them (`benchmark.work.Work`). Where they go through
autograd, solvers or pools of students, a count would be a second description of the method, which
nothing holds to the first; here the sample is the method.
"""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmark.datasets.dataset import Dataset, ReferenceReturns
from benchmark.method import Method, Policy, Problem, State
from benchmark.students.spec import StudentSpec
from benchmark.synthetic_set import SyntheticSet
from benchmark.work import SAMPLE_SECONDS, Priced, Rates, unit_scaling

SAMPLED = 4
"""Outer steps of a sample, where they all cost about the same."""
STATES = 1000
"""Made-up transitions of a sample, unless the set has more pairs."""


@dataclass(frozen=True)
class OuterSteps:
    """The outer steps of one run.

    Args:
        count: Outer steps of the run, in those of `few`.
        few: The method with as many outer steps as a sample has, and little to do before the first.
        observation_dim: Numbers per observation.
        action_dim: Numbers per action.
        student: The student to distil for.
        others: Other work of the run: before its first outer step, or of another kind.
    """

    count: float
    few: Method
    observation_dim: int
    action_dim: int
    student: StudentSpec
    others: Priced | None = None

    @classmethod
    def of(
        cls, method: Method, observation_dim: int, action_dim: int, student: StudentSpec
    ) -> OuterSteps:
        """The outer steps of a method in which all cost about the same.

        Args:
            method: The method; it has a setting `outer_steps`.
            observation_dim: Numbers per observation.
            action_dim: Numbers per action.
            student: The student to distil for.
        """
        count: int = method.outer_steps  # type: ignore[attr-defined]
        few = dataclasses.replace(method, outer_steps=min(count, SAMPLED))  # type: ignore[call-arg]
        return cls(count, few, observation_dim, action_dim, student)

    def seconds(self, rates: Rates, runs: int = 1) -> float:
        """CPU seconds of one run, which advances by itself."""
        kind, settings = type(self.few), dataclasses.asdict(self.few)
        sizes = (self.observation_dim, self.action_dim, self.student)
        key = (
            "outer steps", f"{kind.__module__}.{kind.__qualname__}", self.few.engine("cpu"),
            json.dumps(settings, default=str, sort_keys=True), sizes,
        )  # fmt: skip
        each = rates.measured(key, self._seconds_per_step) if self.count else 0.0
        return self.count * each + (self.others.seconds(rates, runs) if self.others else 0.0)

    def _seconds_per_step(self) -> float:
        """Fastest of a few samples after a first one, which allocates memory."""
        problem = made_up(self.few, self.observation_dim, self.action_dim, self.student)
        fastest, spent = float("inf"), -1.0
        while spent < SAMPLE_SECONDS:
            clock = Clock()
            self.few.distill(problem, clock)
            steps = max(clock.at)
            seconds = clock.at[steps] - clock.at[0]
            if spent < 0:
                spent = 0.0
                continue
            fastest, spent = min(fastest, seconds / steps), spent + max(seconds, 1e-4)
        return fastest


@dataclass
class Clock:
    """A monitor that keeps only when each outer step began, in CPU seconds of this process."""

    at: dict[int, float] = field(default_factory=dict)

    def progress(self, step: int, total: int) -> None:
        """Keep the time, in place of an earlier one of this step."""
        self.at[step] = time.process_time()

    def due(self, step: int) -> bool:
        """Score nothing."""
        return False

    def resume(self) -> State | None:
        """Begin at the start."""
        return None

    def checkpoint(self, step: int, result: SyntheticSet | Policy) -> None:
        """Drop the result."""

    def save(self, step: int, state: Callable[[], State]) -> None:
        """Drop the state."""

    def count_environment_steps(self, steps: int) -> None:
        """Count nothing."""

    def note(self, **facts: float | str) -> None:
        """Drop the facts."""


@dataclass(frozen=True)
class _EvenTeacher:
    """A teacher that stands still, and values every state the same."""

    observation_dim: int
    action_dim: int

    def act(self, observations: Tensor) -> Tensor:
        return torch.zeros(len(observations), self.action_dim)

    def sample(self, observations: Tensor, generator: torch.Generator) -> Tensor:
        return self.act(observations)

    def q(self, observations: Tensor, actions: Tensor) -> Tensor:
        return torch.ones(len(observations))


def made_up(method: Method, observation_dim: int, action_dim: int, student: StudentSpec) -> Problem:
    """A problem of these sizes on normal observations and uniform actions, in one episode."""
    count = max(STATES, getattr(method, "synthetic_size", 0))
    draw = np.random.default_rng(0)
    dataset = Dataset(
        name="made up",
        env_id="made up",
        states=draw.standard_normal((count + 1, observation_dim)).astype(np.float32),
        actions=draw.uniform(-1, 1, (count, action_dim)).astype(np.float32),
        rewards=draw.standard_normal(count).astype(np.float32),
        terminations=np.zeros(count, bool),
        truncations=np.arange(1, count + 1) == count,
        lengths=np.array([count]),
        reference=ReferenceReturns(0.0, 1.0),
    )
    loaders: dict[str, Callable[[], Any]] = {
        "dataset": lambda: dataset,
        "teacher": lambda: _EvenTeacher(observation_dim, action_dim),
        "log_density": lambda: torch.zeros(count, dtype=torch.float64),
    }
    return Problem(
        needs=method.needs,
        student=student,
        scaling=unit_scaling(observation_dim, action_dim),
        axes={"run": "sample"},
        loaders=loaders,
    )

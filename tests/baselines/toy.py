"""A problem small enough to follow by hand: invented data, a teacher written out, a recorder."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np
import torch

from benchmark.datasets.dataset import Dataset, ReferenceReturns
from benchmark.method import Method, Policy, Problem, State
from benchmark.scaling import Scaling
from benchmark.students.spec import StudentSpec
from benchmark.synthetic_set import SyntheticSet

STATES, OBSERVATION_DIM, ACTION_DIM = 60, 5, 2
STUDENT = StudentSpec(width=8, depth=2, steps=4)
SMALL: dict[str, Any] = {"synthetic_size": 4, "outer_batch": 8, "outer_steps": 6}


class Killed(Exception):
    """Stands for the end of a process."""


@dataclass
class Recorder:
    """A monitor that keeps what it is handed."""

    every: int = 1
    saved: State | None = None
    stop_at: int | None = None
    results: dict[int, Any] = field(default_factory=dict)
    states: dict[int, State] = field(default_factory=dict)
    facts: dict[str, float | str] = field(default_factory=dict)

    def due(self, step: int) -> bool:
        return step % self.every == 0

    def checkpoint(self, step: int, result: SyntheticSet | Policy) -> None:
        self.results[step] = result

    def resume(self) -> State | None:
        return self.saved

    def save(self, step: int, state: Callable[[], State]) -> None:
        now = state()
        self.states[step] = State({k: v.clone() for k, v in now.tensors.items()}, dict(now.facts))
        if step == self.stop_at:
            raise Killed

    def progress(self, step: int, total: int) -> None:
        pass

    def count_environment_steps(self, steps: int) -> None:
        raise AssertionError("an offline method takes no environment steps")

    def note(self, **facts: float | str) -> None:
        self.facts |= facts


class LinearTeacher:
    """Acts by tanh of a linear map; the value of an action is written out below."""

    observation_dim, action_dim = OBSERVATION_DIM, ACTION_DIM

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(5)
        self.weight = torch.randn(ACTION_DIM, OBSERVATION_DIM, generator=generator)

    def act(self, observations: torch.Tensor) -> torch.Tensor:
        return (observations @ self.weight.T).tanh()

    def sample(self, observations: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        mean = self.act(observations)
        return (mean + 0.1 * torch.randn(mean.shape, generator=generator)).clamp(-1, 1)

    def q(self, observations: torch.Tensor, actions: torch.Tensor) -> torch.Tensor:
        return 50 + 10 * observations[:, 0] + actions.sum(1)


@cache
def toy_dataset() -> Dataset:
    """Invented transitions whose actions lie in [1, 5]: units differ from the unit box."""
    rng = np.random.default_rng(0)
    return Dataset(
        name="invented",
        env_id="Invented-v0",
        states=rng.normal(2.0, 3.0, (STATES + 1, OBSERVATION_DIM)).astype(np.float32),
        actions=rng.uniform(1.0, 5.0, (STATES, ACTION_DIM)).astype(np.float32),
        rewards=np.zeros(STATES, np.float32),
        terminations=np.zeros(STATES, bool),
        truncations=np.arange(STATES) == STATES - 1,
        lengths=np.array([STATES]),
        reference=ReferenceReturns(0.0, 1.0),
    )


def toy_problem(
    method: Method | type[Method],
    seed: int = 0,
    student: StudentSpec = STUDENT,
    log_density: torch.Tensor | None = None,
) -> Problem:
    """The seed is all that names it."""
    observations = torch.from_numpy(toy_dataset().observations)
    return Problem(
        needs=method.needs,
        student=student,
        scaling=Scaling(
            observations.mean(0),
            observations.std(0),
            torch.full((ACTION_DIM,), 3.0),
            torch.full((ACTION_DIM,), 2.0),
        ),
        axes={"run": f"seed{seed}"},
        loaders={
            "dataset": toy_dataset,
            "teacher": LinearTeacher,
            "log_density": lambda: log_density,
        },
    )


def distil(method: Method, problem: Problem, monitor: Recorder | None = None) -> Recorder:
    monitor = monitor or Recorder()
    method.distill(problem, monitor)
    return monitor

"""Reference row: behavioural cloning on the whole dataset (OBD, Table 1, "BC (Whole)")."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from benchmark.method import BadParameter, Method, Monitor, Problem, require_positive
from benchmark.students.student import Batch, train_students


@dataclass(frozen=True)
class BCWhole(Method):
    """Clones every transition into one student by minibatches.

    Args:
        steps: Gradient steps; the paper gives 25,000 to 125,000 (OBD, Table 4).
        batch_size: Transitions in a minibatch.
    """

    reference: ClassVar[bool] = True
    steps: int = 50_000
    batch_size: int = 256

    def __post_init__(self) -> None:
        require_positive(self, "steps", "batch_size")

    def distill(self, problem: Problem, monitor: Monitor) -> None:
        """Trains one student with the student's own optimiser, and scores it once."""
        if len(problem.dataset) == 0:
            raise BadParameter(f"{problem.dataset.name} holds no transitions to clone.")
        observations, actions = problem.observations, problem.actions
        batches = problem.generator("minibatches")

        def batch(step: int) -> Batch:
            if step % 100 == 0:
                monitor.progress(step, self.steps)
            chosen = torch.randint(len(actions), (self.batch_size,), generator=batches)
            return observations[chosen][None], actions[chosen][None]

        policy = train_students(
            problem.student, batch, problem.scaling, [problem.generator("student")], self.steps
        )
        monitor.checkpoint(self.steps, policy)

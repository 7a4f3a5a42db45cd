"""Trajectory matching: a few steps on the pairs lead where many steps on the real data lead.

Source: Cazenavette et al., CVPR 2022, "Dataset Distillation by Matching Training Trajectories"
(MTT, arXiv 2203.11932), Algorithm 1.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from baselines.matching import (
    BatchMatching,
    BCLoss,
    Clones,
    LearnedPairs,
    RealPairs,
    squared_distance,
)
from baselines.selection import Labels
from benchmark.method import BadParameter, Monitor, Problem, require_positive, require_settings
from benchmark.outer_steps import SAMPLED, OuterSteps
from benchmark.students.network import Parameters
from benchmark.students.spec import StudentSpec
from benchmark.work import Priced, training_work


@dataclass(frozen=True)
class TrajectoryMatching(BatchMatching):
    """Matches the parameters of experts: students cloned from the teacher's actions on the data.

    The inner learning rate is learned with the pairs. It begins at the student's own, as MTT's
    begins at its experts' (0.01 both). Scoring trains students with the student's rate, whatever
    was learned: where that matters, hold the rate by `inner_rate_learning_rate = 0`, or score with
    another by `[evaluation_student]`.

    From the paper: 5,000 outer steps, 20 synthetic steps, a span of 3 epochs, 25 epochs to start
    from. An epoch is a number of steps, not a pass over the data: a pass takes thousands of steps,
    a student of OBD only 100.

    Args:
        experts: Students that are trained on the real data, in minibatches of `outer_batch`.
        expert_epoch_steps: Steps between two snapshots of an expert.
        expert_span: Epochs from the start to the target.
        start_epochs: Number of epochs that a start is drawn from, the initialisation included.
        synthetic_steps: Plain SGD steps on the pairs that should lead from start to target.
        inner_rate_learning_rate: Learning rate of SGD on the logarithm of the inner learning rate.
    """

    tiny: ClassVar[dict[str, Any]] = {
        "experts": 2,
        "expert_epoch_steps": 2,
        "start_epochs": 3,
        "synthetic_steps": 3,
    }
    labels: Labels = "teacher"
    outer_steps: int = 5000
    outer_learning_rate: float = 0.3
    experts: int = 8
    expert_epoch_steps: int = 20
    expert_span: int = 3
    start_epochs: int = 25
    synthetic_steps: int = 20
    inner_rate_learning_rate: float = 0.01

    def __post_init__(self) -> None:
        super().__post_init__()
        require_positive(self, "experts", "expert_epoch_steps", "expert_span", "start_epochs")
        require_positive(self, "synthetic_steps")
        if self.inner_rate_learning_rate < 0:
            raise BadParameter(
                f"inner_rate_learning_rate is {self.inner_rate_learning_rate}; expected 0 or more."
            )

    def require_student(self, student: StudentSpec) -> None:
        """The needs of all matching, and plain SGD: its steps on the pairs are differentiated."""
        super().require_student(student)
        require_settings(self, student, optimizer="sgd")

    def work(self, observation_dim: int, action_dim: int, student: StudentSpec) -> Priced:
        """Outer steps, timed as they are taken, after the training of the experts."""
        few = dataclasses.replace(
            self, outer_steps=min(self.outer_steps, SAMPLED), experts=1, start_epochs=1,
            expert_epoch_steps=1,
        )  # fmt: skip
        experts = training_work(
            student, observation_dim, action_dim, self.outer_batch, self.experts,
            (self.start_epochs - 1 + self.expert_span) * self.expert_epoch_steps,
        )  # fmt: skip
        return OuterSteps(self.outer_steps, few, observation_dim, action_dim, student, experts)

    def distill(self, problem: Problem, monitor: Monitor) -> None:
        """Run Algorithm 1. A resumed run trains its experts again, to the same bits."""
        trajectories = self.expert_trajectories(problem, monitor)
        pairs = LearnedPairs(self, problem, monitor, self.others(problem))
        for step in pairs.steps():
            generator = problem.generator("outer step", step)
            expert = int(torch.randint(self.experts, (), generator=generator))
            epoch = int(torch.randint(self.start_epochs, (), generator=generator))
            start = _parameters_of(trajectories[epoch], expert)
            target = _parameters_of(trajectories[epoch + self.expert_span], expert)
            reached = self.train(BCLoss(problem, generator), start, pairs)
            pairs.descend(self.distance(reached, start, target, pairs))

    def others(self, problem: Problem) -> dict[str, tuple[Tensor, float]]:
        """What is learned next to the pairs: the logarithm of the inner rate, from the student's.

        By the logarithm the rate stays positive.
        """
        log_rate = torch.tensor(math.log(problem.student.learning_rate))
        return {"log_inner_rate": (log_rate, self.inner_rate_learning_rate)}

    def learned_facts(self, values: Mapping[str, Tensor]) -> dict[str, float]:
        """The inner rate."""
        return {"inner_learning_rate": float(values["log_inner_rate"].exp())}

    def distance(
        self, reached: Parameters, start: Parameters, target: Parameters, pairs: LearnedPairs
    ) -> Tensor:
        """|reached - target|^2 / |start - target|^2, a scalar.

        The denominator makes the loss of an early, fast epoch comparable with that of a late one.
        """
        return squared_distance(reached, target) / squared_distance(start, target)

    def expert_trajectories(self, problem: Problem, monitor: Monitor) -> list[Parameters]:
        """Train all experts as one batch; give their parameters after every epoch.

        Returns:
            `start_epochs` + `expert_span` snapshots, the initialisation first.
        """
        generator = problem.generator("experts")
        real = RealPairs(self, problem)
        experts = Clones(problem, BCLoss(problem, generator), self.experts)
        snapshots = [_copy(experts.parameters)]
        for _ in range(self.start_epochs - 1 + self.expert_span):
            monitor.progress(0, self.outer_steps)
            for _ in range(self.expert_epoch_steps):
                experts.learn(*real.batch(self.outer_batch, generator, self.experts))
            snapshots.append(_copy(experts.parameters))
        return snapshots

    def train(self, loss: BCLoss, start: Parameters, pairs: LearnedPairs) -> Parameters:
        """Parameters after the synthetic steps, differentiable in the pairs and the inner rate."""
        parameters, rate = start, pairs.values["log_inner_rate"].exp()
        for _ in range(self.synthetic_steps):
            # theta <- theta - rate * grad L_BC(theta), out of place: the graph needs every theta.
            gradient = loss.gradient(parameters, pairs.observations, pairs.actions)
            parameters = [
                (weight - rate * in_weight, bias - rate * in_bias)
                for (weight, bias), (in_weight, in_bias) in zip(parameters, gradient, strict=True)
            ]
        return parameters


def _parameters_of(experts: Parameters, expert: int) -> Parameters:
    """Parameters of one expert of a snapshot, with a students axis of 1."""
    chosen = slice(expert, expert + 1)
    return [(weight[chosen], bias[chosen]) for weight, bias in experts]


def _copy(parameters: Parameters) -> Parameters:
    return [(weight.clone(), bias.clone()) for weight, bias in parameters]

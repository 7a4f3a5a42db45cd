"""Reference rows, which are not distillation: the teacher, BC on all data, evolved weights."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from baselines.evolution_loop import Evolution, EvolutionRun
from benchmark.method import (
    BadParameter,
    Method,
    Monitor,
    Problem,
    require_above_zero,
    require_positive,
)
from benchmark.scaling import Scaling
from benchmark.students.network import Network, Parameters
from benchmark.students.spec import StudentSpec
from benchmark.students.student import Batch, StudentPolicy, train_students
from benchmark.teachers.teacher import Teacher
from benchmark.work import Work, training_work


@dataclass(frozen=True)
class TeacherReference(Method):
    """Scores the teacher's deterministic policy."""

    needs: ClassVar[frozenset[str]] = frozenset({"dataset", "teacher"})
    reference: ClassVar[bool] = True

    def work(self, observation_dim: int, action_dim: int, student: StudentSpec) -> Work | None:
        """Nothing: the teacher is there."""
        return Work(0.0)

    def distill(self, problem: Problem, monitor: Monitor) -> None:
        """Submit the teacher as the run's one checkpoint."""
        monitor.checkpoint(0, TeacherPolicy(problem.teacher, problem.scaling))


@dataclass(frozen=True)
class TeacherPolicy:
    """A teacher as one policy for `rollout`."""

    teacher: Teacher
    scaling: Scaling
    count: int = 1

    def __call__(self, observations: NDArray[np.float32]) -> NDArray[np.float32]:
        """Actions `[1, E, act_dim]` for raw observations `[1, E, obs_dim]`."""
        actions = self.teacher.act(torch.from_numpy(observations[0]))
        return self.scaling.actions_out(actions)[None].numpy()

    def sampled(self, seeds: Sequence[Sequence[int]]) -> SampledTeacher:
        """The teacher, which draws its actions by one seed per episode `[1, E]`."""
        streams = [torch.Generator().manual_seed(seed) for seed in seeds[0]]
        return SampledTeacher(self.teacher, self.scaling, streams)


@dataclass(frozen=True)
class SampledTeacher:
    """A teacher as one policy that draws its actions, each episode from its own generator."""

    teacher: Teacher
    scaling: Scaling
    streams: Sequence[torch.Generator]
    count: int = 1

    def __call__(self, observations: NDArray[np.float32]) -> NDArray[np.float32]:
        """Draw actions `[1, E, act_dim]` for raw observations `[1, E, obs_dim]`."""
        rows = torch.from_numpy(observations[0])[:, None]
        drawn = [self.teacher.sample(o, g) for o, g in zip(rows, self.streams, strict=True)]
        return self.scaling.actions_out(torch.cat(drawn))[None].numpy()


@dataclass(frozen=True)
class BCWhole(Method):
    """Clones the whole dataset into one student by minibatches (OBD, Table 1, "BC (Whole)").

    As a reference it must be trained until it is trained, which the student's own recipe for a few
    hundred pairs (SGD at a fixed rate) is not made for.

    Args:
        steps: Gradient steps; the paper gives 25,000 to 125,000 (OBD, Table 4).
        batch_size: Transitions per minibatch.
        optimizer: "adam", or "student" for the student's own optimiser and rate.
        learning_rate: Learning rate of Adam.
    """

    reference: ClassVar[bool] = True
    version: ClassVar[int] = 2  # Adam by default since
    steps: int = 25_000
    batch_size: int = 256
    optimizer: Literal["adam", "student"] = "adam"
    learning_rate: float = 1e-3

    def __post_init__(self) -> None:
        require_positive(self, "steps", "batch_size")
        require_above_zero(self, "learning_rate")

    def work(self, observation_dim: int, action_dim: int, student: StudentSpec) -> Work | None:
        """Training steps on minibatches."""
        return training_work(
            self._trained_as(student), observation_dim, action_dim,
            pairs=self.batch_size, students=1, steps=self.steps,
        )  # fmt: skip

    def distill(self, problem: Problem, monitor: Monitor) -> None:
        """Train one student, and submit it."""
        if len(problem.dataset) == 0:
            raise BadParameter(f"{problem.dataset.name} holds no transitions to clone.")
        observations, actions = problem.observations, problem.actions
        batches = problem.generator("minibatches")

        def batch(step: int) -> Batch:
            if step % 100 == 0:
                monitor.progress(step, self.steps)
            chosen = torch.randint(len(actions), (self.batch_size,), generator=batches)
            # Whole rows at a time, in half the time that an index in brackets takes.
            return (
                observations.index_select(0, chosen)[None],
                actions.index_select(0, chosen)[None],
            )

        student = self._trained_as(problem.student)
        policy = train_students(
            student, batch, problem.scaling, [problem.generator("student")], self.steps
        )
        monitor.checkpoint(self.steps, policy)

    def _trained_as(self, student: StudentSpec) -> StudentSpec:
        """The student under the optimiser that is asked for."""
        if self.optimizer == "student":
            return student
        return dataclasses.replace(student, optimizer="adam", learning_rate=self.learning_rate)


@dataclass(frozen=True)
class EvolutionStrategies(Evolution):
    """Evolves a student's weights from their usual initialisation (baseline of arXiv 2406.15042).

    Give it the `environment_steps` that a run of HaDES took to compare both at equal cost.
    """

    reference: ClassVar[bool] = True

    def distill(self, problem: Problem, monitor: Monitor) -> None:
        """Run the generations of HaDES with weights in place of pairs and nothing to train."""
        student = problem.student
        network = student.network(problem.observation_dim, problem.action_dim)

        def policies(vectors: Tensor) -> StudentPolicy:
            weights = unflatten(network, vectors)
            return StudentPolicy(network, student.policy_head, weights, problem.scaling)

        initial = flatten(network.initialise(problem.generator("student")))[0]
        run = EvolutionRun(
            self, initial, problem, monitor, lambda mean: policies(mean[None].clone())
        )
        for _ in run.generations():
            noise = run.draw()
            returns = run.mean_returns(policies(run.strategy.candidates(noise)))
            run.strategy.update(noise, returns)


def flatten(parameters: Parameters) -> Tensor:
    """Concatenate the parameters of R networks into vectors `[R, D]`, layer by layer."""
    return torch.cat([tensor.flatten(1) for layer in parameters for tensor in layer], 1)


def unflatten(network: Network, vectors: Tensor) -> Parameters:
    """Cut vectors `[R, D]` into parameters, the inverse of `flatten`."""
    parameters, at = [], 0
    for fan_in, fan_out in network.layer_sizes:
        # Per layer: out * in weights, row by row, then out biases, kept as `[R, 1, out]`.
        weight = vectors[:, at : at + fan_out * fan_in].reshape(len(vectors), fan_out, fan_in)
        bias = vectors[:, None, at + fan_out * fan_in : at + fan_out * (fan_in + 1)]
        parameters.append((weight, bias))
        at += fan_out * (fan_in + 1)
    return parameters

"""Reference row: evolution strategies on a policy's weights (the baseline of arXiv 2406.15042)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from baselines.evolution_loop import Evolution, EvolutionRun
from benchmark.method import Monitor, Problem
from benchmark.students.network import Network, Parameters
from benchmark.students.student import StudentPolicy


@dataclass(frozen=True)
class PolicyEvolution(Evolution):
    """Evolves one student's weights from its usual initialisation, without a synthetic set.

    Give it the `environment_steps` that a run of HaDES took to compare both at equal cost.
    """

    reference: ClassVar[bool] = True

    def distill(self, problem: Problem, monitor: Monitor) -> None:
        """As HaDES, with weights in place of pairs and nothing to train."""
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
    """The parameters of R networks as vectors `[R, D]`."""
    return torch.cat([tensor.flatten(1) for layer in parameters for tensor in layer], 1)


def unflatten(network: Network, vectors: Tensor) -> Parameters:
    """The inverse of `flatten`."""
    parameters, at = [], 0
    for fan_in, fan_out in zip(network.sizes, network.sizes[1:], strict=False):
        weight = vectors[:, at : at + fan_out * fan_in].reshape(-1, fan_out, fan_in)
        bias = vectors[:, None, at + fan_out * fan_in : at + fan_out * (fan_in + 1)]
        parameters.append((weight, bias))
        at += fan_out * (fan_in + 1)
    return parameters

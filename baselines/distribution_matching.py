"""Distribution matching: pairs whose mean embedding under random networks is the real data's.

Source: Zhao and Bilen, WACV 2023, "Dataset Condensation with Distribution Matching"
(arXiv 2110.04181), Algorithm 1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from baselines.matching import LearnedPairs, Matching, RealPairs
from baselines.selection import WITH_TEACHER, Labels
from benchmark.method import Monitor, Problem
from benchmark.students.network import Network, Parameters


@dataclass(frozen=True)
class DistributionMatching(Matching):
    """Matches the means of pairs, embedded by a fresh network at every outer step.

    The paper matches the images of each class; actions are no classes, so what is embedded here is
    the observation and the action side by side, and the actions are matched with the states they
    belong to. The network is of the student's architecture, its last hidden layer the embedding.
    The defaults are the paper's: 20,000 steps, SGD of rate 1 and momentum 0.5, batches of 256.
    """

    outer_steps: int = 20_000
    outer_learning_rate: float = 1.0

    def distill(self, problem: Problem, monitor: Monitor) -> None:
        """Algorithm 1, for one class."""
        network = problem.student.network(
            problem.observation_dim + problem.action_dim, problem.action_dim
        )
        real = RealPairs(self, problem)
        pairs = LearnedPairs(self, problem, monitor)
        for step in pairs.steps():
            generator = problem.generator("outer step", step)
            drawn = network.initialise(generator)
            parameters = [(w.to(problem.device), b.to(problem.device)) for w, b in drawn]
            wanted = mean_embedding(network, parameters, *real.batch(generator))
            found = mean_embedding(network, parameters, pairs.observations, pairs.actions)
            pairs.descend((wanted - found).square().sum())


@dataclass(frozen=True)
class DistributionMatchingRelabelled(DistributionMatching):
    """Distribution matching to the dataset's states with the teacher's actions."""

    needs: ClassVar[frozenset[str]] = WITH_TEACHER
    labels: Labels = "teacher"


def mean_embedding(
    network: Network, parameters: Parameters, observations: Tensor, actions: Tensor
) -> Tensor:
    """Mean over N pairs `[R, N, ...]` of what enters the network's last layer `[R, width]`."""
    pairs = torch.cat((observations, actions), dim=-1)
    return network.forward(parameters, pairs).inputs[-1].mean(1)

"""Distribution matching: pairs whose mean embedding under random networks is the real data's.

Source: Zhao and Bilen, WACV 2023, "Dataset Condensation with Distribution Matching"
(arXiv 2110.04181), Algorithm 1.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from baselines.matching import BatchMatching, LearnedPairs, RealPairs
from benchmark.method import Monitor, Problem
from benchmark.students.network import Network, Parameters
from benchmark.students.spec import StudentSpec


@dataclass(frozen=True)
class DistributionMatching(BatchMatching):
    """Matches the means of pairs, embedded by a fresh network at every outer step.

    The paper matches the images of each class. Actions are not classes, so observation and action
    are embedded together as one vector, and actions are matched with their states. The network has
    the student's architecture; its last hidden layer is the embedding. The defaults are the
    paper's: 20,000 steps, SGD of learning rate 1 and momentum 0.5, batches of 256.
    """

    outer_steps: int = 20_000
    outer_learning_rate: float = 1.0

    def require_student(self, student: StudentSpec) -> None:
        """Any: of the student, only the network is used, and that up to its last hidden layer."""

    def distill(self, problem: Problem, monitor: Monitor) -> None:
        """Run Algorithm 1 for one class."""
        network = problem.student.network(
            problem.observation_dim + problem.action_dim, problem.action_dim
        )
        real = RealPairs(self, problem)
        pairs = LearnedPairs(self, problem, monitor)
        for step in pairs.steps():
            generator = problem.generator("outer step", step)
            drawn = network.initialise(generator)
            parameters = [(w.to(problem.device), b.to(problem.device)) for w, b in drawn]
            # The loss is |mean embedding of real pairs - that of synthetic ones|^2, under weights
            # that are never trained: a new draw at every step.
            wanted = mean_embedding(network, parameters, *real.batch(self.outer_batch, generator))
            found = mean_embedding(network, parameters, pairs.observations, pairs.actions)
            pairs.descend((wanted - found).square().sum())


DISTRIBUTION_MATCHING_RELABELLED = DistributionMatching(labels="teacher")


def mean_embedding(
    network: Network, parameters: Parameters, observations: Tensor, actions: Tensor
) -> Tensor:
    """Mean over the N pairs `[R, N, ...]` of the last layer's inputs `[R, width]`."""
    pairs = torch.cat((observations, actions), dim=-1)
    return network.forward(parameters, pairs).inputs[network.depth - 1].mean(1)

"""IADD: trajectory matching in which the layers of the network have learned importance.

Source: the abstract of "Importance-Aware Adaptive Dataset Distillation" (Neural Networks 2024,
arXiv 2401.15863): parameters carry self-adaptive weights, which are optimised together with the set
and the inner learning rate, over many snapshots of the experts.

    min over D, rate, v of  sum_l w_l |reached_l - target_l|^2 / sum_l w_l |start_l - target_l|^2,
    w = softplus(v) / mean(softplus(v))

The abstract has no formula. Ours is one weight a layer, positive by the softplus and of mean one,
so that they cannot all go to zero; at the start all are 1, which is trajectory matching. The
weights are in the denominator too: without, they would only flee the layers that move most.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import softplus

from baselines.matching import LearnedPairs
from baselines.trajectory_matching import TrajectoryMatching
from benchmark.method import BadParameter, Problem
from benchmark.students.network import Parameters


@dataclass(frozen=True)
class IADD(TrajectoryMatching):
    """Trajectory matching with learned importance of the layers.

    Args:
        importance_learning_rate: Learning rate of SGD on v; 0 is trajectory matching.
    """

    importance_learning_rate: float = 0.01

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.importance_learning_rate < 0:
            raise BadParameter(
                f"importance_learning_rate is {self.importance_learning_rate}; expected 0 or more."
            )

    def others(self, problem: Problem) -> dict[str, tuple[Tensor, float]]:
        """The inner rate, and v `[L]`, one number a layer."""
        network = problem.student.network(problem.observation_dim, problem.action_dim)
        first = torch.zeros(len(network.layer_sizes))
        return super().others(problem) | {"importance": (first, self.importance_learning_rate)}

    def learned_facts(self, values: Mapping[str, Tensor]) -> dict[str, float]:
        """The inner rate, and the importance of each layer from 0."""
        found = enumerate(weights(values["importance"]).tolist())
        return super().learned_facts(values) | {f"importance_{i}": value for i, value in found}

    def distance(
        self, reached: Parameters, start: Parameters, target: Parameters, pairs: LearnedPairs
    ) -> Tensor:
        """The quotient above, a scalar."""
        of_layer = weights(pairs.values["importance"])
        left = (of_layer * layer_distances(reached, target)).sum()
        return left / (of_layer * layer_distances(start, target)).sum()


def weights(v: Tensor) -> Tensor:
    """Importance of each layer `[L]`, positive and of mean one."""
    positive = softplus(v)
    return positive / positive.mean()


def layer_distances(one: Parameters, other: Parameters) -> Tensor:
    """Squared Euclidean distance of two sets of parameters in each layer `[L]`."""
    layers = zip(one, other, strict=True)
    return torch.stack(
        [(w - x).square().sum() + (b - c).square().sum() for (w, b), (x, c) in layers]
    )

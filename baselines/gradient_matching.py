"""Gradient matching: pairs on which the BC loss has the gradient that it has on the real data.

Sources: Zhao, Mopuri and Bilen, ICLR 2021, "Dataset Condensation with Gradient Matching"
(arXiv 2006.05929), Algorithm 1; for policies, "Dataset Distillation for Offline Reinforcement
Learning" (DDRL, arXiv 2407.20299).
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

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
from benchmark.method import Monitor, Problem, require_positive
from benchmark.outer_steps import OuterSteps
from benchmark.students.network import Parameters
from benchmark.students.spec import StudentSpec
from benchmark.work import Priced

SAMPLED_MATCHES = 10
"""Matches of the outer step that plans time; after all but the last of them a student trains."""


@dataclass(frozen=True)
class GradientMatching(BatchMatching):
    """Matches gradients along the training of fresh students, one student per outer step.

    From Zhao et al.: 1,000 outer steps, momentum 0.5, real batches of 256, and the 50 matches and
    10 network steps of their largest sets. The learning rate differs: with their 0.1, chosen for
    images of thousands of pixels, pairs of a few dozen numbers diverge.

    DDRL is `distance = "squared"`, `optimised = "observations"`, `outer_learning_rate = 0.1`.

    Args:
        distance: "cosine" over the rows of every layer (Zhao et al.), or "squared" over all
            parameters (DDRL).
        matches: Updates of the pairs per student.
        network_steps: Training steps of the student on the pairs between two matches, by its own
            optimiser.
    """

    tiny: ClassVar[dict[str, Any]] = {"matches": 3, "network_steps": 2}
    outer_learning_rate: float = 0.001
    distance: Literal["cosine", "squared"] = "cosine"
    matches: int = 50
    network_steps: int = 10

    def __post_init__(self) -> None:
        super().__post_init__()
        require_positive(self, "matches", "network_steps")

    def work(self, observation_dim: int, action_dim: int, student: StudentSpec) -> Priced:
        """Outer steps, timed as they are taken, with fewer matches each."""
        few = dataclasses.replace(self, outer_steps=1, matches=min(self.matches, SAMPLED_MATCHES))
        count = self.outer_steps * self.matches / few.matches
        return OuterSteps(count, few, observation_dim, action_dim, student)

    def distill(self, problem: Problem, monitor: Monitor) -> None:
        """Run Algorithm 1; its loop over classes is left out, since actions have none."""
        distance = DISTANCES[self.distance]
        real = RealPairs(self, problem)
        pairs = LearnedPairs(self, problem, monitor)
        for step in pairs.steps():
            generator = problem.generator("outer step", step)
            loss = BCLoss(problem, generator)
            student = Clones(problem, loss)
            for match in range(self.matches):
                # Both gradients at the same parameters; only the second depends on the pairs, so
                # the descent differentiates the BC loss twice: d/dD of d/dtheta.
                wanted = loss.gradient(student.parameters, *real.batch(self.outer_batch, generator))
                found = loss.gradient(student.parameters, pairs.observations, pairs.actions)
                pairs.descend(distance(wanted, found))
                if match + 1 < self.matches:  # training after the last match would be discarded
                    for _ in range(self.network_steps):
                        student.learn(pairs.observations, pairs.actions)


GRADIENT_MATCHING_RELABELLED = GradientMatching(labels="teacher")


def cosine_distance(real: Parameters, synthetic: Parameters) -> Tensor:
    """Sum over layers and output rows of 1 - cosine, a scalar; biases are skipped.

    The 1e-6 is the published code's.
    """
    total = torch.zeros((), dtype=real[0][0].dtype, device=real[0][0].device)
    for (wanted, _), (found, _) in zip(real, synthetic, strict=True):
        # Weights are `[P, out, in]`: one cosine per output row, over the weights that enter it.
        norms = torch.linalg.vector_norm(wanted, dim=-1) * torch.linalg.vector_norm(found, dim=-1)
        total = total + (1 - (wanted * found).sum(-1) / (norms + 1e-6)).sum()
    return total


DISTANCES = {"cosine": cosine_distance, "squared": squared_distance}

"""Gradient matching: pairs on which the BC loss has the gradient that it has on the real data.

Sources: Zhao, Mopuri and Bilen, ICLR 2021, "Dataset Condensation with Gradient Matching"
(arXiv 2006.05929), Algorithm 1; for policies, "Dataset Distillation for Offline Reinforcement
Learning" (DDRL, arXiv 2407.20299).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from baselines.matching import BCLoss, Clones, LearnedPairs, Matching, RealPairs, squared_distance
from baselines.selection import WITH_TEACHER, Labels
from benchmark.method import Monitor, Problem, require_positive
from benchmark.students.network import Parameters


@dataclass(frozen=True)
class GradientMatching(Matching):
    """Matches gradients along the training of fresh students, one student an outer step.

    From Zhao et al.: 1,000 outer steps, momentum 0.5, real batches of 256, and the 50 matches and
    10 network steps of their largest sets. Not theirs is the rate: under 0.1, made for images of
    thousands of pixels, pairs of a few dozen numbers diverge.

    DDRL is `distance = "squared"`, `optimised = "observations"`, `outer_learning_rate = 0.1`.

    Args:
        distance: "cosine", of every layer's rows (Zhao et al.), or "squared", over
            all parameters (DDRL).
        matches: Updates of the pairs for every student.
        network_steps: Steps that the student is trained on the pairs between two matches, with
            its own optimiser.
    """

    outer_learning_rate: float = 0.001
    distance: Literal["cosine", "squared"] = "cosine"
    matches: int = 50
    network_steps: int = 10

    def __post_init__(self) -> None:
        super().__post_init__()
        require_positive(self, "matches", "network_steps")

    def distill(self, problem: Problem, monitor: Monitor) -> None:
        """Algorithm 1; the data have no classes to match one by one."""
        distance = DISTANCES[self.distance]
        real = RealPairs(self, problem)
        pairs = LearnedPairs(self, problem, monitor)
        for step in pairs.steps():
            generator = problem.generator("outer step", step)
            loss = BCLoss(problem, generator)
            student = Clones(problem, loss)
            for match in range(self.matches):
                wanted = loss.gradient(student.parameters, *real.batch(generator))
                found = loss.gradient(student.parameters, pairs.observations, pairs.actions)
                pairs.descend(distance(wanted, found))
                if match + 1 < self.matches:
                    for _ in range(self.network_steps):
                        student.learn(pairs.observations, pairs.actions)


@dataclass(frozen=True)
class GradientMatchingRelabelled(GradientMatching):
    """Gradient matching to the teacher's actions on the dataset's states."""

    needs: ClassVar[frozenset[str]] = WITH_TEACHER
    labels: Labels = "teacher"


def cosine_distance(real: Parameters, synthetic: Parameters) -> Tensor:
    """Sum over layers and output rows of 1 - cosine; biases are skipped.

    The 1e-6 is the published code's.
    """
    total = torch.zeros((), dtype=real[0][0].dtype, device=real[0][0].device)
    for (wanted, _), (found, _) in zip(real, synthetic, strict=True):
        norms = torch.linalg.vector_norm(wanted, dim=-1) * torch.linalg.vector_norm(found, dim=-1)
        total = total + (1 - (wanted * found).sum(-1) / (norms + 1e-6)).sum()
    return total


DISTANCES = {"cosine": cosine_distance, "squared": squared_distance}

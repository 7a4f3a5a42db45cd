"""Herding: pairs whose mean stays as near to the dataset's as one more pair can bring it.

Source: Welling, 2009, "Herding dynamical weights to learn", in the greedy form of iCaRL (Rebuffi et
al., arXiv 1611.07725, Algorithm 4), here on the pairs themselves and not on learned features.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from baselines.selection import WITH_TEACHER, Labels, Selection, distances
from benchmark.method import Problem


@dataclass(frozen=True)
class Herding(Selection):
    """Matches the mean of normalised observations and actions, pair by pair.

    Nothing in it is random: every seed chooses the same pairs.
    """

    def rows(self, problem: Problem) -> Tensor:
        """Chosen transitions `[N]`; the first k have the mean that the k-th choice made best."""
        points = torch.cat((problem.observations, problem.actions), dim=1)
        mean = points.mean(0, dtype=torch.float64)
        total = torch.zeros_like(mean)
        taken = torch.zeros(len(points), dtype=torch.bool)
        rows: list[int] = []
        while len(rows) < self.synthetic_size:
            # The k-th pair that makes their mean best is the one nearest to k * mean - sum.
            wanted = ((len(rows) + 1) * mean - total).to(points.dtype)
            rows.append(int(distances(points, wanted).masked_fill_(taken, torch.inf).argmin()))
            taken[rows[-1]] = True
            total += points[rows[-1]]
        return torch.tensor(rows)


@dataclass(frozen=True)
class HerdingRelabelled(Herding):
    """Herding, the states of the chosen pairs with the teacher's actions."""

    needs: ClassVar[frozenset[str]] = WITH_TEACHER
    labels: Labels = "teacher"

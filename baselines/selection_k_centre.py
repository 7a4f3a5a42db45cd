"""k-centre: states such that none of the dataset is far from all of them.

Source: greedy farthest-first traversal, within a factor 2 of the best radius (Gonzalez, 1985,
"Clustering to minimize the maximum intercluster distance").
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from baselines.selection import WITH_TEACHER, Labels, Selection, distances
from benchmark.method import Problem


@dataclass(frozen=True)
class KCentre(Selection):
    """Begins with a random state; every next one is the farthest from those chosen.

    Distances are Euclidean, between normalised observations.
    """

    def rows(self, problem: Problem) -> Tensor:
        """Chosen transitions `[N]`, in the order of the traversal."""
        points = problem.observations
        start = torch.randint(len(points), (), generator=problem.generator("selection"))
        rows = [int(start)]
        nearest = torch.full((len(points),), torch.inf)
        while len(rows) < self.synthetic_size:
            nearest = torch.minimum(nearest, distances(points, points[rows[-1]]))
            nearest[rows[-1]] = -1  # below a copy of it in the data, which is at distance 0
            rows.append(int(nearest.argmax()))
        return torch.tensor(rows)


@dataclass(frozen=True)
class KCentreRelabelled(KCentre):
    """k-centre with the teacher's actions."""

    needs: ClassVar[frozenset[str]] = WITH_TEACHER
    labels: Labels = "teacher"

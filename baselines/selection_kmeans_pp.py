"""k-means++: one real state for each of N clusters.

Source: Arthur and Vassilvitskii, 2007, "k-means++: the advantages of careful seeding".
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from baselines.selection import WITH_TEACHER, Labels, Selection, distances, in_blocks
from benchmark.method import BadParameter, Problem


@dataclass(frozen=True)
class KMeansPP(Selection):
    """Seeds clusters by D^2 sampling, improves them, and takes the state nearest to each centre.

    Distances are Euclidean, between normalised observations.

    Args:
        lloyd_steps: Steps of Lloyd's algorithm after the seeding; 0 takes the seeds themselves.
    """

    lloyd_steps: int = 10

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.lloyd_steps < 0:
            raise BadParameter(f"lloyd_steps is {self.lloyd_steps}; expected 0 or more.")

    def rows(self, problem: Problem) -> Tensor:
        """Chosen transitions `[N]`, one a cluster."""
        points = problem.observations
        seeds = seed_clusters(points, self.synthetic_size, problem.generator("selection"))
        if self.lloyd_steps == 0:
            return seeds
        centres = points[seeds]
        for _ in range(self.lloyd_steps):
            centres = lloyd_step(points, centres)
        return nearest_states(points, centres)


@dataclass(frozen=True)
class KMeansPPRelabelled(KMeansPP):
    """k-means++ with the teacher's actions."""

    needs: ClassVar[frozenset[str]] = WITH_TEACHER
    labels: Labels = "teacher"


def seed_clusters(points: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """D^2 sampling (Section 2.2, steps 1a and 1b): rows of `[M, D]` points `[count]`.

    Each next row is drawn with a probability in proportion to its squared distance from the rows
    drawn before; uniformly among those not yet drawn, once all others are copies of drawn ones.
    """
    rows = [int(torch.randint(len(points), (), generator=generator))]
    left = torch.ones(len(points), dtype=torch.float64)
    nearest = torch.full((len(points),), torch.inf)
    while len(rows) < count:
        left[rows[-1]] = 0
        nearest = torch.minimum(nearest, distances(points, points[rows[-1]]))
        mass = nearest.double().square_().cumsum(0)
        if mass[-1] == 0:
            mass = left.cumsum(0)
        # The inverse of the cumulative sum: torch.multinomial stops at 2^24 categories. From the
        # right, so that a draw of exactly 0 passes over rows without mass.
        drawn = torch.rand((), dtype=torch.float64, generator=generator) * mass[-1]
        rows.append(int(torch.searchsorted(mass, drawn, right=True)))
    return torch.tensor(rows)


def lloyd_step(points: Tensor, centres: Tensor) -> Tensor:
    """The mean of the points nearest to each centre; a centre with none stays `[N, D]`."""
    cluster = in_blocks(lambda block: torch.cdist(block, centres).argmin(1), points)
    sizes = torch.bincount(cluster, minlength=len(centres))[:, None]
    sums = torch.zeros_like(centres).index_add_(0, cluster, points)
    return torch.where(sizes > 0, sums / sizes.clamp(min=1), centres)


def nearest_states(points: Tensor, centres: Tensor) -> Tensor:
    """The row nearest to each centre, of those that no earlier centre took `[N]`."""
    taken = torch.zeros(len(points), dtype=torch.bool)
    rows = []
    for centre in centres:
        rows.append(int(distances(points, centre).masked_fill_(taken, torch.inf).argmin()))
        taken[rows[-1]] = True
    return torch.tensor(rows)

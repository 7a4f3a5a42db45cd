"""Selections whose pairs cover the dataset: k-centre, k-means++ and herding.

Sources: Gonzalez, 1985, "Clustering to minimize the maximum intercluster distance" (k-centre);
Arthur and Vassilvitskii, 2007, "k-means++: the advantages of careful seeding"; Welling, 2009,
"Herding dynamical weights to learn", in the greedy form of iCaRL (Rebuffi et al.,
arXiv 1611.07725, Algorithm 4), here on the pairs themselves and not on learned features.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from baselines.selection import Selection, in_blocks
from benchmark.method import BadParameter, Problem


@dataclass(frozen=True)
class KCentre(Selection):
    """Begins with a random state; every next one is the farthest from those chosen.

    Distances are Euclidean, between normalised observations. The greedy traversal is within a
    factor of 2 of the smallest possible radius (Gonzalez, 1985).
    """

    def rows(self, problem: Problem) -> Tensor:
        """Choose transitions `[N]`, in the order of the traversal."""
        points = problem.observations
        start = torch.randint(len(points), (), generator=problem.generator("selection"))
        rows = [int(start)]
        # Distance of every state to the nearest chosen one: one new column per choice, O(M N) in
        # all, instead of a table of all pairs of states.
        nearest = torch.full((len(points),), torch.inf)
        while len(rows) < self.synthetic_size:
            nearest = torch.minimum(nearest, distances(points, points[rows[-1]]))
            nearest[rows[-1]] = -1  # below a copy of it in the data, which is at distance 0
            rows.append(int(nearest.argmax()))
        return torch.tensor(rows)


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
        """Choose transitions `[N]`, one per cluster."""
        points = problem.observations
        seeds = seed_clusters(points, self.synthetic_size, problem.generator("selection"))
        if self.lloyd_steps == 0:
            return seeds
        centres = points[seeds]
        for _ in range(self.lloyd_steps):
            centres = lloyd_step(points, centres)
        return nearest_states(points, centres)


@dataclass(frozen=True)
class Herding(Selection):
    """Matches the mean of normalised observations and actions, pair by pair.

    Nothing in it is random: every seed chooses the same pairs.
    """

    def rows(self, problem: Problem) -> Tensor:
        """Choose transitions `[N]`; the k-th brings the mean of the first k nearest."""
        points = torch.cat((problem.observations, problem.actions), dim=1)
        mean = points.mean(0, dtype=torch.float64)
        total = torch.zeros_like(mean)  # float64: the sum runs over all choices
        taken = torch.zeros(len(points), dtype=torch.bool)
        rows: list[int] = []
        while len(rows) < self.synthetic_size:
            # |(total + x) / k - mean| is smallest for the x nearest to k * mean - total.
            wanted = ((len(rows) + 1) * mean - total).to(points.dtype)
            rows.append(nearest_row(points, wanted, taken))
            total += points[rows[-1]]
        return torch.tensor(rows)


K_CENTRE_RELABELLED = KCentre(labels="teacher")
KMEANS_PP_RELABELLED = KMeansPP(labels="teacher")
HERDING_RELABELLED = Herding(labels="teacher")


def seed_clusters(points: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Draw seeds by D^2 sampling (Section 2.2, steps 1a and 1b).

    Each next row is drawn with a probability proportional to its squared distance from the rows
    drawn before; uniformly among those not yet drawn, once all others are copies of drawn ones.

    Args:
        points: `[M, D]`.
        count: Seeds to draw.
        generator: Source of the draws.

    Returns:
        Rows of the points `[count]`.
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
    """Means of the points nearest to each centre `[N, D]`; a centre without points stays."""
    cluster = nearest_centres(points, centres)
    sizes = torch.bincount(cluster, minlength=len(centres))[:, None]
    sums = torch.zeros_like(centres).index_add_(0, cluster, points)
    return torch.where(sizes > 0, sums / sizes.clamp(min=1), centres)


def nearest_centres(points: Tensor, centres: Tensor) -> Tensor:
    """Index of the centre nearest to each point `[M]`."""
    return in_blocks(lambda block: torch.cdist(block, centres).argmin(1), points)


def nearest_states(points: Tensor, centres: Tensor) -> Tensor:
    """Rows `[N]`: the nearest to each centre among those that no earlier centre took."""
    taken = torch.zeros(len(points), dtype=torch.bool)
    return torch.tensor([nearest_row(points, centre, taken) for centre in centres])


def nearest_row(points: Tensor, target: Tensor, taken: Tensor) -> int:
    """Take the row nearest to a target `[D]`, and mark it in `taken` `[M]`."""
    row = int(distances(points, target).masked_fill_(taken, torch.inf).argmin())
    taken[row] = True
    return row


def distances(points: Tensor, centre: Tensor) -> Tensor:
    """Euclidean distances `[M]` of points `[M, D]` from one centre `[D]`.

    They are taken from the differences: the distance of two equal points is then exactly 0, which
    the expansion of the square would miss by rounding.
    """
    mode = "donot_use_mm_for_euclid_dist"
    return torch.cdist(points, centre[None], compute_mode=mode)[:, 0]

"""Nearest-neighbour density (Loftsgaarden & Quesenberry 1965, Ann. Math. Statist. 36).

    p(x) = (k - 1) / (n V r^d)

for n reference states, the distance r to the k-th nearest of them and the volume V of the unit ball
in d dimensions. The numerator is k - 1 because that makes the estimate unbiased: for k it is too
high by the factor k / (k - 1) on average.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from scipy.spatial import cKDTree
from torch import Tensor

from benchmark.density.density import (
    Density,
    DensityProblem,
    DensityRecipe,
    FitProgress,
    check_states,
    places_of,
    subsample,
)
from benchmark.seeds import derive_seed


@dataclass(frozen=True)
class KNN(DensityRecipe):
    """k-nearest-neighbour density on a k-d tree of a random subset of the states.

    Args:
        neighbours: Number of neighbours k, 2 or more; few follow the data closely, many give an
            estimate that varies less.
        references: Number of states n, drawn at random, among which neighbours are searched.
    """

    neighbours: int = 10
    references: int = 10_000

    def fit(
        self,
        observations: Tensor,
        seed: int,
        *,
        held_out: Tensor | None = None,
        state: Path | None = None,
        progress: FitProgress | None = None,
    ) -> Density:
        """Build the tree; nothing is trained, so there is no state and no progress."""
        check_states(observations)
        count = min(self.references, len(observations))
        if not 2 <= self.neighbours < count:
            raise DensityProblem(
                f"neighbours of KNN is {self.neighbours} for {count} reference states; expected 2 "
                f"or more, and fewer than references."
            )
        purpose = derive_seed(density="knn", seed=seed, purpose="references")
        chosen = subsample(len(observations), self.references, purpose)
        tree = cKDTree(observations[chosen].double().numpy())
        return NeighbourDensity(tree, chosen, self.neighbours)


@dataclass(frozen=True)
class NeighbourDensity:
    """A density from distances to n reference states.

    Args:
        tree: Search tree of the references `[n, obs_dim]`.
        chosen: Rows of the references among the states of the fit, ascending `[n]`.
        neighbours: Number of neighbours k.
    """

    tree: cKDTree = field(repr=False)
    chosen: Tensor = field(repr=False)
    neighbours: int

    def log_prob(self, observations: Tensor, *, rows: Tensor | None = None) -> Tensor:
        """Compute log p `[B]`; a reference is not its own neighbour.

        A value is +inf where k references coincide with the state.
        """
        check_states(observations, self.tree.m)
        own = places_of(rows, self.chosen, len(observations)) >= 0
        # A reference finds itself first, at distance 0: its k-th other neighbour is one further.
        ranks = [self.neighbours, self.neighbours + 1]
        distances, _ = self.tree.query(observations.double().numpy(), k=ranks, workers=-1)
        found = torch.from_numpy(np.asarray(distances, np.float64))
        radius = torch.where(own, found[:, 1], found[:, 0])
        width, count = int(self.tree.m), int(self.tree.n) - own.double()
        # V = pi^(d / 2) / Gamma(d / 2 + 1); the ball of radius r has volume V r^d.
        log_unit_ball = 0.5 * width * math.log(math.pi) - math.lgamma(0.5 * width + 1)
        log_ball = log_unit_ball + width * radius.log()
        return math.log(self.neighbours - 1) - count.log() - log_ball

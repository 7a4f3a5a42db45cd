"""How diverse the states of a dataset are, in three figures on normalised states."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.spatial import cKDTree
from scipy.spatial.distance import pdist
from scipy.special import digamma, gammaln

from benchmark.datasets.dataset import Dataset
from benchmark.density.density import effective_support
from benchmark.scaling import STD_FLOOR
from benchmark.seeds import numpy_generator

PAIRWISE_SAMPLE = 2_000
ENTROPY_SAMPLE = 20_000
NEIGHBOURS = 10
FLOOR_QUANTILE = 0.01


@dataclass(frozen=True)
class Diversity:
    """Three views of state diversity; higher is more diverse in each.

    Args:
        pairwise_distance: Mean Euclidean distance of two states, in standard deviations.
        entropy: Differential entropy in nats, by nearest neighbours.
        support: Effective sample size, as a fraction of all states, of the weights 1 / p that would
            make the states uniform over where they are: 1 if they are uniform already. Densities
            are floored at their first percentile.
    """

    pairwise_distance: float
    entropy: float
    support: float


def diversity(dataset: Dataset, log_density: torch.Tensor) -> Diversity:
    """The three figures; the first two of random samples of the states, the same each time.

    Args:
        dataset: Whose states.
        log_density: Of its observations `[M]`.
    """
    generator = numpy_generator(dataset=dataset.name, purpose="diversity")
    states = sample_states(dataset, ENTROPY_SAMPLE, generator)
    return Diversity(
        pairwise_distance=float(pdist(states[:PAIRWISE_SAMPLE]).mean()),
        entropy=nearest_neighbour_entropy(states, NEIGHBOURS),
        support=effective_support(log_density, floor_quantile=FLOOR_QUANTILE),
    )


def sample_states(
    dataset: Dataset, size: int, generator: np.random.Generator
) -> NDArray[np.float64]:
    """Normalised observations `[min(size, M), obs_dim]`, drawn without replacement."""
    return normalised_states(dataset, generator.permutation(len(dataset))[:size])


def normalised_states(dataset: Dataset, rows: NDArray[np.int64]) -> NDArray[np.float64]:
    """These observations, normalised `[len(rows), obs_dim]`."""
    mean, std = dataset.observation_moments()
    normalised: NDArray[np.float64] = (dataset.observations[rows] - mean) / (std + STD_FLOOR)
    return normalised


def nearest_neighbour_entropy(points: NDArray[np.float64], neighbours: int) -> float:
    """Differential entropy in nats of the density that points `[N, dim]` were drawn from.

    Kozachenko and Leonenko's estimator with the distance to the k-th neighbour (Kraskov et al.
    2004, eq. 20): psi(N) - psi(k) + log volume of the unit ball + dim * mean log distance.
    Points that have k exact copies would give minus infinity; they are left out.
    """
    count, dim = points.shape
    neighbours = min(neighbours, count - 1)
    distance = cKDTree(points).query(points, k=[neighbours + 1])[0][:, 0]
    distance = distance[distance > 0]
    log_ball = dim / 2 * math.log(math.pi) - gammaln(dim / 2 + 1)
    return float(digamma(count) - digamma(neighbours) + log_ball + dim * np.log(distance).mean())


@dataclass(frozen=True)
class PrincipalComponents:
    """The directions in which points vary most; the largest loading of each is positive.

    Args:
        mean: Of the points `[dim]`.
        axes: Directions `[count, dim]`, of unit length.
        shares: Of the variance that lies along each `[count]`.
    """

    mean: NDArray[np.float64]
    axes: NDArray[np.float64]
    shares: NDArray[np.float64]

    @classmethod
    def of(cls, points: NDArray[np.float64], count: int = 2) -> PrincipalComponents:
        """Of points `[N, dim]`; where dim is below count, as many as there are."""
        mean = points.mean(0)
        centred = points - mean
        values, vectors = np.linalg.eigh(centred.T @ centred / len(points))
        axes = vectors.T[::-1][:count]
        signs = np.sign(axes[np.arange(len(axes)), np.abs(axes).argmax(1)])
        return cls(mean, axes * signs[:, None], values[::-1][:count] / values.sum())

    def at(self, points: NDArray[np.float64]) -> NDArray[np.float64]:
        """Places of points `[N, dim]` along the directions `[N, count]`."""
        return (points - self.mean) @ self.axes.T

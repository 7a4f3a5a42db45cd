"""The diversity of a dataset's states: three figures, and the plane in which they vary most."""

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
        pairwise_distance: Mean Euclidean distance between two states, in standard deviations.
        entropy: Differential entropy in nats, estimated by nearest neighbours.
        support: Effective sample size, as a fraction of all states, of the weights 1 / p that would
            make the states uniform over their support: 1 if they are uniform already. Densities
            are floored at their first percentile.
    """

    pairwise_distance: float
    entropy: float
    support: float


def diversity(dataset: Dataset, log_density: torch.Tensor) -> Diversity:
    """Measure the three figures; the first two on a random sample of states, the same each time.

    Args:
        dataset: Dataset whose states are measured.
        log_density: Log density of each of its observations `[M]`.
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
    """Observations of the given rows, normalised `[len(rows), obs_dim]`.

    Standard deviations are raised by the floor that students' observations are scaled with.
    """
    mean, std = dataset.observation_moments()
    normalised: NDArray[np.float64] = (dataset.observations[rows] - mean) / (std + STD_FLOOR)
    return normalised


def nearest_neighbour_entropy(points: NDArray[np.float64], neighbours: int) -> float:
    """Differential entropy in nats of the density that points `[N, dim]` were drawn from.

    Kozachenko and Leonenko's estimator with the distance to the k-th neighbour (Kraskov et al.
    2004, eq. 20): psi(N) - psi(k) + log volume of the unit ball + dim * mean log distance.
    Points that have k exact copies would give minus infinity; they are left out.

    Args:
        points: Points `[N, dim]`.
        neighbours: k; larger is smoother, with more bias.
    """
    count, dim = points.shape
    neighbours = min(neighbours, count - 1)
    # The nearest neighbour that a query finds is the point itself: the k-th is the (k + 1)-th.
    distance = cKDTree(points).query(points, k=[neighbours + 1])[0][:, 0]
    distance = distance[distance > 0]
    # Volume of the unit ball: pi^(dim / 2) / Gamma(dim / 2 + 1).
    log_ball = dim / 2 * math.log(math.pi) - gammaln(dim / 2 + 1)
    return float(digamma(count) - digamma(neighbours) + log_ball + dim * np.log(distance).mean())


@dataclass(frozen=True)
class PrincipalComponents:
    """The directions in which points vary most; the largest loading of each is positive.

    Args:
        mean: Mean of the points `[dim]`.
        axes: Directions of unit length `[count, dim]`.
        shares: Share of the variance along each `[count]`.
    """

    mean: NDArray[np.float64]
    axes: NDArray[np.float64]
    shares: NDArray[np.float64]

    @classmethod
    def of(cls, points: NDArray[np.float64], count: int = 2) -> PrincipalComponents:
        """Fit to points `[N, dim]`; where dim is below count, there are only dim directions."""
        mean = points.mean(0)
        centred = points - mean
        # Eigenvectors of the covariance are the columns, by rising eigenvalue: the last vary most.
        values, vectors = np.linalg.eigh(centred.T @ centred / len(points))
        axes = vectors.T[::-1][:count]
        # An eigenvector's sign is arbitrary; fixing it makes drawings the same on every machine.
        signs = np.sign(axes[np.arange(len(axes)), np.abs(axes).argmax(1)])
        return cls(mean, axes * signs[:, None], values[::-1][:count] / values.sum())

    def at(self, points: NDArray[np.float64]) -> NDArray[np.float64]:
        """Coordinates of points `[N, dim]` along the directions `[N, count]`."""
        return (points - self.mean) @ self.axes.T

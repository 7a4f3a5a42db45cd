"""A mixture of Gaussians in three dimensions, whose density is known."""

from __future__ import annotations

import math

import torch
from torch import Tensor

WEIGHTS = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
MEANS = torch.tensor([[-2.0, 0, 1], [2, 1, -1], [0, -2, 2]], dtype=torch.float64)
FACTORS = torch.tensor(
    [
        [[0.6, 0, 0], [0.5, 0.4, 0], [-0.2, 0.1, 0.5]],
        [[0.9, 0, 0], [-0.6, 0.3, 0], [0.2, 0.3, 0.7]],
        [[0.3, 0, 0], [0.0, 0.8, 0], [0.4, -0.3, 0.4]],
    ],
    dtype=torch.float64,
)
"""Lower Cholesky factors of the covariances."""


def sample(count: int, seed: int, spread: float = 1.0) -> Tensor:
    """States `[count, 3]` float64, with every component's deviations times `spread`."""
    generator = torch.Generator().manual_seed(seed)
    component = torch.multinomial(WEIGHTS, count, replacement=True, generator=generator)
    noise = torch.randn(count, 3, 1, dtype=torch.float64, generator=generator)
    return MEANS[component] + spread * (FACTORS[component] @ noise)[..., 0]


def log_prob(states: Tensor, spread: float = 1.0) -> Tensor:
    """The true log density `[B]`."""
    return torch.stack(
        [
            math.log(weight) + gaussian(states, mean, spread * factor)
            for weight, mean, factor in zip(WEIGHTS, MEANS, FACTORS, strict=True)
        ]
    ).logsumexp(0)


def single_gaussian(fitted_on: Tensor, states: Tensor) -> Tensor:
    """Log density of the best single Gaussian: what a model that has learnt no shape gives."""
    factor = torch.linalg.cholesky(fitted_on.T.cov())
    return gaussian(states, fitted_on.mean(0), factor)


def gaussian(states: Tensor, mean: Tensor, factor: Tensor) -> Tensor:
    """Log density of a Gaussian with a Cholesky factor `[B]`."""
    whitened = torch.linalg.solve_triangular(factor, (states - mean).T, upper=False)
    constant = 0.5 * len(mean) * math.log(2 * math.pi) + factor.diagonal().log().sum()
    return -0.5 * whitened.square().sum(0) - constant

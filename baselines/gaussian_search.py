"""OpenES and SNES: evolution strategies that move a Gaussian over vectors to higher fitness.

A generation draws noise, evaluates its candidates, and updates the distribution:

    noise = strategy.draw(population, generator)            # [P, D]
    strategy.update(noise, fitness(strategy.candidates(noise)))

Fitness is `[P]`, higher is better. No random state is kept: a generator per generation suffices.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

Shaping = Callable[[Tensor], Tensor]
"""Function from the fitness `[P]` of a population to the weights `[P]` of its noise."""


class Strategy(ABC):
    """A Gaussian of independent components.

    Args:
        mean: Start of the search `[D]`.
        sigma: Standard deviation of every component at the start.
    """

    def __init__(self, mean: Tensor, sigma: float) -> None:
        self.mean = mean.clone()
        self.sigma = torch.full_like(mean, sigma)

    @abstractmethod
    def draw(self, population: int, generator: torch.Generator) -> Tensor:
        """Draw standard normal noise `[population, D]`."""

    @abstractmethod
    def update(self, noise: Tensor, fitness: Tensor) -> None:
        """Move the distribution, given noise `[P, D]` and the fitness of its candidates `[P]`."""

    def candidates(self, noise: Tensor) -> Tensor:
        """Candidates mean + sigma * noise `[P, D]`."""
        return self.mean + self.sigma * noise

    def tensors(self) -> dict[str, Tensor]:
        """Tensors that the next generation depends on, by attribute."""
        return {"mean": self.mean, "sigma": self.sigma}

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Restore a state that `tensors` gave."""
        for name in self.tensors():
            setattr(self, name, tensors[name].clone())


class OpenES(Strategy):
    """Antithetic gradient estimate of the smoothed fitness, climbed by Adam (arXiv 1703.03864).

    The gradient in the mean is 1 / (P sigma) sum_i w_i noise_i (Algorithm 1 there), with weights w
    from the fitness; sigma is constant. Of Adam (arXiv 1412.6980, Algorithm 1) all
    other constants are the usual ones.

    Args:
        mean: Start of the search `[D]`.
        sigma: Standard deviation of the candidates.
        learning_rate: Learning rate of Adam.
        beta1: Decay of Adam's first moment.
        shaping: Function from fitness to weights; None for centred ranks, the authors' choice.
    """

    BETA2 = 0.999
    EPSILON = 1e-8

    def __init__(
        self,
        mean: Tensor,
        sigma: float,
        learning_rate: float,
        shaping: Shaping | None = None,
        beta1: float = 0.9,
    ) -> None:
        super().__init__(mean, sigma)
        self.learning_rate, self.beta1 = learning_rate, beta1
        self.shaping = shaping or centred_ranks
        self.first_moment = torch.zeros_like(mean)
        self.second_moment = torch.zeros_like(mean)
        self.updates = torch.zeros((), dtype=torch.int64)

    def draw(self, population: int, generator: torch.Generator) -> Tensor:
        """Draw noise `[population, D]` whose second half mirrors the first.

        Raises:
            ValueError: The population is odd.
        """
        if population % 2:
            raise ValueError(f"population is {population}; antithetic candidates come in pairs.")
        half = torch.randn(population // 2, len(self.mean), generator=generator)
        return torch.cat((half, -half))

    def gradient(self, noise: Tensor, fitness: Tensor) -> Tensor:
        """Estimate the gradient `[D]` of the expected (shaped) fitness in the mean."""
        weights = self.shaping(fitness).to(noise.dtype)
        return weights @ noise / (len(noise) * self.sigma)

    def update(self, noise: Tensor, fitness: Tensor) -> None:
        """Take one step of Adam, uphill."""
        gradient = self.gradient(noise, fitness)
        # lerp: m <- b m + (1 - b) g; the divisions below remove the bias of moments that began at
        # zero, and epsilon is added outside the root, as in Algorithm 1.
        self.updates += 1
        first, second = self.beta1, self.BETA2
        self.first_moment.lerp_(gradient, 1 - first)
        self.second_moment.lerp_(gradient.square(), 1 - second)
        mean = self.first_moment / (1 - first ** int(self.updates))
        spread = (self.second_moment / (1 - second ** int(self.updates))).sqrt()
        self.mean += self.learning_rate * mean / (spread + self.EPSILON)

    def tensors(self) -> dict[str, Tensor]:
        """Tensors of the distribution and Adam's moments."""
        return {
            **super().tensors(),
            "first_moment": self.first_moment,
            "second_moment": self.second_moment,
            "updates": self.updates,
        }


class SNES(Strategy):
    """Separable natural evolution strategy (Wierstra et al. 2014, JMLR 15, Algorithm 6).

        mean  <- mean + eta_mu sigma sum_k u_k noise_k
        sigma <- sigma exp(eta_sigma / 2 sum_k u_k (noise_k^2 - 1))

    with the utilities u of `natural_utilities` and eta_sigma = (3 + ln D) / (5 sqrt D), their
    Table 1.

    Args:
        mean: Start of the search `[D]`.
        sigma: Standard deviation at the start.
        learning_rate: eta_mu; 1 in the paper.
        temperature: Temperature of `softmax_utilities`, which then take the place of theirs.
    """

    def __init__(
        self,
        mean: Tensor,
        sigma: float,
        learning_rate: float = 1.0,
        temperature: float | None = None,
    ) -> None:
        super().__init__(mean, sigma)
        self.learning_rate, self.temperature = learning_rate, temperature
        self.sigma_learning_rate = (3 + math.log(len(mean))) / (5 * math.sqrt(len(mean)))

    def draw(self, population: int, generator: torch.Generator) -> Tensor:
        """Draw independent noise `[population, D]`."""
        return torch.randn(population, len(self.mean), generator=generator)

    def update(self, noise: Tensor, fitness: Tensor) -> None:
        """Take one step along the natural gradient."""
        # Utilities `[P]` times noise `[P, D]` sum over the population. The mean moves first, with
        # the sigma that drew the noise; sigma changes by a factor, so it stays positive.
        if self.temperature is None:
            utilities = natural_utilities(fitness).to(noise.dtype)
        else:
            utilities = softmax_utilities(fitness, self.temperature).to(noise.dtype)
        self.mean += self.learning_rate * self.sigma * (utilities @ noise)
        curvature = utilities @ (noise.square() - 1)
        self.sigma *= (self.sigma_learning_rate / 2 * curvature).exp()


def centred_ranks(fitness: Tensor) -> Tensor:
    """Ranks `[P]`, spread evenly over [-0.5, 0.5] (the code of arXiv 1703.03864)."""
    by_rank = torch.linspace(-0.5, 0.5, len(fitness), dtype=torch.float64)
    return _by_rank(by_rank, fitness)


def natural_utilities(fitness: Tensor) -> Tensor:
    """Utilities `[P]`: max(0, ln(P / 2 + 1) - ln(rank)), scaled to sum 1, less 1 / P.

    Rank 1 is the best; the worse half of a population gets -1 / P each.

    Source: Wierstra et al. 2014, Section 3.1.
    """
    population = len(fitness)
    ranks = torch.arange(population, 0, -1, dtype=torch.float64)  # worst to best
    raw = (math.log(population / 2 + 1) - ranks.log()).clamp(min=0)
    return _by_rank(raw / raw.sum() - 1 / population, fitness)


def softmax_utilities(fitness: Tensor, temperature: float) -> Tensor:
    """Utilities `[P]`: softmax of -20 sigmoid(temperature * r), r from -0.5, the best, to 0.5.

    Source: Lange et al. 2023 (arXiv 2211.11260), whose search found them; HaDES's authors give
    them to SNES on MinAtar. Unlike the natural ones they sum to 1, so that sigma may grow.
    """
    ranks = torch.linspace(0.5, -0.5, len(fitness), dtype=torch.float64)  # worst to best
    return _by_rank((-20 * (temperature * ranks).sigmoid()).softmax(0), fitness)


def raw_fitness(fitness: Tensor) -> Tensor:
    """The fitness itself as weights `[P]`."""
    return fitness


def _by_rank(weights: Tensor, fitness: Tensor) -> Tensor:
    """Give weights `[P]`, ordered from worst to best, to the candidates; ties share their mean.

    Without sharing, a population of equal fitness would still move.
    """
    # A candidate's level is the number of those with less fitness: equal ones have the same level,
    # on which the weights of their ranks are summed and then divided by their number.
    level = torch.searchsorted(fitness.sort().values, fitness)
    total = torch.zeros_like(weights).index_add(0, level.sort().values, weights)
    shares: Tensor = (total / level.bincount(minlength=len(level)))[level]
    return shares

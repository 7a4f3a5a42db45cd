"""Uniformly random play in the simulators of HaDES's paper, of which no dataset was published.

A run takes its environment, and the mean and deviation that students standardise observations by,
from a dataset. Here they are those of chance, which any search has seen after its first episodes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import gymnasium
import numpy as np
from gymnasium.spaces import Discrete
from numpy.typing import NDArray
from scipy.special import ndtr

from benchmark.datasets.collect import Part, collect
from benchmark.datasets.dataset import Dataset, OnProgress, ReferenceReturns
from benchmark.datasets.source import DatasetFamily, DatasetSource
from benchmark.environments.lookup import action_space
from benchmark.errors import did_you_mean
from benchmark.registry import UnknownName
from benchmark.scaling import action_bounds

SLOTS = 64  # always, since the last digits of a step in JAX depend on the size of the batch


@dataclass(frozen=True)
class RandomPolicy:
    """One policy of uniformly random actions (see `collect.ActingPolicies`)."""

    env_id: str
    reference: ReferenceReturns
    space: gymnasium.Space[object]

    @property
    def action_dim(self) -> int:
        return len(action_bounds(self.space)[0])

    def act(
        self,
        policies: NDArray[np.int64],
        observations: NDArray[np.float64],
        noise: NDArray[np.float32],
    ) -> NDArray[np.float32]:
        """Uniform actions `[B, act_dim]`: the normal noise through its distribution function.

        Of discrete ones each has the highest score equally often.
        """
        if isinstance(self.space, Discrete):
            return noise
        low, high = action_bounds(self.space)
        return np.asarray(low + (high - low) * ndtr(noise), dtype=np.float32)


@dataclass(frozen=True)
class RandomPlay(DatasetSource):
    """Episodes of uniformly random actions in one environment.

    Args:
        env_id: Id of the environment, and name of the dataset.
        description: One sentence.
        reference: Mean return of uniformly random actions in 100 episodes, and the return that the
            paper's sets reach.
    """

    env_id: str
    description: str
    reference: ReferenceReturns
    default_size: int = 10_000

    @property
    def environment_id(self) -> str | None:
        return self.env_id

    def build(
        self, name: str, size: int | None, seed: int, threads: int, progress: OnProgress | None
    ) -> Dataset:
        policy = RandomPolicy(self.env_id, self.reference, action_space(self.env_id))
        parts = [Part(0, size or self.default_size)]
        return collect(name, policy, parts, seed=seed, slots=SLOTS, progress=progress)


@dataclass(frozen=True)
class Simulator(DatasetFamily):
    """The environments of one simulator.

    Args:
        description: One sentence.
        returns: Reference returns by full name.
    """

    description: str
    returns: Mapping[str, tuple[float, float]]

    def names(self) -> list[str]:
        return list(self.returns)

    def source(self, name: str) -> DatasetSource:
        if name not in self.returns:
            raise UnknownName(f"No dataset is called {name!r}. {did_you_mean(name, self.returns)}")
        said = f"{name}: uniformly random actions; needs the extra jax"
        return RandomPlay(name, said, ReferenceReturns(*self.returns[name]))


# Mean return of random actions (100 episodes, measured here), and of the published sets of 64 pairs
# (Brax) and 16 pairs (MinAtar, 5,000 generations) for students of any initialisation: facts of
# arXiv 2406.15042.
BRAX = Simulator(
    "Random play in Brax, positional backend, 1,000 steps",
    {"brax/hopper": (108.7, 1_781.0)},
)
MINATAR = Simulator(
    "Random play in gymnax's MinAtar",
    {"minatar/asterix": (0.45, 4.7), "minatar/breakout": (0.43, 10.56)},
)

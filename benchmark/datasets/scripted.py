"""Datasets from controllers written by hand: a new environment needs no training run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np
from numpy.typing import NDArray

from benchmark.datasets.collect import Part, Progress, collect
from benchmark.datasets.dataset import Dataset, ReferenceReturns
from benchmark.datasets.source import DatasetSource
from benchmark.environments import action_space
from benchmark.scaling import action_bounds

Controller = Callable[[NDArray[np.float64]], NDArray[np.float64]]
"""Actions `[B, act_dim]` for observations `[B, obs_dim]`; for discrete actions scores `[B, n]`."""


@dataclass(frozen=True)
class NoisyController:
    """A controller at several levels of noise, as one policy each (see `collect.Policies`).

    Args:
        env_id: Exact gymnasium id.
        controller: What it does without noise.
        noise: Standard deviation of the Gaussian noise that each policy adds.
        reference: Returns of the random policy and of an expert.
        space: The environment's action space.
    """

    env_id: str
    controller: Controller
    noise: tuple[float, ...]
    reference: ReferenceReturns
    space: gymnasium.Space[Any]

    @property
    def action_dim(self) -> int:
        return len(action_bounds(self.space)[0])

    def act(
        self,
        policies: NDArray[np.int64],
        observations: NDArray[np.float64],
        noise: NDArray[np.float32],
    ) -> NDArray[np.float32]:
        """The controller's action and noise, within the bounds; scores are left as they are."""
        levels = np.asarray(self.noise, dtype=np.float32)[policies]
        actions = self.controller(observations).astype(np.float32) + levels[:, None] * noise
        if isinstance(self.space, gymnasium.spaces.Discrete):
            return actions
        return actions.clip(*action_bounds(self.space))


@dataclass(frozen=True)
class ScriptedMixture(DatasetSource):
    """Equal shares of one controller at several levels of noise.

    Args:
        env_id: Exact gymnasium id.
        description: One sentence.
        controller: What it does without noise.
        noise: Standard deviations, one a share.
        reference: Returns of the random policy and of an expert.
        default_size: Transitions.
    """

    env_id: str
    description: str
    controller: Controller
    noise: tuple[float, ...]
    reference: ReferenceReturns
    default_size: int = 50_000

    def build(
        self, name: str, size: int | None, seed: int, threads: int, progress: Progress | None
    ) -> Dataset:
        size = self.default_size if size is None else size
        policies = NoisyController(
            self.env_id, self.controller, self.noise, self.reference, action_space(self.env_id)
        )
        upto = [size * i // len(self.noise) for i in range(len(self.noise) + 1)]
        parts = [Part(i, upto[i + 1] - upto[i]) for i in range(len(self.noise))]
        slots = min(16, 1 + size // 500)
        return collect(
            name, policies, parts, seed=seed, slots=slots, threads=threads, progress=progress
        )

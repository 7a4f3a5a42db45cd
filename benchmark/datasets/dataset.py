"""Offline transitions in memory, and D4RL's normalisation of returns."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float32]


@dataclass(frozen=True)
class ReferenceReturns:
    """Mean undiscounted returns of the random policy and of the expert."""

    random: float
    expert: float

    def normalise(self, returns: float | NDArray[np.float64]) -> float | NDArray[np.float64]:
        """Normalized return: 0 is the random policy, 100 the expert (D4RL, arXiv 2004.07219)."""
        return 100.0 * (returns - self.random) / (self.expert - self.random)


@dataclass(frozen=True)
class Dataset:
    """M transitions of E episodes.

    Args:
        name: Registered name, e.g. `hopper/medium-replay`.
        env_id: The environment that policies are scored in, e.g. `Hopper-v5`.
        states: Every observation of every episode, the last one included `[M + E, obs_dim]`.
        actions: `[M, act_dim]`.
        rewards: `[M]`.
        terminations: `[M]` bool, true where the environment ended the episode.
        truncations: `[M]` bool, true where a time limit (or the end of the data) cut it.
        lengths: Transitions of each episode `[E]`.
        reference: Returns that normalisation stands on.
    """

    name: str
    env_id: str
    states: FloatArray = field(repr=False)
    actions: FloatArray = field(repr=False)
    rewards: FloatArray = field(repr=False)
    terminations: NDArray[np.bool_] = field(repr=False)
    truncations: NDArray[np.bool_] = field(repr=False)
    lengths: NDArray[np.int64] = field(repr=False)
    reference: ReferenceReturns

    def __len__(self) -> int:
        return len(self.actions)

    @property
    def observation_dim(self) -> int:
        return int(self.states.shape[1])

    @property
    def action_dim(self) -> int:
        return int(self.actions.shape[1])

    @cached_property
    def observations(self) -> FloatArray:
        """The observation that each action was taken in `[M, obs_dim]`."""
        return self.states[self._rows]

    @cached_property
    def next_observations(self) -> FloatArray:
        """The observation that each action led to `[M, obs_dim]`."""
        return self.states[self._rows + 1]

    @cached_property
    def timesteps(self) -> NDArray[np.int64]:
        """Position of each transition in its episode, from 0 `[M]`."""
        return np.arange(len(self)) - np.repeat(self._starts, self.lengths)

    @cached_property
    def episode_returns(self) -> NDArray[np.float64]:
        """Undiscounted return of each episode `[E]`."""
        return np.add.reduceat(self.rewards.astype(np.float64), self._starts)

    @cached_property
    def sha256(self) -> str:
        """Digest of all that scores depend on: environment, reference returns, every array."""
        digest = hashlib.sha256(f"{self.env_id} {self.reference}".encode())
        for name, array in self.arrays().items():
            digest.update(f"{name} {array.dtype.str} {array.shape}".encode())
            digest.update(np.ascontiguousarray(array).data)
        return digest.hexdigest()

    def arrays(self) -> dict[str, NDArray[np.generic]]:
        """The stored arrays by name."""
        return {
            "states": self.states,
            "actions": self.actions,
            "rewards": self.rewards,
            "terminations": self.terminations,
            "truncations": self.truncations,
            "lengths": self.lengths,
        }

    @property
    def _starts(self) -> NDArray[np.int64]:
        return np.cumsum(self.lengths) - self.lengths

    @property
    def _rows(self) -> NDArray[np.int64]:
        """Row in `states` of each transition: one extra row for every episode before it."""
        return np.arange(len(self)) + np.repeat(np.arange(len(self.lengths)), self.lengths)

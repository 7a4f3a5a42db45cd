"""What every batch of environments offers, and what its implementations share."""

from __future__ import annotations

import typing
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Discrete
from numpy.typing import NDArray

from benchmark.errors import ObdBenchError


class UnsupportedSpace(ObdBenchError):
    """The observation or action space is of a kind that the suite's policies cannot serve."""


@dataclass(frozen=True)
class StepResult:
    """The results of one step of `n` slots, in the order in which the slots were named.

    A slot is finished when `terminated` or `truncated` is true; both may be, exactly as
    gymnasium's `TimeLimit` says.
    """

    observations: NDArray[np.float64]  # [n, obs_dim]
    rewards: NDArray[np.float64]  # [n]
    terminated: NDArray[np.bool_]  # [n]
    truncated: NDArray[np.bool_]  # [n]


class BatchedEnvironment(typing.Protocol):
    """`size` independent copies (slots) of one gymnasium environment.

    A slot gives bit for bit what `gymnasium.make(env_id)` gives for the same reset seed and the
    same actions, whatever the other slots do. Slots are named by their index, each at most once
    per call. A slot has to be reset before its first step and after the end of its episode.
    """

    env_id: str
    size: int
    observation_dim: int
    observation_space: Box
    action_space: gymnasium.Space[Any]
    max_episode_steps: int | None

    def reset(
        self, slots: Sequence[int] | NDArray[np.integer], seeds: Sequence[int]
    ) -> NDArray[np.float64]:
        """Start a new episode in each of these slots, with one seed per slot.

        Returns:
            The first observations, `[len(slots), obs_dim]`.
        """
        ...

    def step(self, slots: NDArray[np.integer], actions: NDArray[Any]) -> StepResult:
        """Step these slots and leave the others as they are.

        Args:
            slots: Indices of the slots to step, `[n]`.
            actions: `[n, act_dim]` for a Box, `[n]` integers for a Discrete. They reach the
                environment as they are, dtype and out-of-range values included.
        """
        ...

    def close(self) -> None:
        """Release what the batch holds; it cannot be stepped afterwards."""
        ...


class SlotTracker:
    """A record of which of `size` slots are inside an episode; it refuses calls out of order."""

    def __init__(self, size: int) -> None:
        self._running = np.zeros(size, dtype=np.bool_)

    @property
    def running(self) -> int:
        """The number of slots that are inside an episode."""
        return int(self._running.sum())

    def start(
        self, slots: Sequence[int] | NDArray[np.integer], seeds: Sequence[int]
    ) -> NDArray[np.intp]:
        """Mark slots as running and return them as an array.

        Raises:
            ValueError: A slot is out of range or named twice, or there is not one seed per slot.
        """
        indices = self._distinct(slots)
        if len(seeds) != len(indices):
            raise ValueError(f"reset got {len(seeds)} seeds for {len(indices)} slots.")
        self._running[indices] = True
        return indices

    def require_running(self, slots: NDArray[np.integer]) -> NDArray[np.intp]:
        """Return the slots as an array, all of them inside an episode.

        Raises:
            ValueError: A slot is out of range, named twice, or not inside an episode.
        """
        indices = self._distinct(slots)
        idle = indices[~self._running[indices]]
        if idle.size:
            raise ValueError(f"Slots {idle.tolist()} are not in an episode: reset them first.")
        return indices

    def finish(self, slots: NDArray[np.intp], finished: NDArray[np.bool_]) -> None:
        """Record which of the slots that were just stepped have ended their episode."""
        self._running[slots] = ~finished

    def _distinct(self, slots: Sequence[int] | NDArray[np.integer]) -> NDArray[np.intp]:
        indices = np.asarray(slots, dtype=np.intp).reshape(-1)
        size = len(self._running)
        if indices.size and (indices.min() < 0 or indices.max() >= size):
            raise ValueError(f"Slots {indices.tolist()} are not all within 0 to {size - 1}.")
        if np.bincount(indices, minlength=size).max() > 1:
            raise ValueError(f"Slots {indices.tolist()} name a slot twice.")
        return indices


def check_actions(actions: NDArray[Any], expected: tuple[int, ...]) -> None:
    """Raise ValueError unless the actions have the expected shape."""
    if actions.shape != expected:
        raise ValueError(f"actions have shape {actions.shape}, expected {expected}.")


def one_hot(actions: NDArray[Any], space: Discrete) -> NDArray[np.float32]:
    """Discrete actions as a dataset holds them: rows `[..., n]`, 1 for the action taken, else 0.

    Args:
        actions: Actions as the environment takes them, `[...]` integers.
        space: Action space, which may start from another number than 0.
    """
    rows: NDArray[np.float32] = np.eye(int(space.n), dtype=np.float32)[actions - space.start]
    return rows


def highest(scores: NDArray[Any], space: Discrete) -> NDArray[np.int64]:
    """The action of the highest score `[...]`, the first of equals, from scores `[..., n]`."""
    return np.asarray(scores.argmax(-1) + space.start)

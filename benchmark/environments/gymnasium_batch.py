"""Any other gymnasium environment, one object per slot."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Discrete
from numpy.typing import NDArray

from benchmark.environments.batch import SlotTracker, StepResult, UnsupportedSpace, check_actions


class GymnasiumBatch:
    """Slots of any gymnasium environment, stepped one after another (see `BatchedEnvironment`).

    Not gymnasium's `SyncVectorEnv`: its `step` has no mask and would move all slots.

    Args:
        make: Makes one copy of the environment.
        size: Number of slots.

    Raises:
        UnsupportedSpace: Observations are not a Box, or actions neither a bounded 1-D Box nor
            Discrete.
    """

    action_space: gymnasium.Space[Any]

    def __init__(self, make: Callable[[], gymnasium.Env[Any, Any]], size: int) -> None:
        self._environments = [make() for _ in range(size)]
        first = self._environments[0]
        assert first.spec is not None, "gymnasium.make keeps the specification"
        self._slots = SlotTracker(size)
        self.env_id = first.spec.id
        self.size = size
        self.observation_space = _box(first.observation_space, self.env_id)
        self.observation_dim = int(np.prod(self.observation_space.shape))
        self.action_space = first.action_space
        self.max_episode_steps = first.spec.max_episode_steps
        self._action_shape = _action_shape(self.action_space, self.env_id)

    def reset(
        self, slots: Sequence[int] | NDArray[np.integer], seeds: Sequence[int]
    ) -> NDArray[np.float64]:
        """Start an episode in each slot as `env.reset(seed=seed)` does."""
        indices = self._slots.start(slots, seeds)
        observations = np.empty((len(indices), self.observation_dim))
        for row, (slot, seed) in enumerate(zip(indices.tolist(), seeds, strict=True)):
            observation, _ = self._environments[slot].reset(seed=int(seed))
            observations[row] = np.ravel(observation)
        return observations

    def step(self, slots: NDArray[np.integer], actions: NDArray[Any]) -> StepResult:
        """Step these slots' environments one after another; the others are not touched."""
        indices = self._slots.require_running(slots)
        check_actions(actions, (len(indices), *self._action_shape))
        result = StepResult(
            observations=np.empty((len(indices), self.observation_dim)),
            rewards=np.empty(len(indices)),
            terminated=np.empty(len(indices), dtype=np.bool_),
            truncated=np.empty(len(indices), dtype=np.bool_),
        )
        for row, (slot, action) in enumerate(zip(indices.tolist(), actions, strict=True)):
            observation, reward, terminated, truncated, _ = self._environments[slot].step(action)
            result.observations[row] = np.ravel(observation)
            result.rewards[row] = reward
            result.terminated[row] = terminated
            result.truncated[row] = truncated
        self._slots.finish(indices, result.terminated | result.truncated)
        return result

    def close(self) -> None:
        """Close every slot's environment."""
        for environment in self._environments:
            environment.close()


def _box(space: gymnasium.Space[Any], env_id: str) -> Box:
    if not isinstance(space, Box):
        raise UnsupportedSpace(
            f"{env_id} observes {space}, expected a Box. Register a variant of the environment "
            "with gymnasium.wrappers.FlattenObservation and use its id."
        )
    return space


def _action_shape(space: gymnasium.Space[Any], env_id: str) -> tuple[int, ...]:
    """Shape of one action: `(act_dim,)` or `()`."""
    if isinstance(space, Discrete):
        return ()
    if isinstance(space, Box) and len(space.shape) == 1 and space.is_bounded("both"):
        return space.shape
    raise UnsupportedSpace(
        f"{env_id} acts in {space}, expected a Discrete or a 1-D Box with finite bounds. Register "
        "a variant of the environment whose wrapper turns its actions into one of these."
    )

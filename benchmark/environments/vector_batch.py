"""Any other gymnasium environment, on gymnasium's own vector environment."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Discrete
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from numpy.typing import NDArray

from benchmark.environments.batch import SlotTracker, StepResult, UnsupportedSpace, check_actions


class VectorBatch:
    """Slots of a gymnasium `SyncVectorEnv` without automatic resets (see `BatchedEnvironment`).

    The vector environment makes the slots, checks that they agree and resets any of them by its
    `reset_mask`. Its `step` has no mask and would move all slots, so a step goes to the named
    slots' own environments, `SyncVectorEnv.envs`.

    Args:
        make: Makes one copy of the environment.
        size: Number of slots.

    Raises:
        UnsupportedSpace: Observations are not a Box, or actions neither a bounded 1-D Box nor
            Discrete.
    """

    action_space: gymnasium.Space[Any]

    def __init__(self, make: Callable[[], gymnasium.Env[Any, Any]], size: int) -> None:
        self._vector = SyncVectorEnv([make] * size, autoreset_mode=AutoresetMode.DISABLED)
        specification = self._vector.envs[0].spec
        assert specification is not None, "gymnasium.make keeps the specification"
        self._slots = SlotTracker(size)
        self.env_id = specification.id
        self.size = size
        self.observation_dim = _observation_dim(self._vector.single_observation_space, self.env_id)
        self.action_space = self._vector.single_action_space
        self.max_episode_steps = specification.max_episode_steps
        self._action_shape = _action_shape(self.action_space, self.env_id)
        # A masked reset stacks the observations of all slots, so each needs one beforehand.
        self._vector.reset(seed=0)

    def reset(
        self, slots: Sequence[int] | NDArray[np.integer], seeds: Sequence[int]
    ) -> NDArray[np.float64]:
        """Start an episode in each slot as `env.reset(seed=seed)` does."""
        indices = self._slots.start(slots, seeds)
        if not indices.size:  # gymnasium refuses an empty mask
            return np.empty((0, self.observation_dim))
        mask = np.zeros(self.size, dtype=np.bool_)
        mask[indices] = True
        # gymnasium wants a seed for every slot; those outside the mask are not reset.
        slot_seeds: list[int | None] = [None] * self.size
        for slot, seed in zip(indices.tolist(), seeds, strict=True):
            slot_seeds[slot] = int(seed)
        observations, _ = self._vector.reset(seed=slot_seeds, options={"reset_mask": mask})
        # `[size, *space.shape]` to the slots that were named, in their order, one row each.
        chosen = np.asarray(observations[indices], dtype=np.float64)
        return chosen.reshape(len(indices), self.observation_dim)

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
            observation, reward, terminated, truncated, _ = self._vector.envs[slot].step(action)
            result.observations[row] = np.ravel(observation)
            result.rewards[row] = reward
            result.terminated[row] = terminated
            result.truncated[row] = truncated
        self._slots.finish(indices, result.terminated | result.truncated)
        return result

    def close(self) -> None:
        """Close every slot's environment."""
        self._vector.close()


def _observation_dim(space: gymnasium.Space[Any], env_id: str) -> int:
    if not isinstance(space, Box):
        raise UnsupportedSpace(
            f"{env_id} observes {space}, expected a Box. Register a variant of the environment "
            "with gymnasium.wrappers.FlattenObservation and use its id."
        )
    return int(np.prod(space.shape))


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

"""Slots of an environment in JAX, all stepped by one compiled call."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import gymnasium
import jax
import numpy as np
from gymnasium.envs.registration import EnvSpec
from gymnasium.spaces import Discrete
from jax import numpy as jnp
from numpy.typing import NDArray

from benchmark.environments.batch import SlotTracker, StepResult, check_actions
from benchmark.environments.jax_tasks import SPECIFICATIONS, JaxTask, make_task


class JaxBatch:
    """Slots of an environment of Brax or MinAtar (see `BatchedEnvironment`).

    Each call computes the whole batch, whatever slots it names: what is compiled has one shape.
    Slots that are not named keep their state; those whose episode has ended need none. The same
    seeds and actions give the same numbers on one machine in a batch of the same size; in one of
    another size the last digits may differ.

    Args:
        specification: One of `jax_tasks.SPECIFICATIONS`, or a variant of it.
        task: The task that it names.
        size: Number of slots.
    """

    def __init__(self, specification: EnvSpec, task: JaxTask, size: int) -> None:
        self._task = task
        self._slots = SlotTracker(size)
        self._elapsed = np.zeros(size, dtype=np.int64)  # steps of the episode that each slot is in
        self._states: Any = None
        self._first: Any = None  # seeds, states and observations of the last reset of all slots

        self.env_id = specification.id
        self.size = size
        self.observation_space = task.observation_space
        self.observation_dim = int(self.observation_space.shape[0])
        self.action_space = task.action_space
        self.max_episode_steps = specification.max_episode_steps
        shape = self.action_space.shape or ()
        self._actions = np.zeros((size, *shape), np.int32 if not shape else np.float32)

    def reset(
        self, slots: Sequence[int] | NDArray[np.integer], seeds: Sequence[int]
    ) -> NDArray[np.float64]:
        """Start an episode in each slot from the key `jax.random.PRNGKey(seed)`.

        A slot that begins again from its first seed has its first state, which is kept.
        """
        indices = self._slots.start(slots, seeds)
        own = np.zeros(self.size, np.uint32)
        own[indices] = np.asarray(seeds, np.uint32)
        if self._first is not None and np.array_equal(own[indices], self._first[0][indices]):
            _, states, observations = self._first
        else:
            states, drawn = self._task.reset(own)
            observations = np.asarray(drawn, np.float64)
        if self._states is None or len(indices) == self.size:
            self._states, self._first = states, (own, states, observations)
        else:
            self._states = _merged(self._mask(indices), states, self._states)
        self._elapsed[indices] = 0
        return np.array(observations[indices])

    def step(self, slots: NDArray[np.integer], actions: NDArray[Any]) -> StepResult:
        """Step these slots by one compiled call.

        Raises:
            ValueError: The actions have another shape, or a discrete one is none of the space's.
        """
        indices = self._slots.require_running(slots)
        check_actions(actions, (len(indices), *self._actions.shape[1:]))
        space = self.action_space
        if isinstance(space, Discrete) and not ((actions >= 0) & (actions < space.n)).all():
            raise ValueError(
                f"Actions {np.unique(actions).tolist()} of {self.env_id} are not all within 0 to "
                f"{space.n - 1}."
            )
        self._actions[indices] = actions
        states, *results = self._task.step(self._states, self._actions)
        all_running = self._slots.running == len(indices)
        self._states = states if all_running else _merged(self._mask(indices), states, self._states)
        observations, rewards, terminated = (np.asarray(result)[indices] for result in results)
        self._elapsed[indices] += 1
        truncated = np.zeros(len(indices), dtype=np.bool_)
        if self.max_episode_steps is not None:
            truncated = self._elapsed[indices] >= self.max_episode_steps
        self._slots.finish(indices, terminated | truncated)
        return StepResult(
            observations.astype(np.float64), rewards.astype(np.float64), terminated, truncated
        )

    def close(self) -> None:
        """Release the states."""
        self._states = self._first = None

    def _mask(self, indices: NDArray[np.intp]) -> NDArray[np.bool_]:
        mask = np.zeros(self.size, dtype=np.bool_)
        mask[indices] = True
        return mask


def _choose(mask: Any, new: Any, old: Any) -> Any:
    """The new states where the mask `[size]` is set, the old ones elsewhere."""

    def choose(a: Any, b: Any) -> Any:
        return jnp.where(mask.reshape(-1, *[1] * (a.ndim - 1)), a, b)

    return jax.tree.map(choose, new, old)


_merged = jax.jit(_choose)


class JaxEnvironment(gymnasium.Env[Any, Any]):
    """A batch of one slot as gymnasium, and Minari, know environments."""

    def __init__(self, **arguments: Any) -> None:
        specification = replace(SPECIFICATIONS[arguments["task"]], max_episode_steps=None)
        self._batch = JaxBatch(specification, make_task(**arguments), 1)
        self.observation_space = self._batch.observation_space
        self.action_space = self._batch.action_space

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        super().reset(seed=seed)
        drawn = int(self.np_random.integers(2**31)) if seed is None else seed
        return self._batch.reset([0], [drawn])[0].astype(np.float32), {}

    def step(self, action: Any) -> tuple[NDArray[np.float32], float, bool, bool, dict[str, Any]]:
        result = self._batch.step(np.array([0]), np.asarray(action)[None])
        observation = result.observations[0].astype(np.float32)
        return observation, float(result.rewards[0]), bool(result.terminated[0]), False, {}

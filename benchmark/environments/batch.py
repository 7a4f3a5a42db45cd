"""The interface of a batch of environments, and the choice of what implements it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import gymnasium
import numpy as np
from numpy.typing import NDArray

from benchmark.errors import ObdBenchError


class UnknownEnvironment(ObdBenchError):
    """The environment id is not registered, or what it needs is not installed."""


class UnsupportedSpace(ObdBenchError):
    """The observation or action space is of a kind that the suite's policies cannot serve."""


@dataclass(frozen=True)
class StepResult:
    """What one step of `n` slots gave, in the order in which the slots were named.

    A slot is finished when `terminated` or `truncated` is true; both may be, exactly as
    gymnasium's `TimeLimit` says.
    """

    observations: NDArray[np.float64]  # [n, obs_dim]
    rewards: NDArray[np.float64]  # [n]
    terminated: NDArray[np.bool_]  # [n]
    truncated: NDArray[np.bool_]  # [n]


class BatchedEnvironment(Protocol):
    """`size` independent copies (slots) of one gymnasium environment.

    A slot gives bit for bit what `gymnasium.make(env_id)` gives for the same reset seed and the
    same actions, whatever the other slots do. Slots are named by their index, each at most once a
    call. A slot has to be reset before its first step and after the end of its episode.
    """

    env_id: str
    size: int
    observation_dim: int
    action_space: gymnasium.Space[Any]
    max_episode_steps: int | None

    def reset(
        self, slots: Sequence[int] | NDArray[np.integer], seeds: Sequence[int]
    ) -> NDArray[np.float64]:
        """Start a new episode in each of these slots, one seed a slot.

        Returns:
            The first observations, `[len(slots), obs_dim]`.
        """
        ...

    def step(self, slots: NDArray[np.integer], actions: NDArray[Any]) -> StepResult:
        """Step these slots and leave the others as they are.

        Args:
            slots: indices of the slots to step, `[n]`.
            actions: `[n, act_dim]` for a Box, `[n]` integers for a Discrete. They reach the
                environment as they are, dtype and out-of-range values included.
        """
        ...

    def close(self) -> None:
        """Release what the batch holds; it cannot be stepped afterwards."""
        ...


def action_space(env_id: str) -> gymnasium.Space[Any]:
    """The action space of an environment: a bounded Box or a Discrete; raises as `make_batched`."""
    environment = make_batched(env_id, 1)
    try:
        return environment.action_space
    finally:
        environment.close()


def make_batched(env_id: str, size: int, threads: int = 1) -> BatchedEnvironment:
    """A batch of `size` slots of a registered environment.

    HalfCheetah, Hopper and Walker2d (v4 and v5, default constructor arguments) are stepped in
    MuJoCo directly; any other environment through gymnasium.

    Args:
        env_id: exact gymnasium id, version included, or `module:id` to import `module` first.
        size: number of slots.
        threads: threads that step the MuJoCo slots. Other environments are stepped on the calling
            thread, because gymnasium promises no thread safety.

    Raises:
        UnknownEnvironment: the id is not registered, or its dependencies are not installed.
        UnsupportedSpace: observations are not a Box, or actions neither a bounded 1-D Box nor
            Discrete.
        ValueError: `size` or `threads` is below one.
    """
    # Imported here because these modules take the names above from this one.
    from benchmark.environments.lookup import find_specification
    from benchmark.environments.mujoco_batch import MujocoBatch
    from benchmark.environments.mujoco_tasks import has_task
    from benchmark.environments.vector_batch import VectorBatch

    for name, value in (("size", size), ("threads", threads)):
        if value < 1:
            raise ValueError(f"{name} is {value}, expected at least 1.")
    specification = find_specification(env_id)
    if has_task(specification):
        return MujocoBatch(specification, size, threads)
    return VectorBatch(specification, size)

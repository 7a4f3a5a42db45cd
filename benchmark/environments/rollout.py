"""Episodes of many policies at once: how a score is measured."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from gymnasium.spaces import Discrete
from numpy.typing import NDArray

from benchmark.environments.batch import BatchedEnvironment, check_actions, highest
from benchmark.environments.lookup import make_batched
from benchmark.errors import ObdBenchError

Policy = Callable[[NDArray[np.float32]], NDArray[Any]]


class NoTimeLimit(ObdBenchError):
    """The environment may never end an episode and no limit was given."""


@dataclass(frozen=True)
class Episodes:
    """Finished episodes of `P` policies, `E` each.

    `returns` are undiscounted sums of rewards; `lengths` count environment steps.
    """

    returns: NDArray[np.float64]  # [P, E]
    lengths: NDArray[np.int64]  # [P, E]

    @property
    def environment_steps(self) -> int:
        """Environment steps of all episodes together."""
        return int(self.lengths.sum())


def rollout(
    env_id: str,
    policy: Policy,
    *,
    policies: int,
    episodes: int,
    seeds: Sequence[int],
    threads: int = 1,
    max_steps: int | None = None,
    on_progress: Callable[[int], None] | None = None,
) -> Episodes:
    """Run `episodes` episodes of each of `policies` policies, all stepped as one batch.

    Args:
        env_id: exact gymnasium id.
        policy: takes float32 observations `[P, E, obs_dim]` and returns actions
            `[P, E, act_dim]` (float32); for a Discrete, scores `[P, E, n]`, of which the highest
            is taken, or integers `[P, E]`. It is always called for all slots: those of finished
            episodes keep their last observation, and the actions for them are ignored.
        policies: P.
        episodes: E.
        seeds: reset seed of each of the E episodes, the same for every policy, so that policies
            are compared on common random numbers.
        threads: threads that step MuJoCo environments; the results do not depend on it.
        max_steps: cut every episode after so many steps, if the environment has not ended it.
        on_progress: called after every step of the batch with the environment steps taken so far.

    Raises:
        NoTimeLimit: the environment has no time limit and `max_steps` is None.
        UnknownEnvironment, UnsupportedSpace: see `make_batched`.
        ValueError: there is not one seed an episode, or the policy's actions have another shape.
    """
    if len(seeds) != episodes:
        raise ValueError(f"rollout got {len(seeds)} seeds for {episodes} episodes.")
    environment = make_batched(env_id, policies * episodes, threads)
    try:
        limit = _step_limit(environment, max_steps)
        return _run(environment, policy, (policies, episodes), seeds, limit, on_progress)
    finally:
        environment.close()


def _run(
    environment: BatchedEnvironment,
    policy: Policy,
    shape: tuple[int, int],
    seeds: Sequence[int],
    limit: int,
    on_progress: Callable[[int], None] | None,
) -> Episodes:
    running = np.arange(environment.size)
    observations = environment.reset(running, list(seeds) * shape[0])
    returns = np.zeros(environment.size)
    lengths = np.zeros(environment.size, dtype=np.int64)
    action_shape = (*shape, *_action_dims(environment))
    for _ in range(limit):
        # A fresh array a step: a policy may keep what it was given.
        actions = _chosen(environment, policy(observations.astype(np.float32).reshape(*shape, -1)))
        check_actions(actions, action_shape)
        result = environment.step(running, actions.reshape(-1, *action_shape[2:])[running])
        observations[running] = result.observations
        returns[running] += result.rewards
        lengths[running] += 1
        running = running[~(result.terminated | result.truncated)]
        if on_progress is not None:
            on_progress(int(lengths.sum()))
        if not running.size:
            break
    return Episodes(returns.reshape(shape), lengths.reshape(shape))


def _step_limit(environment: BatchedEnvironment, max_steps: int | None) -> int:
    limits = [n for n in (environment.max_episode_steps, max_steps) if n is not None]
    if not limits:
        raise NoTimeLimit(
            f"{environment.env_id} has no time limit, so an episode might never end. Pass "
            "max_steps, or register the environment with max_episode_steps."
        )
    return min(limits)


def _chosen(environment: BatchedEnvironment, actions: NDArray[Any]) -> NDArray[Any]:
    """What the environment is stepped with: of scores for discrete actions, the highest."""
    space = environment.action_space
    if isinstance(space, Discrete) and actions.ndim == 3 and actions.shape[-1] == space.n:
        return highest(actions, space)
    return actions


def _action_dims(environment: BatchedEnvironment) -> tuple[int, ...]:
    space = environment.action_space
    return () if isinstance(space, Discrete) else (space.shape or ())

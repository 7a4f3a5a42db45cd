"""Episodes of many policies at once: how a score is measured."""

from __future__ import annotations

import contextlib
import typing
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from gymnasium.spaces import Discrete
from numpy.typing import NDArray

from benchmark.environments.batch import BatchedEnvironment, check_actions, highest
from benchmark.environments.lookup import (
    UnknownEnvironment,
    find_specification,
    make_batched,
    successor,
)
from benchmark.environments.physics import UNCHANGED, Physics
from benchmark.errors import ObdBenchError
from benchmark.threads import torch_threads


class NoTimeLimit(ObdBenchError):
    """The environment may never end an episode and no limit was given."""


def require_time_limit(env_id: str) -> None:
    """Check that episodes of an environment end, without which none is collected or scored.

    Raises:
        NoTimeLimit: They may never end.
        UnknownEnvironment: It is not registered, or gymnasium no longer runs it.
    """
    specification = find_specification(env_id)
    if later := successor(specification):
        raise UnknownEnvironment(f"{env_id} cannot be made. {later}")
    if specification.max_episode_steps is None:
        raise NoTimeLimit(
            f"{env_id} has no time limit, so that an episode might never end. Name it with one, "
            f"as in --environment '{env_id.partition('{')[0]}{{\"max_episode_steps\": 1000}}'."
        )


@dataclass(frozen=True)
class Episodes:
    """Finished episodes of `P` policies, `E` each.

    `returns` are undiscounted sums of rewards, NaN where an action was NaN: some environments play
    on, and no reward of theirs says so. `lengths` count environment steps.
    """

    returns: NDArray[np.float64]  # [P, E]
    lengths: NDArray[np.int64]  # [P, E]

    @property
    def environment_steps(self) -> int:
        """Environment steps of all episodes together."""
        return int(self.lengths.sum())


@typing.runtime_checkable
class Narrowing(typing.Protocol):
    """Policies that some of can be asked without the others."""

    def only(self, policies: NDArray[np.intp]) -> Callable[[NDArray[np.float32]], NDArray[Any]]:
        """The policies of these indices `[P']`; each acts to the bit as among all."""
        ...


# Share of the policies asked so far that is left when the others are no longer asked: narrowing
# copies parameters, so it is not done for every policy that finishes.
_WORTH_NARROWING = 0.75


def rollout(
    env_id: str,
    act: Callable[[NDArray[np.float32]], NDArray[Any]],
    *,
    policies: int,
    episodes: int,
    seeds: Sequence[int],
    threads: int = 1,
    max_steps: int | None = None,
    on_progress: Callable[[int], None] | None = None,
    physics: Physics = UNCHANGED,
) -> Episodes:
    """Run `episodes` episodes of each of `policies` policies, all stepped as one batch.

    Args:
        env_id: Exact gymnasium id.
        act: Takes float32 observations `[P, E, obs_dim]` and returns the policies' actions
            `[P, E, act_dim]` (float32); for a Discrete, scores `[P, E, n]`, of which the highest
            is taken, or integers `[P, E]`. It is called for all slots: those of finished episodes
            keep their last observation, and the actions for them are ignored. Where it can be
            narrowed (`Narrowing`), policies that have finished all their episodes are left out.
        policies: P.
        episodes: E.
        seeds: Reset seed of each of the E episodes, the same for every policy, so that policies
            are compared on common random numbers.
        threads: Threads that step MuJoCo environments; the results do not depend on it. `act` is
            called with torch on one thread: torch's others would wait in a loop for the next call,
            on the cores that the environments are stepped on.
        max_steps: Cut every episode after so many steps, if the environment has not ended it.
        on_progress: Called after every step of the batch with the environment steps taken so far.
        physics: Changed physics of the environment (see `make_batched`).

    Raises:
        NoTimeLimit: The environment has no time limit and `max_steps` is None.
        UnknownEnvironment, UnsupportedSpace: See `make_batched`.
        ValueError: There is not one seed per episode, or the actions have another shape.
    """
    if len(seeds) != episodes:
        raise ValueError(f"rollout got {len(seeds)} seeds for {episodes} episodes.")
    batch = make_batched(env_id, policies * episodes, threads, physics)
    with contextlib.closing(batch) as environment, torch_threads(1):
        limit = _step_limit(environment, max_steps)
        shape, space = (policies, episodes), environment.action_space
        action_dims = () if isinstance(space, Discrete) else (space.shape or ())
        # Slot p * E + e is episode e of policy p, so that a reshape to `shape` sorts them.
        running = np.arange(environment.size)
        observations = np.empty((*shape, environment.observation_dim), np.float32)
        seen = observations.reshape(environment.size, -1)  # the same memory, by slot
        seen[:] = environment.reset(running, list(seeds) * policies)
        returns = np.zeros(environment.size)
        lengths = np.full(environment.size, limit)
        undefined = np.zeros(environment.size, bool)
        # The policies that are asked, and the row of each running slot among their actions.
        asked, play, rows, taken = np.arange(policies), act, running, 0
        for step in range(1, limit + 1):
            # A fresh array per step: a policy may keep what it was given.
            actions = play(observations[asked])
            nan = np.isnan(actions)
            if isinstance(space, Discrete) and actions.shape == (len(asked), episodes, space.n):
                actions = highest(actions, space)
            check_actions(actions, (len(asked), episodes, *action_dims))
            undefined[running] |= nan.reshape(len(asked) * episodes, -1).any(1)[rows]
            result = environment.step(running, actions.reshape(-1, *action_dims)[rows])
            seen[running] = result.observations
            returns[running] += result.rewards
            taken += running.size
            if on_progress is not None:
                on_progress(taken)
            ended = result.terminated | result.truncated
            if not ended.any():
                continue
            lengths[running[ended]] = step
            running, rows = running[~ended], rows[~ended]
            if not running.size:
                break
            left = np.unique(running // episodes)
            if isinstance(act, Narrowing) and len(left) <= _WORTH_NARROWING * len(asked):
                asked, play = left, act.only(left)
                rows = np.searchsorted(left, running // episodes) * episodes + running % episodes
    returns[undefined] = np.nan
    return Episodes(returns.reshape(shape), lengths.reshape(shape))


def _step_limit(environment: BatchedEnvironment, max_steps: int | None) -> int:
    limits = [n for n in (environment.max_episode_steps, max_steps) if n is not None]
    if not limits:
        raise NoTimeLimit(
            f"{environment.env_id} has no time limit, so an episode might never end. Pass "
            "max_steps, or register the environment with max_episode_steps."
        )
    return min(limits)

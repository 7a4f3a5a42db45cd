"""Replaying a dataset: each stored action, from its stored state, in gymnasium's own environment.

It answers whether the environment that policies are scored in is the one that the data come from.
One step is made from each state, so that errors do not grow along an episode, and the reward and
the next observation are compared with the stored ones.

The state must follow from the observation. In HalfCheetah, Hopper and Walker2d it does, up to the
position along the track, on which nothing depends; but Hopper and Walker2d observe velocities
clipped to 10, and a state with one at the clip is not known: it is skipped, and counted. What
MuJoCo's solver starts from is not observed either; it does not matter beyond rounding. In CartPole
the observation is the state.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Discrete
from numpy.typing import NDArray

from benchmark.datasets.dataset import Dataset, DatasetProblem, OnProgress
from benchmark.datasets.hdf5 import NEXT_ROW
from benchmark.environments.batch import highest
from benchmark.environments.contacts import contact_rule, scale_margins
from benchmark.environments.lookup import find_specification, make_environment
from benchmark.environments.mujoco_tasks import VELOCITY_LIMIT, clips_velocities, has_task

TOLERANCE = 1e-3
"""Largest error that passes: absolute, and relative to the stored value where that is above 1.

States are stored as float32, whose rounding (6e-8) a step multiplies, by up to a thousand in what
was seen."""

_CARTPOLE = "gymnasium.envs.classic_control.cartpole:CartPoleEnv"
_Restore = Callable[[NDArray[np.float64]], None]


@dataclass(frozen=True)
class Replay:
    """The result of a replay.

    Attributes:
        returns: Stored return of each chosen episode `[E]`.
        skipped: Transitions whose state does not follow from the observation.
        rows: Rows of the dataset that were replayed `[R]`.
        reward_errors: Error of each one's reward, in the measure of `TOLERANCE` `[R]`; NaN where
            it is not compared, since it has the cost of an action that was clipped later.
        state_errors: Largest error of each one's next observation, likewise `[R]`; NaN where it is
            not compared, since the data have the next episode's first observation there.
        ends_differ: How many ended where the data go on, or the reverse.
        by_other_contacts: How many of those outside the tolerance are within it by the other rule
            for the margin of a contact (`benchmark.environments.contacts`).
    """

    returns: NDArray[np.float64]
    skipped: int
    rows: NDArray[np.int64]
    reward_errors: NDArray[np.float64]
    state_errors: NDArray[np.float64]
    ends_differ: int
    by_other_contacts: int

    @property
    def outside(self) -> NDArray[np.bool_]:
        """Replayed transitions that did not come back within the tolerance `[R]`."""
        return np.fmax(self.reward_errors, self.state_errors) > TOLERANCE

    def check(self, dataset: Dataset) -> None:
        """Raise DatasetProblem where a transition did not come back."""
        outside, total = int(self.outside.sum()), len(self.rows)
        if not (outside or self.ends_differ):
            return
        contacts = ""
        if self.by_other_contacts:
            rule, what = (
                ("sum, as since MuJoCo 3.5,", "register the environment under an id of your own")
                if contact_rule(dataset.env_id)
                else ("larger, as before MuJoCo 3.5,", "install 'mujoco<3.5'")
            )
            contacts = (
                f" {self.by_other_contacts:,} of the {outside:,} come back where a contact has the "
                f"{rule} of its two geoms' margins: to score in the physics of the data, {what}."
            )
        raise DatasetProblem(
            f"{outside:,} of {total:,} transitions of {dataset.name} do not come back within "
            f"{TOLERANCE:g} in {dataset.env_id}, and {self.ends_differ:,} end otherwise: the data "
            f"are of another version of the environment or of MuJoCo, or were changed (normalised, "
            f"rescaled, given noise). Name the environment that they were collected in.{contacts}"
        )


def replay(
    dataset: Dataset, *, episodes: int | None = None, progress: OnProgress | None = None
) -> Replay:
    """Replay a dataset's actions.

    Args:
        dataset: Data of HalfCheetah, Hopper, Walker2d (v4, v5) or CartPole.
        episodes: How many episodes, evenly spread over the data; None for all.
        progress: Called with (transitions so far, transitions in all).

    Raises:
        DatasetProblem: The environment's state does not follow from its observations, or none of
            the observations gives it.
    """
    known, total = _known(dataset), len(dataset.lengths)
    if episodes is not None and not 1 <= episodes <= total:
        raise DatasetProblem(
            f"{dataset.name} has {total:,} episodes; {episodes} were asked for. Give 1 to {total}."
        )
    chosen = np.linspace(0, total - 1, episodes or total).astype(int)
    within = np.isin(np.repeat(np.arange(total), dataset.lengths), chosen)
    rows = np.flatnonzero(within & known)
    if not len(rows):
        raise DatasetProblem(
            f"None of the {int(within.sum()):,} observations of {dataset.name} that were chosen "
            f"gives the state: each has a velocity at the clip of {VELOCITY_LIMIT:g}. Replay more "
            f"episodes."
        )
    environment = make_environment(find_specification(dataset.env_id))
    try:
        environment.reset(seed=0)
        rewards, states, ends = _replay_rows(dataset, environment, rows, progress)
        result = Replay(
            returns=dataset.episode_returns[chosen],
            skipped=int(within.sum()) - len(rows),
            rows=rows,
            reward_errors=rewards,
            state_errors=states,
            ends_differ=ends,
            by_other_contacts=0,
        )
        return _try_other_contacts(result, dataset, environment)
    finally:
        environment.close()


def _known(dataset: Dataset) -> NDArray[np.bool_]:
    """Which observations `[M]` give the state."""
    specification = find_specification(dataset.env_id)
    if specification.entry_point == _CARTPOLE:
        return np.ones(len(dataset), dtype=bool)
    if not has_task(specification):
        raise DatasetProblem(
            f"{dataset.name} cannot be replayed: the state of {dataset.env_id} does not follow "
            f"from its observations, or it is not known how. HalfCheetah, Hopper, Walker2d (v4 and "
            f"v5, without further arguments) and CartPole can."
        )
    if not clips_velocities(specification):
        return np.ones(len(dataset), dtype=bool)
    # The observation is nq - 1 positions and nv velocities, and nq = nv in all three.
    velocities = dataset.observations[:, dataset.observation_dim // 2 :]
    return np.asarray((np.abs(velocities) < VELOCITY_LIMIT).all(1))


def _restorer(environment: gymnasium.Env[Any, Any]) -> _Restore:
    """The function that puts an environment into the state of an observation."""
    inner: Any = environment.unwrapped
    if environment.spec is not None and environment.spec.entry_point == _CARTPOLE:

        def restore_cartpole(observation: NDArray[np.float64]) -> None:
            inner.state, inner.steps_beyond_terminated = observation, None

        return restore_cartpole
    from mujoco import mj_resetData  # here: MuJoCo is slow to import

    def restore_mujoco(observation: NDArray[np.float64]) -> None:
        mj_resetData(inner.model, inner.data)  # also what the solver starts from
        positions = inner.model.nq - 1
        inner.set_state(np.r_[0.0, observation[:positions]], observation[positions:])

    return restore_mujoco


def _may_be_clipped(dataset: Dataset, environment: gymnasium.Env[Any, Any]) -> NDArray[np.bool_]:
    """Transitions `[M]` with an action at a bound, of data that were clipped at their import."""
    space = environment.action_space
    if not dataset.provenance.get("actions_clipped") or not isinstance(space, Box):
        return np.zeros(len(dataset), dtype=bool)
    return np.asarray(((dataset.actions == space.low) | (dataset.actions == space.high)).any(1))


def _has_another_episodes_state(dataset: Dataset) -> NDArray[np.bool_]:
    """Transitions `[M]` whose next observation is the next episode's first, as D4RL's view has it.

    They are the terminals of a file without next observations.
    """
    if dataset.provenance.get("after_terminals") != NEXT_ROW:
        return np.zeros(len(dataset), dtype=bool)
    return dataset.terminations


def _replay_rows(
    dataset: Dataset,
    environment: gymnasium.Env[Any, Any],
    rows: NDArray[np.int64],
    progress: OnProgress | None = None,
) -> tuple[NDArray[np.float64], NDArray[np.float64], int]:
    """Errors of the rewards `[R]` and of the next observations `[R]`, and ends that differ."""
    actions: NDArray[Any] = dataset.actions[rows]
    if isinstance(space := environment.action_space, Discrete):
        actions = highest(actions, space)
    restore, rewards, differ = _restorer(environment), np.empty(len(rows)), 0
    following = np.empty((len(rows), dataset.observation_dim))
    for at, row in enumerate(rows.tolist()):
        restore(dataset.observations[row].astype(np.float64))
        # Unwrapped: neither a time limit nor a check of the order of calls is wanted.
        following[at], rewards[at], terminated, *_ = environment.unwrapped.step(actions[at])
        differ += bool(terminated) != bool(dataset.terminations[row])
        if progress and (at % 1000 == 0 or at + 1 == len(rows)):
            progress(at + 1, len(rows))
    states = _errors(following, dataset.next_observations[rows]).max(1)
    states[_has_another_episodes_state(dataset)[rows]] = np.nan
    reward_errors = _errors(rewards, dataset.rewards[rows])
    reward_errors[_may_be_clipped(dataset, environment)[rows]] = np.nan
    return reward_errors, states, differ


def _errors(found: NDArray[np.float64], stored: NDArray[np.float32]) -> NDArray[np.float64]:
    """Absolute errors, relative where a stored value is above 1, once found values are float32."""
    values = stored.astype(np.float64)
    error = np.abs(found.astype(np.float32).astype(np.float64) - values)
    return np.asarray(error / np.maximum(1.0, np.abs(values)))


def _try_other_contacts(
    result: Replay, dataset: Dataset, environment: gymnasium.Env[Any, Any]
) -> Replay:
    """Count the errors that only stem from MuJoCo 3.5 and later adding the margins of two geoms."""
    rows = result.rows[result.outside]
    factor = 2.0 if contact_rule(dataset.env_id) else 0.5
    if not len(rows) or not scale_margins(environment, factor):
        return result
    rewards, states, _ = _replay_rows(dataset, environment, rows)
    within = int((np.fmax(rewards, states) <= TOLERANCE).sum())
    return dataclasses.replace(result, by_other_contacts=within)

"""Observation, reward and termination of HalfCheetah, Hopper and Walker2d for many states at once.

The arithmetic follows gymnasium's own environments operation by operation, so that the results
are the same to the last bit; every constant is read from a gymnasium environment.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from gymnasium.envs.registration import EnvSpec
from numpy.typing import NDArray

# The last steps of the observation functions of Hopper and Walker2d: np.clip(qvel, -10, 10).
VELOCITY_LIMIT = 10.0


@dataclass(frozen=True)
class _TaskRules:
    """How one version of one environment differs from the others."""

    checks_health: bool
    checks_every_state: bool = False  # Hopper also bounds every position and velocity
    pays_when_terminating: bool = False  # v4 pays the healthy reward at the fatal step too


_CHEETAH = _TaskRules(checks_health=False)
_HOPPER = _TaskRules(checks_health=True, checks_every_state=True)
_WALKER = _TaskRules(checks_health=True)
_RULES = {
    "gymnasium.envs.mujoco.half_cheetah_v4:HalfCheetahEnv": _CHEETAH,
    "gymnasium.envs.mujoco.half_cheetah_v5:HalfCheetahEnv": _CHEETAH,
    "gymnasium.envs.mujoco.hopper_v4:HopperEnv": replace(_HOPPER, pays_when_terminating=True),
    "gymnasium.envs.mujoco.hopper_v5:HopperEnv": _HOPPER,
    "gymnasium.envs.mujoco.walker2d_v4:Walker2dEnv": replace(_WALKER, pays_when_terminating=True),
    "gymnasium.envs.mujoco.walker2d_v5:Walker2dEnv": _WALKER,
}


def has_task(specification: EnvSpec) -> bool:
    """Whether a specification is one of the six above, without arguments or further wrappers."""
    return (
        specification.entry_point in _RULES
        and not specification.kwargs
        and not specification.additional_wrappers
    )


def clips_velocities(specification: EnvSpec) -> bool:
    """Whether observations of one of the six hide velocities beyond `VELOCITY_LIMIT`."""
    return _RULES[str(specification.entry_point)].checks_health


class LocomotionTask:
    """The task of one environment, over states `[n, nq + nv]` (positions, then velocities).

    Args:
        specification: A specification that `has_task` accepts.
        environment: The unwrapped gymnasium environment that the constants are read from.
    """

    def __init__(self, specification: EnvSpec, environment: Any) -> None:
        self._rules = _RULES[str(specification.entry_point)]
        self._positions: int = environment.model.nq
        self._seconds_per_step: float = environment.dt
        self._forward_weight: float = environment._forward_reward_weight
        self._control_weight: float = environment._ctrl_cost_weight
        if self._rules.checks_health:
            self._healthy_reward: float = environment._healthy_reward
            self._lower, self._upper = _healthy_bounds(environment, self._rules)

    def observations(self, states: NDArray[np.float64]) -> NDArray[np.float64]:
        """Observations `[n, nq + nv - 1]`: the state without the position along the track.

        Hopper and Walker2d, which can fall, clip the velocities; HalfCheetah does not.
        """
        observations = states[:, 1:].copy()
        if self._rules.checks_health:
            velocities = observations[:, self._positions - 1 :]
            np.clip(velocities, -VELOCITY_LIMIT, VELOCITY_LIMIT, out=velocities)
        return observations

    def healthy(self, states: NDArray[np.float64]) -> NDArray[np.bool_]:
        """Whether the episode may go on from each state, `[n]`; HalfCheetah's always may."""
        if not self._rules.checks_health:
            return np.ones(len(states), dtype=np.bool_)
        checked = states[:, 1 : 1 + len(self._lower)]
        inside = (self._lower < checked) & (checked < self._upper)
        return np.asarray(inside.all(axis=1))

    def rewards(
        self,
        x_before: NDArray[np.float64],
        x_after: NDArray[np.float64],
        actions: NDArray[Any],
        healthy: NDArray[np.bool_],
    ) -> NDArray[np.float64]:
        """Rewards `[n]` of one step: speed along the track, plus health, minus control cost.

        r = w_forward (x_after - x_before) / dt + r_healthy - w_control sum_i a_i^2, added in
        gymnasium's order, since another would round otherwise.

        Args:
            x_before: Position along the track before the step `[n]`.
            x_after: Position after it `[n]`.
            actions: `[n, act_dim]`.
            healthy: Whether the state after the step is healthy `[n]`.
        """
        rewards = self._forward_weight * ((x_after - x_before) / self._seconds_per_step)
        if self._rules.checks_health:
            paid = healthy | self._rules.pays_when_terminating
            rewards = rewards + paid * self._healthy_reward
        # In the dtype of the actions, as gymnasium computes it: float32 actions cost in float32.
        control_costs = self._control_weight * np.sum(np.square(actions), axis=1)
        return np.asarray(rewards - control_costs, dtype=np.float64)


def _healthy_bounds(
    environment: Any, rules: _TaskRules
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Lower and upper bounds of the state's columns from 1 on, both excluded.

    Columns 1 and 2 are the height and the angle of the torso; only Hopper bounds those after them.
    """
    bounds = np.array([environment._healthy_z_range, environment._healthy_angle_range], float)
    if rules.checks_every_state:
        # The range holds from column 2, the angle, on: the angle has to be within both.
        low, high = environment._healthy_state_range
        unchecked = environment.model.nq + environment.model.nv - 3
        bounds[1] = max(low, bounds[1, 0]), min(high, bounds[1, 1])
        bounds = np.vstack([bounds, np.tile([low, high], (unchecked, 1))])
    return bounds[:, 0], bounds[:, 1]

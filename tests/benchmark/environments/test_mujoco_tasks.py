"""States that no short episode reaches are judged as gymnasium judges them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest

from benchmark.environments.mujoco_tasks import LocomotionTask, has_task

ENVIRONMENTS = ["HalfCheetah-v4", "HalfCheetah-v5"]
MORTAL = ["Hopper-v4", "Hopper-v5", "Walker2d-v4", "Walker2d-v5"]


@pytest.fixture(autouse=True)
def _no_log_file_in_the_repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # MuJoCo 4 answers HalfCheetah's model with a line in MUJOCO_LOG.TXT of the working directory.
    monkeypatch.chdir(tmp_path)


def wild_states(environment: Any) -> np.ndarray[Any, Any]:
    """Healthy states in which one coordinate at a time is pushed to and past the bounds."""
    healthy = np.concatenate([environment.init_qpos, environment.init_qvel])
    states = [healthy]
    for column in range(1, len(healthy)):
        for value in (-150.0, -100.0, -1.0, -0.2, -0.1, 0.7, 0.8, 1.5, 2.0, 50.0, 100.0, 150.0):
            states.append(healthy.copy())
            states[-1][column] = value
    return np.array(states)


@pytest.mark.parametrize("env_id", ENVIRONMENTS + MORTAL)
def test_observation_and_health_of_wild_states(env_id: str) -> None:
    specification = gymnasium.registry[env_id]
    environment: Any = gymnasium.make(specification).unwrapped
    task = LocomotionTask(specification, environment)
    states = wild_states(environment)
    positions = environment.model.nq
    observations, healthy = [], []
    for state in states:
        environment.set_state(state[:positions], state[positions:])
        observations.append(environment._get_obs())
        healthy.append(bool(getattr(environment, "is_healthy", True)))
    environment.close()
    given = states.copy()
    assert np.array_equal(task.observations(states), observations)
    assert np.array_equal(task.healthy(states), healthy)
    assert np.array_equal(states, given), "the states belong to the caller"
    assert all(healthy) == (env_id not in MORTAL)


def test_only_the_six_environments_have_a_task() -> None:
    known = {env_id for env_id, spec in gymnasium.registry.items() if has_task(spec)}
    assert known == {*ENVIRONMENTS, *MORTAL}

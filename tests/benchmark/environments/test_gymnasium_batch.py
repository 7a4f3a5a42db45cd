"""Any other environment steps as gymnasium steps it, slot by slot."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

from benchmark.environments.batch import UnsupportedSpace
from benchmark.environments.lookup import make_batched

SEEDS = [2, 71, 828]


class Toy(gymnasium.Env[Any, Any]):
    """Counts its steps; its spaces are what a test asks for."""

    def __init__(self, observation_space: spaces.Space[Any], action_space: spaces.Space[Any]):
        self.observation_space = observation_space
        self.action_space = action_space
        self.steps = 0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.steps = 0
        return self._observe(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.steps += 1
        return self._observe(), float(np.sum(action)), self.steps == 3, False, {}

    def _observe(self) -> Any:
        shape = self.observation_space.shape or ()
        return np.full(shape, self.steps, dtype=self.observation_space.dtype)


@pytest.fixture
def register_toy() -> Iterator[Any]:
    """Registers a Toy for the time of a test."""

    def register(observation_space: spaces.Space[Any], action_space: spaces.Space[Any]) -> str:
        gymnasium.register(
            "ObdBenchToy-v0",
            entry_point=lambda **_: Toy(observation_space, action_space),
            max_episode_steps=10,
        )
        return "ObdBenchToy-v0"

    yield register
    gymnasium.registry.pop("ObdBenchToy-v0", None)


def sampled_actions(environment: gymnasium.Env[Any, Any], steps: int) -> np.ndarray[Any, Any]:
    """Actions `[slots, steps, ...]` from the environment's own action space."""
    environment.action_space.seed(5)
    draws = [[environment.action_space.sample() for _ in range(steps)] for _ in SEEDS]
    return np.array(draws)


# A time limit is an argument of `gymnasium.make` like any other, and part of a variant's id here.
ENVIRONMENTS: list[tuple[str, dict[str, Any]]] = [
    ("CartPole-v1", {}),
    ("Pendulum-v1", {}),
    ("Acrobot-v1", {"max_episode_steps": 30}),
    ("MountainCarContinuous-v0", {"max_episode_steps": 30}),
    ("Ant-v5", {"max_episode_steps": 30, "include_cfrc_ext_in_observation": False}),
    ("Hopper-v5", {"max_episode_steps": 9}),  # by MuJoCo directly
    ("Hopper-v5", {"healthy_z_range": (0.9, np.inf), "reset_noise_scale": 0.1}),
    ("Humanoid-v5", {"max_episode_steps": 30}),
    ("InvertedPendulum-v5", {}),
    ("Pusher-v5", {"max_episode_steps": 30}),
    ("Reacher-v5", {}),
    ("Swimmer-v5", {"max_episode_steps": 30}),
]


@pytest.mark.parametrize(("env_id", "arguments"), ENVIRONMENTS, ids=str)
def test_slots_at_different_paces_equal_gymnasium(env_id: str, arguments: dict[str, Any]) -> None:
    """Each step takes another subset of the slots; a finished slot starts again at once."""
    references = [gymnasium.make(env_id, **arguments) for _ in SEEDS]
    actions = sampled_actions(references[0], 300)
    batch = make_batched(env_id + json.dumps(arguments), len(SEEDS))
    expected = [env.reset(seed=seed)[0] for env, seed in zip(references, SEEDS, strict=True)]
    assert np.array_equal(batch.reset(np.arange(3), SEEDS), np.array(expected, np.float64))
    choice = np.random.default_rng(0)
    ends = 0
    for step in range(300):
        slots = choice.permutation(3)[: choice.integers(1, 4)]
        result = batch.step(slots, actions[slots, step])
        for row, slot in enumerate(slots):
            values = references[slot].step(actions[slot, step])
            assert np.array_equal(result.observations[row], values[0].astype(np.float64))
            assert result.rewards[row] == float(values[1])
            assert (result.terminated[row], result.truncated[row]) == values[2:4]
            if values[2] or values[3]:
                ends += 1
                again, _ = references[slot].reset(seed=1000 + step)
                assert np.array_equal(batch.reset([slot], [1000 + step])[0], again)
    batch.close()
    assert ends > 0


def test_the_time_limit_truncates() -> None:
    batch = make_batched("Pendulum-v1", 1)
    assert batch.max_episode_steps == 200
    batch.reset([0], [0])
    for _ in range(199):
        assert not batch.step(np.array([0]), np.zeros((1, 1), np.float32)).truncated[0]
    assert batch.step(np.array([0]), np.zeros((1, 1), np.float32)).truncated[0]
    with pytest.raises(ValueError, match="not in an episode"):
        batch.step(np.array([0]), np.zeros((1, 1), np.float32))
    batch.close()


def test_observations_of_any_box_become_flat_float64(register_toy: Any) -> None:
    env_id = register_toy(spaces.Box(0, 255, (2, 3), np.uint8), spaces.Discrete(2))
    batch = make_batched(env_id, 2)
    assert batch.observation_dim == 6
    observations = batch.reset([0, 1], [0, 1])
    assert observations.shape == (2, 6) and observations.dtype == np.float64
    result = batch.step(np.array([1]), np.array([1]))
    assert result.observations.shape == (1, 6) and result.observations.dtype == np.float64
    assert result.rewards.dtype == np.float64
    batch.close()


def test_no_slots_is_a_step_of_nothing() -> None:
    batch = make_batched("CartPole-v1", 2)
    assert batch.reset([], []).shape == (0, 4)
    assert batch.step(np.arange(0), np.arange(0)).observations.shape == (0, 4)
    batch.close()


BOX = spaces.Box(-1, 1, (2,), np.float32)


@pytest.mark.parametrize(
    ("observation_space", "action_space", "words"),
    [
        (spaces.Discrete(3), BOX, "observes Discrete"),
        (spaces.Dict({"a": BOX}), BOX, "observes Dict"),
        (BOX, spaces.Box(-1, 1, (2, 2), np.float32), "acts in Box"),
        (BOX, spaces.Box(-np.inf, 1, (2,), np.float32), "finite bounds"),
        (BOX, spaces.MultiDiscrete([2, 2]), "acts in MultiDiscrete"),
    ],
)
def test_other_spaces_are_refused(
    register_toy: Any,
    observation_space: spaces.Space[Any],
    action_space: spaces.Space[Any],
    words: str,
) -> None:
    env_id = register_toy(observation_space, action_space)
    with pytest.raises(UnsupportedSpace, match=words) as caught:
        make_batched(env_id, 1)
    assert env_id in str(caught.value)

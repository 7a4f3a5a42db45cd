"""Brax and MinAtar step in a batch as their own packages step one environment."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from gymnasium.spaces import Box

from benchmark.environments.batch import BatchedEnvironment
from benchmark.environments.jax_tasks import BRAX
from benchmark.environments.lookup import (
    UnknownEnvironment,
    action_space,
    find_specification,
    make_batched,
    make_environment,
    variant_id,
)

pytestmark = pytest.mark.jax
PENDULUM = "brax/inverted_double_pendulum"  # the fastest of Brax's to compile
SIZE = 4  # of every batch here, so that each environment is compiled once
SLOTS = np.arange(SIZE)


@contextlib.contextmanager
def batch_of(env_id: str) -> Iterator[BatchedEnvironment]:
    with contextlib.closing(make_batched(env_id, SIZE)) as batch:
        yield batch


def forces(steps: int) -> np.ndarray[Any, Any]:
    """Actions `[steps, SIZE, 1]`, some beyond the bounds."""
    generator = np.random.default_rng(0)
    return generator.uniform(-1.5, 1.5, (steps, SIZE, 1)).astype(np.float32)


def test_brax_steps_as_its_own_environment() -> None:
    """One environment, not vmapped, its actions clipped here."""
    make_batched(PENDULUM, SIZE).close()  # imports Brax, whose warnings it knows
    import jax
    from brax.envs import get_environment

    with pytest.warns(UserWarning, match="Brax System"):
        environment = get_environment("inverted_double_pendulum", backend="positional")
    reset, step = jax.jit(environment.reset), jax.jit(environment.step)
    state = reset(jax.random.PRNGKey(11))
    with batch_of(PENDULUM) as batch:
        first = batch.reset(SLOTS, [5, 11, 5, 12])
        np.testing.assert_allclose(first[1], state.obs, atol=1e-6)
        for actions in forces(12):
            state = step(state, actions[1].clip(-1, 1))
            result = batch.step(SLOTS, actions)
            np.testing.assert_allclose(result.observations[1], state.obs, atol=1e-3)
            np.testing.assert_allclose(result.rewards[1], state.reward, rtol=1e-4)
            assert result.terminated[1] == bool(state.done)


def test_slots_are_independent_and_an_episode_follows_from_its_seed() -> None:
    actions = forces(3)
    with batch_of(PENDULUM) as batch:
        batch.reset(SLOTS, [1, 2, 3, 4])
        together = [batch.step(SLOTS, a) for a in actions]
        batch.reset([3, 1], [4, 2])  # the others go on
        batch.step(np.array([0, 2]), actions[0, [0, 2]])  # these wait
        again = [batch.step(np.array([1, 3]), a[[1, 3]]) for a in actions]
    for once, twice in zip(together, again, strict=True):
        np.testing.assert_array_equal(once.observations[[1, 3]], twice.observations)
        np.testing.assert_array_equal(once.rewards[[1, 3]], twice.rewards)
    assert not np.array_equal(together[0].observations[0], together[0].observations[1])


def test_slots_that_are_not_stepped_keep_their_state() -> None:
    actions = forces(2)
    with batch_of(PENDULUM) as batch:
        batch.reset(SLOTS, [7, 7, 8, 8])
        batch.step(np.array([0]), actions[0, :1])
        one = batch.step(np.array([1, 2]), actions[0, [0, 2]])
        batch.reset(SLOTS, [7, 7, 8, 8])
        all_at_once = batch.step(SLOTS, actions[0][[0, 0, 2, 2]])
    np.testing.assert_array_equal(one.observations, all_at_once.observations[[1, 2]])


def test_the_time_limit_truncates_and_a_variant_has_its_own() -> None:
    with batch_of(PENDULUM) as batch:
        assert batch.max_episode_steps == 1_000
    with batch_of(PENDULUM + '{"max_episode_steps": 2}') as batch:
        batch.reset(SLOTS, [0] * SIZE)
        assert not batch.step(SLOTS, np.zeros((SIZE, 1), np.float32)).truncated.any()
        assert batch.step(SLOTS, np.zeros((SIZE, 1), np.float32)).truncated.all()
        with pytest.raises(ValueError, match="not in an episode"):
            batch.step(SLOTS, np.zeros((SIZE, 1), np.float32))


def test_the_action_spaces_that_are_known_without_jax_are_those_of_brax() -> None:
    make_batched(PENDULUM, SIZE).close()  # imports Brax, whose warnings it knows
    from brax.envs import get_environment

    for name in BRAX:
        with pytest.warns(UserWarning, match="Brax System"):
            environment = get_environment(name, backend="positional")
        assert action_space(f"brax/{name}") == Box(-1, 1, (environment.action_size,))


@pytest.mark.parametrize(
    ("game", "actions", "dim", "limit"),
    [
        ("asterix", 5, 400, 1_000),
        ("breakout", 3, 400, 1_000),
        ("freeway", 3, 700, 2_500),
        ("space_invaders", 4, 600, 1_000),
    ],
)
def test_the_games_have_gymnaxs_minimal_actions_and_time_limits(
    game: str, actions: int, dim: int, limit: int
) -> None:
    import gymnax

    with batch_of(f"minatar/{game}") as batch:
        found = batch.action_space.n, batch.observation_dim, batch.max_episode_steps  # type: ignore[attr-defined]
    assert found == (actions, dim, limit)
    name = {"space_invaders": "SpaceInvaders"}.get(game, game.title())
    environment, parameters = gymnax.make(f"{name}-MinAtar")
    assert parameters.max_steps_in_episode == limit
    assert environment.action_space(parameters).n == actions


def test_minatar_steps_as_gymnaxs_own_step() -> None:
    import gymnax
    import jax

    environment, parameters = gymnax.make("SpaceInvaders-MinAtar")
    key, first = jax.random.split(jax.random.PRNGKey(3))
    observation, state = environment.reset(first, parameters)
    generator, ended = np.random.default_rng(0), False
    with batch_of("minatar/space_invaders") as batch:
        found = batch.reset(SLOTS, [3, 3, 4, 3])
        np.testing.assert_array_equal(found[0], observation.ravel())
        for _ in range(200):
            action = int(generator.integers(4))
            key, now = jax.random.split(key)
            _, state, reward, terminated, _, info = environment.step(now, state, action, parameters)
            result = batch.step(SLOTS[:2], np.array([action, action]))
            np.testing.assert_array_equal(result.observations[1], info["final_observation"].ravel())
            assert result.rewards[0] == reward
            assert result.terminated[0] == terminated
            if ended := bool(terminated):
                break
    assert ended, "the episode's end was not compared"


def test_gymnasium_makes_the_same_environment_and_ends_it_at_its_limit() -> None:
    variant = 'minatar/space_invaders{"max_episode_steps": 3}'
    single = make_environment(find_specification(variant))
    with batch_of("minatar/space_invaders") as batch:
        together = batch.reset(SLOTS, [3] * SIZE)
        np.testing.assert_array_equal(single.reset(seed=3)[0], together[0])
        for step in range(1, 4):
            observation, reward, terminated, truncated, _ = single.step(1)
            result = batch.step(SLOTS, np.full(SIZE, 1))
            np.testing.assert_array_equal(observation, result.observations[0])
            assert (reward, terminated, truncated) == (result.rewards[0], False, step == 3)
    assert variant_id(single.spec) == variant  # type: ignore[arg-type]


def test_wrong_actions_are_refused() -> None:
    with batch_of("minatar/breakout") as batch:
        batch.reset(SLOTS, [0] * SIZE)
        with pytest.raises(ValueError, match=r"Actions \[0, 3\] .* not all within 0 to 2"):
            batch.step(SLOTS, np.array([0, 0, 3, 0]))
        with pytest.raises(ValueError, match=r"actions have shape \(4, 1\), expected \(4,\)"):
            batch.step(SLOTS, np.zeros((SIZE, 1), np.int64))


@pytest.mark.parametrize(
    "env_id",
    ['brax/hopper{"wings": 2}', 'brax/hopper{"backend": "none"}', 'minatar/breakout{"bricks": 2}'],
)
def test_arguments_that_the_simulator_does_not_take_are_named(env_id: str) -> None:
    with pytest.raises(UnknownEnvironment, match="cannot be made with the arguments"):
        make_batched(env_id, 1)

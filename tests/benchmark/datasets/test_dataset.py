"""Transitions are cut from episodes where they belong, held to plain loops."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from benchmark.datasets.dataset import Dataset, DatasetProblem, ReferenceReturns

LENGTHS = [3, 1, 5, 2]


@pytest.fixture
def dataset() -> Dataset:
    """Four episodes of odd lengths; every number in it is another one."""
    total, generator = sum(LENGTHS), np.random.default_rng(0)
    states = generator.standard_normal((total + len(LENGTHS), 2)).astype(np.float32)
    terminations, truncations = np.zeros((2, total), dtype=bool)
    terminations[[2, 3]] = True
    truncations[[8, 10]] = True
    return Dataset(
        name="made/up",
        env_id="Hopper-v5",
        states=states,
        actions=generator.standard_normal((total, 3)).astype(np.float32),
        rewards=generator.standard_normal(total).astype(np.float32),
        terminations=terminations,
        truncations=truncations,
        lengths=np.array(LENGTHS),
        reference=ReferenceReturns(0.0, 1.0),
    )


def test_sizes(dataset: Dataset) -> None:
    assert (len(dataset), dataset.observation_dim, dataset.action_dim) == (11, 2, 3)


def test_transitions_are_those_of_a_walk_through_the_episodes(dataset: Dataset) -> None:
    observations, next_observations, timesteps = [], [], []
    states = iter(dataset.states)
    for length in LENGTHS:
        current = next(states)
        for timestep in range(length):
            following = next(states)
            observations.append(current)
            next_observations.append(following)
            timesteps.append(timestep)
            current = following
    assert next(states, None) is None

    np.testing.assert_array_equal(dataset.observations, observations)
    np.testing.assert_array_equal(dataset.next_observations, next_observations)
    np.testing.assert_array_equal(dataset.timesteps, timesteps)


def test_returns_are_sums_over_each_episode(dataset: Dataset) -> None:
    rewards = iter(dataset.rewards)
    returns = [sum(float(next(rewards)) for _ in range(length)) for length in LENGTHS]

    np.testing.assert_allclose(dataset.episode_returns, returns, rtol=1e-12)


def test_returns_of_long_episodes_are_summed_in_double_precision(dataset: Dataset) -> None:
    rewards = np.full(20_000, 0.1, dtype=np.float32)
    rewards[0] = 1e6
    long = replace(
        dataset,
        rewards=rewards,
        actions=np.zeros((20_000, 3), np.float32),
        lengths=np.array([20_000]),
    )

    assert long.episode_returns[0] == pytest.approx(1e6 + 0.1 * 19_999, rel=1e-8)


def test_digest_is_of_the_content_alone(dataset: Dataset) -> None:
    copy = replace(dataset, states=np.asfortranarray(dataset.states), name="other/name")

    assert copy.sha256 == dataset.sha256
    assert len(dataset.sha256) == 64


@pytest.mark.parametrize(
    "name", ["states", "actions", "rewards", "terminations", "truncations", "lengths"]
)
def test_any_change_in_any_array_changes_the_digest(dataset: Dataset, name: str) -> None:
    array = dataset.arrays()[name]
    changed = array.copy()
    flat = changed.reshape(-1)
    flat[-1] = not flat[-1] if array.dtype == bool else np.nextafter(flat[-1], 9).astype(flat.dtype)
    if name == "lengths":
        flat[-1] += 1
    other_type = array.astype(np.int8 if array.dtype == bool else np.float64)
    other_shape = array[None]

    variants: list[Any] = [changed, other_type, other_shape]
    digests = {replace(dataset, **{name: variant}).sha256 for variant in variants}
    assert len(digests | {dataset.sha256}) == 4


def test_equal_arrays_under_each_others_names_are_another_dataset(dataset: Dataset) -> None:
    swapped = replace(dataset, terminations=dataset.truncations, truncations=dataset.terminations)
    assert swapped.sha256 != dataset.sha256


@pytest.mark.parametrize("returns", [(-math.inf, 1.0), (0.0, math.inf), (math.nan, 1.0)])
def test_reference_returns_are_finite(returns: tuple[float, float]) -> None:
    with pytest.raises(DatasetProblem, match="expected two finite numbers"):
        ReferenceReturns(*returns)

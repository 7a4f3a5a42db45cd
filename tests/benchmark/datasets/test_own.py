"""The suite's own datasets: what is shipped for each, and CartPole with discrete actions."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import gymnasium
import minari
import numpy as np
import pytest

from benchmark.datasets.catalog import build_dataset, load_dataset
from benchmark.datasets.own import CARTPOLE_MIXED, ScriptedMixture, balance
from benchmark.datasets.snapshots import load_snapshots
from benchmark.datasets.source import DATASETS, DatasetName
from benchmark.environments.rollout import NoTimeLimit, rollout

ENVIRONMENTS = {
    "halfcheetah": "HalfCheetah-v5",
    "hopper": "Hopper-v5",
    "walker2d": "Walker2d-v5",
}


@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_snapshots_are_shipped_and_the_medium_policy_is_medium(environment: str) -> None:
    policies = load_snapshots(environment)
    assert policies.env_id == ENVIRONMENTS[environment]
    medium = policies.manifest["snapshots"][policies.medium]["sampled_return"]
    assert 1 / 3 <= policies.reference.normalise(medium) / 100 <= 1 / 2


def test_the_shipped_snapshots_are_small() -> None:
    folder = Path(str(load_snapshots.__code__.co_filename)).parent / "shipped"
    files = list(folder.iterdir())
    assert len(files) == 6
    assert sum(file.stat().st_size for file in files) < 15e6


@pytest.mark.parametrize("environment", ENVIRONMENTS)
@pytest.mark.parametrize("quality", ["medium-replay", "medium", "medium-expert"])
def test_all_nine_are_registered_and_of_the_size_asked_for(environment: str, quality: str) -> None:
    dataset = DATASETS[f"{environment}/{quality}"].build("x", 300, 0, 1, None)
    assert len(dataset) == 300
    assert dataset.env_id == ENVIRONMENTS[environment]


def test_cartpole_keeps_discrete_actions_one_hot_and_as_integers_in_minari() -> None:
    name = DatasetName.parse("cartpole/mixed@600")
    build_dataset(name)
    dataset = load_dataset(name)
    assert dataset.actions.shape == (600, 2)
    assert set(np.unique(dataset.actions)) == {0.0, 1.0}
    assert (dataset.actions.sum(1) == 1).all()
    stored = minari.load_dataset(name.minari_id)
    actions = np.concatenate([episode.actions for episode in stored])
    assert actions.dtype.kind == "i"
    np.testing.assert_array_equal(actions, dataset.actions.argmax(1))


def test_cartpole_data_are_what_the_environment_does() -> None:
    """Replayed in gymnasium's own dynamics: state, action, next state."""
    dataset = CARTPOLE_MIXED.build("x", 200, 0, 1, None)
    x, v, angle, turning = dataset.observations.astype(np.float64).T
    force = np.where(dataset.actions.argmax(1) == 1, 10.0, -10.0)
    pull = (force + 0.05 * turning**2 * np.sin(angle)) / 1.1
    down = 9.8 * np.sin(angle) - np.cos(angle) * pull
    acceleration = down / (0.5 * (4 / 3 - 0.1 * np.cos(angle) ** 2 / 1.1))
    thrust = pull - 0.05 * acceleration * np.cos(angle) / 1.1
    expected = np.stack(
        [x + 0.02 * v, v + 0.02 * thrust, angle + 0.02 * turning, turning + 0.02 * acceleration]
    )
    np.testing.assert_allclose(dataset.next_observations.T, expected, atol=1e-5)


def test_cartpoles_controller_is_the_expert_and_random_actions_earn_the_reference() -> None:
    def controlled(observations: np.ndarray) -> np.ndarray:  # type: ignore[type-arg]
        return balance(observations[0].astype(np.float64))[None]

    expert = rollout("CartPole-v1", controlled, policies=1, episodes=5, seeds=list(range(5)))
    assert (expert.returns == CARTPOLE_MIXED.reference.expert).all()
    rng = np.random.default_rng(0)
    random = rollout(
        "CartPole-v1",
        lambda observations: rng.integers(0, 2, observations.shape[:2]),
        policies=1,
        episodes=400,
        seeds=list(range(400)),
    )
    error = random.returns.std() / 20
    assert abs(random.returns.mean() - CARTPOLE_MIXED.reference.random) < 4 * error


def test_more_noise_is_worse_data() -> None:
    parts = [
        ScriptedMixture("CartPole-v1", "", balance, (level,), CARTPOLE_MIXED.reference).build(
            "x", 3000, 0, 1, None
        )
        for level in (0.5, 2.0)
    ]
    steady, shaky = (part.episode_returns.mean() for part in parts)
    assert steady > 2 * shaky


def test_the_same_data_whatever_else_is_collected_with_it() -> None:
    """An episode depends on its part and index alone, so a longer dataset starts the same."""
    short, long = (CARTPOLE_MIXED.build("x", size, 0, 1, None) for size in (300, 3000))
    np.testing.assert_array_equal(short.actions[:100], long.actions[:100])


def test_an_environment_without_a_time_limit_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    registered = gymnasium.registry["CartPole-v1"]
    endless = dataclasses.replace(registered, id="Endless-v0", max_episode_steps=None)
    monkeypatch.setitem(gymnasium.registry, "Endless-v0", endless)
    mixture = ScriptedMixture("Endless-v0", "", balance, (0.0,), CARTPOLE_MIXED.reference)
    with pytest.raises(NoTimeLimit, match=r"Endless-v0\{\"max_episode_steps\": 1000\}"):
        mixture.build("x", 2000, 0, 1, None)

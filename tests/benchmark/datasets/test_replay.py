"""Replays, held to steps that the tests make themselves in gymnasium's environments."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import gymnasium
import mujoco
import numpy as np
import pytest

from benchmark.datasets.dataset import Dataset, DatasetProblem, ReferenceReturns, check_dataset
from benchmark.datasets.replay import TOLERANCE, replay
from benchmark.datasets.transitions import clip_controls, read_transitions
from benchmark.environments.contacts import adds_margins
from benchmark.environments.lookup import find_specification, make_environment

SHARED = Path(__file__).resolve().parents[3].parent / "shared" / "external"
ROWS = 12


def single_steps(
    env_id: str,
    *,
    largest: float = 0.5,
    height: float | None = None,
    margin: float | None = None,
) -> Dataset:
    """Episodes of one step each, from states that are drawn around that of a reset.

    Args:
        env_id: Environment.
        largest: Bound of the velocities, and of the actions' components.
        height: Height of the torso, where it is to be another.
        margin: Margin of every geom, where it is to be another.
    """
    generator = np.random.default_rng(1)
    environment: Any = make_environment(find_specification(env_id)).unwrapped
    states, actions, rewards, ends = [], [], [], []
    for seed in range(ROWS):
        first = environment.reset(seed=seed)[0].astype(np.float32)
        if env_id.startswith("CartPole"):
            action: Any = seed % 2
            actions.append(np.eye(2, dtype=np.float32)[action])
            environment.state = first.astype(np.float64)
        else:
            model, data = environment.model, environment.data
            if margin is not None:
                model.geom_margin[:] = margin
            if height is not None:
                first[0] = height
            positions = model.nq - 1
            first[positions:] = generator.uniform(-largest, largest, model.nv)
            action = generator.uniform(-largest, largest, model.nu).astype(np.float32)
            actions.append(action)
            mujoco.mj_resetData(model, data)
            environment.set_state(
                np.concatenate([[0.0], first[:positions]]), first[positions:].astype(np.float64)
            )
        following, reward, terminated, *_ = environment.step(action)
        states += [first, following.astype(np.float32)]
        rewards.append(reward)
        ends.append(terminated)
    terminations = np.array(ends)
    dataset = Dataset(
        name="local/steps",
        env_id=env_id,
        states=np.stack(states),
        actions=np.stack(actions),
        rewards=np.array(rewards, dtype=np.float32),
        terminations=terminations,
        truncations=~terminations,
        lengths=np.ones(ROWS, dtype=np.int64),
        reference=ReferenceReturns(0.0, 1.0),
    )
    check_dataset(dataset)
    return dataset


@pytest.mark.parametrize(
    "env_id",
    ["Hopper-v4", "Hopper-v5", "Walker2d-v4", "HalfCheetah-v4", "HalfCheetah-v5", "CartPole-v1"],
)
def test_steps_from_stored_states_come_back_to_the_last_bit(env_id: str) -> None:
    dataset = single_steps(env_id)
    found = replay(dataset)
    assert (found.skipped, found.ends_differ) == (0, 0)
    assert found.rows.tolist() == list(range(ROWS))
    assert found.reward_errors.max() == found.state_errors.max() == 0.0
    np.testing.assert_array_equal(found.returns, dataset.rewards.astype(np.float64))
    found.check(dataset)


def test_whole_episodes_come_back_within_the_rounding_of_float32(small_dataset: Dataset) -> None:
    found = replay(small_dataset)
    assert len(found.rows) + found.skipped == len(small_dataset)
    assert max(found.reward_errors.max(), found.state_errors.max()) < TOLERANCE / 10
    found.check(small_dataset)


def test_episodes_are_chosen_evenly(small_dataset: Dataset) -> None:
    found = replay(small_dataset, episodes=2)
    first, last = small_dataset.lengths[[0, -1]]
    assert len(found.rows) + found.skipped == first + last
    np.testing.assert_array_equal(found.returns, small_dataset.episode_returns[[0, -1]])
    with pytest.raises(DatasetProblem, match=r"episodes; 999 were asked for. Give 1 to"):
        replay(small_dataset, episodes=999)


@pytest.mark.parametrize("what", ["rewards", "states", "actions", "terminations"])
def test_a_number_that_was_changed_is_found_at_its_row(what: str) -> None:
    dataset = single_steps("Hopper-v4")
    array = dataset.arrays()[what].copy()
    row = 7
    if what == "terminations":
        array[row] = ~array[row]
    elif what == "states":
        array[2 * row + 1, 4] += 2e-3  # the state after the step
    else:
        array[row] += 2e-3 if what == "rewards" else 0.2
    found = replay(dataclasses.replace(dataset, **{what: array}))
    if what == "terminations":
        assert found.ends_differ == 1 and not found.outside.any()
    else:
        assert np.flatnonzero(found.outside).tolist() == [row]
    with pytest.raises(DatasetProblem, match=r"(1|0) of 12 transitions of local/steps do not come"):
        found.check(dataset)


def test_the_next_episodes_state_after_a_terminal_is_not_compared(tmp_path: Path) -> None:
    """Of a file without next observations; played here in CartPole with random actions."""
    environment, generator = gymnasium.make("CartPole-v1"), np.random.default_rng(0)
    rows: dict[str, list[Any]] = {"obs": [], "acts": [], "rews": [], "terminated": []}
    for seed in range(4):
        observation, ended = environment.reset(seed=seed)[0], False
        while not ended:
            rows["obs"].append(observation)
            rows["acts"].append(int(generator.integers(2)))
            observation, reward, ended, *_ = environment.step(rows["acts"][-1])
            rows["rews"].append(reward)
            rows["terminated"].append(ended)
    file = tmp_path / "rows.npz"
    np.savez(file, **{key: np.array(values) for key, values in rows.items()})  # type: ignore[arg-type]
    dataset = read_transitions(
        file, name="local/rows", env_id="CartPole-v1", reference=ReferenceReturns(0.0, 1.0)
    )
    assert dataset.terminations.sum() == 3  # the last row of the file makes no transition
    found = replay(dataset)
    np.testing.assert_array_equal(np.isnan(found.state_errors), dataset.terminations)
    assert not np.isnan(found.reward_errors).any()
    found.check(dataset)
    changed = dataclasses.replace(dataset, rewards=dataset.rewards + dataset.terminations)
    assert np.flatnonzero(replay(changed).outside).tolist() == [
        *np.flatnonzero(dataset.terminations)
    ]


def test_another_version_of_the_environment_is_found() -> None:
    dataset = single_steps("Walker2d-v4", largest=5)  # its left foot has another friction in v5
    other = dataclasses.replace(dataset, env_id="Walker2d-v5")
    with pytest.raises(DatasetProblem, match=r"do not come back .* in Walker2d-v5"):
        replay(other).check(other)


def test_states_behind_the_clip_of_velocities_are_skipped() -> None:
    dataset = single_steps("Hopper-v4", largest=12)
    velocities = np.abs(dataset.observations[:, 5:])
    dataset.states[0::2, 5:] = dataset.states[0::2, 5:].clip(-10, 10)  # as Hopper observes them
    beyond = int((velocities >= 10).any(1).sum())
    assert 0 < beyond < ROWS
    found = replay(dataclasses.replace(dataset))
    assert found.skipped == beyond
    assert not found.outside.any()
    assert found.rows.tolist() == np.flatnonzero((velocities < 10).all(1)).tolist()
    dataset.states[:, 5] = 10
    with pytest.raises(DatasetProblem, match=r"None of the 12 observations .* the clip of 10"):
        replay(dataclasses.replace(dataset))


@pytest.mark.skipif(not adds_margins(mujoco.__version__), reason="margins do not add yet")
@pytest.mark.parametrize(
    ("env_id", "margin", "advice"),
    [
        ("Hopper-v4", 0.001, "sum, as since MuJoCo 3.5, .* register the environment under an id"),
        ("Hopper-v5", 0.0005, r"larger, as before MuJoCo 3.5, .* install 'mujoco<3.5'"),
    ],
)
def test_data_of_other_contacts_are_recognised(env_id: str, margin: float, advice: str) -> None:
    dataset = single_steps(env_id, height=1.2, margin=margin)
    found = replay(dataset)
    outside = int(found.outside.sum())
    assert 0 < outside == found.by_other_contacts
    with pytest.raises(DatasetProblem, match=rf"{outside} of the {outside} come back .*{advice}"):
        found.check(dataset)


def test_rewards_with_the_cost_of_an_action_that_was_clipped_are_not_compared() -> None:
    given = single_steps("Hopper-v4", largest=1.3)
    clipped = clip_controls(given)
    beyond = (np.abs(given.actions) > 1).any(1)
    assert 0 < beyond.sum() < ROWS
    found = replay(clipped)
    assert np.isnan(found.reward_errors).tolist() == beyond.tolist()
    assert not found.outside.any() and found.state_errors.max() == 0.0
    unmarked = replay(dataclasses.replace(clipped, provenance={}))
    assert unmarked.reward_errors.max() > 1e-4, "the cost of what was clipped is more than rounding"


def test_an_environment_whose_state_is_hidden_is_refused() -> None:
    dataset = dataclasses.replace(single_steps("CartPole-v1"), env_id="Acrobot-v1")
    with pytest.raises(DatasetProblem, match=r"the state of Acrobot-v1 does not follow"):
        replay(dataset)


# --- public rollouts of expert policies -----------------------------------------------------------
NEEDS_ROLLOUTS = pytest.mark.skipif(
    not SHARED.is_dir(), reason="the public rollouts are not on this machine"
)


def public_rollouts(env_id: str) -> Dataset:
    return read_transitions(
        SHARED / f"expert_rollouts_{env_id}.npz",
        name="local/public",
        env_id=env_id,
        reference=ReferenceReturns(0.0, 1.0),
    )


@NEEDS_ROLLOUTS
@pytest.mark.parametrize(
    ("env_id", "replayed", "returns"),
    [("Hopper-v4", 1644, 3717), ("Walker2d-v4", 216, 5383), ("CartPole-v1", 26964, 473)],
)
def test_public_rollouts_come_back(env_id: str, replayed: int, returns: float) -> None:
    dataset = public_rollouts(env_id)
    found = replay(dataset)
    assert len(found.rows) == replayed
    assert found.returns.mean() == pytest.approx(returns, abs=1)
    assert found.ends_differ == 0
    found.check(dataset)
    assert max(found.reward_errors.max(), found.state_errors.max()) < 1e-5


@NEEDS_ROLLOUTS
@pytest.mark.skipif(not adds_margins(mujoco.__version__), reason="margins do not add yet")
def test_public_rollouts_of_hopper_do_not_come_back_with_the_margins_added() -> None:
    """Neither with the contacts that gymnasium's own Hopper-v4 has since MuJoCo 3.5."""
    dataset = public_rollouts("Hopper-v4")
    gymnasium.register(
        "OwnHopper-v4", entry_point="gymnasium.envs.mujoco.hopper_v4:HopperEnv", max_episode_steps=9
    )
    try:
        found = replay(dataclasses.replace(dataset, env_id="OwnHopper-v4"))
    finally:
        del gymnasium.registry["OwnHopper-v4"]
    assert 0.74 < 1 - found.outside.mean() < 0.76, "those in flight"
    assert found.state_errors.max() > 0.3
    assert found.by_other_contacts == found.outside.sum()

"""The fast path gives bit for bit what gymnasium gives."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium
import mujoco
import numpy as np
import pytest
from gymnasium.wrappers import ClipReward
from numpy.typing import NDArray

from benchmark.environments.batch import BatchedEnvironment
from benchmark.environments.contacts import adds_margins
from benchmark.environments.lookup import make_batched
from benchmark.environments.mujoco_batch import MujocoBatch

ENVIRONMENTS = [
    f"{name}-{version}"
    for name in ("HalfCheetah", "Hopper", "Walker2d")
    for version in ("v4", "v5")
]
SEEDS = [3, 14, 159]


@pytest.fixture(autouse=True)
def _no_log_file_in_the_repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # MuJoCo 4 answers HalfCheetah's model with a line in MUJOCO_LOG.TXT of the working directory.
    monkeypatch.chdir(tmp_path)


class Trajectory(NamedTuple):
    """One episode; observations include the first."""

    observations: NDArray[np.float64]
    rewards: NDArray[np.float64]
    terminated: NDArray[np.bool_]
    truncated: NDArray[np.bool_]


def gymnasium_episode(env_id: str, seed: int, actions: NDArray[np.float32]) -> Trajectory:
    """One episode by gymnasium's own environment, one action after another."""
    environment = gymnasium.make(gymnasium.registry[env_id])  # by id, v4 warns of its age
    if env_id == "Hopper-v4" and adds_margins(mujoco.__version__):
        model: Any = environment.unwrapped.model  # type: ignore[attr-defined]
        model.geom_margin[:] = 0.0005  # of each of two, see benchmark.environments.contacts
    observations: list[Any] = [environment.reset(seed=seed)[0]]
    rewards, terminated, truncated = [], [], []
    for action in actions:
        observation, reward, end, cut, _ = environment.step(action)
        observations.append(observation)
        rewards.append(reward)
        terminated.append(end)
        truncated.append(cut)
        if end or cut:
            break
    environment.close()
    return Trajectory(
        np.array(observations), np.array(rewards), np.array(terminated), np.array(truncated)
    )


def batched_episodes(
    environment: BatchedEnvironment, seeds: list[int], actions: NDArray[np.float32]
) -> list[Trajectory]:
    """One episode a slot; slots that have finished are left out of the next steps."""
    slots = np.arange(len(seeds))
    records: list[Any] = [([row], [], [], []) for row in environment.reset(slots, seeds)]
    for step in range(actions.shape[1]):
        result = environment.step(slots, actions[slots, step])
        for row, slot in enumerate(slots):
            values = result.observations, result.rewards, result.terminated, result.truncated
            for record, value in zip(records[slot], values, strict=True):
                record.append(value[row])
        slots = slots[~(result.terminated | result.truncated)]
        if not slots.size:
            break
    return [Trajectory(*map(np.array, record)) for record in records]


def action_sequences(env_id: str, steps: int, scale: float) -> NDArray[np.float32]:
    """Random actions of every slot, float32; bounds are +-1, so a scale above 1 leaves them."""
    size = {"HalfCheetah": 6, "Hopper": 3, "Walker2d": 6}[env_id.split("-")[0]]
    draws = np.random.default_rng(7).uniform(-scale, scale, (len(SEEDS), steps, size))
    return draws.astype(np.float32)


def assert_identical(found: Trajectory, expected: Trajectory) -> None:
    for name, left, right in zip(Trajectory._fields, found, expected, strict=True):
        assert left.dtype == right.dtype, name
        assert np.array_equal(left, right), name


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("scale", [0.3, 1.0, 4.0], ids=["gentle", "random", "out of range"])
@pytest.mark.parametrize("env_id", ENVIRONMENTS)
def test_episodes_are_gymnasiums_to_the_last_bit(env_id: str, scale: float, threads: int) -> None:
    actions = action_sequences(env_id, 1000, scale)
    environment = make_batched(env_id, len(SEEDS), threads)
    assert isinstance(environment, MujocoBatch)
    found = batched_episodes(environment, SEEDS, actions)
    environment.close()
    for slot, seed in enumerate(SEEDS):
        assert_identical(found[slot], gymnasium_episode(env_id, seed, actions[slot]))


@pytest.mark.parametrize("env_id", ENVIRONMENTS)
def test_episodes_end_as_these_tests_need(env_id: str) -> None:
    """The comparisons above see the time limit of HalfCheetah and the falls of the others."""
    actions = action_sequences(env_id, 1000, 1.0)
    episode = gymnasium_episode(env_id, SEEDS[0], actions[0])
    if env_id.startswith("HalfCheetah"):
        assert len(episode.rewards) == 1000
        assert episode.truncated[-1] and not episode.terminated[-1]
    else:
        assert len(episode.rewards) < 1000
        assert episode.terminated[-1] and not episode.truncated[-1]


@pytest.mark.parametrize("env_id", ["Hopper-v4", "Hopper-v5"])
def test_a_fall_at_the_time_limit_terminates_and_truncates(env_id: str) -> None:
    actions = action_sequences(env_id, 1000, 1.0)
    fall = len(gymnasium_episode(env_id, SEEDS[0], actions[0]).rewards)
    short_id = "ObdBenchShort" + env_id
    specification = gymnasium.registry[env_id]
    gymnasium.register(short_id, entry_point=specification.entry_point, max_episode_steps=fall)
    try:
        environment = make_batched(short_id, 1)
        assert isinstance(environment, MujocoBatch)
        found = batched_episodes(environment, SEEDS[:1], actions)[0]
        environment.close()
        assert_identical(found, gymnasium_episode(short_id, SEEDS[0], actions[0]))
    finally:
        del gymnasium.registry[short_id]
    assert found.terminated[-1] and found.truncated[-1]


@pytest.mark.parametrize("env_id", ENVIRONMENTS)
def test_float64_actions_cost_what_they_cost_in_gymnasium(env_id: str) -> None:
    actions: Any = action_sequences(env_id, 20, 1.0).astype(np.float64) / 3
    environment = make_batched(env_id, len(SEEDS))
    found = batched_episodes(environment, SEEDS, actions)
    environment.close()
    for slot, seed in enumerate(SEEDS):
        assert_identical(found[slot], gymnasium_episode(env_id, seed, actions[slot]))


@pytest.mark.parametrize("env_id", ENVIRONMENTS)
@pytest.mark.parametrize("threads", [1, 2])
def test_stepping_some_slots_leaves_the_others_alone(env_id: str, threads: int) -> None:
    """Slots advance at different paces and in changing order, each as if it were alone."""
    actions = action_sequences(env_id, 12, 0.5)
    environment = make_batched(env_id, len(SEEDS), threads)
    environment.reset([0, 1, 2], SEEDS)
    taken = [0, 0, 0]
    last = [np.empty(0)] * 3
    for slots in ([2, 0], [0], [1, 2, 0], [2], [0, 1], [2, 1, 0]):
        batch = np.stack([actions[slot, taken[slot]] for slot in slots])
        result = environment.step(np.array(slots), batch)
        for row, slot in enumerate(slots):
            taken[slot] += 1
            last[slot] = result.observations[row]
    environment.close()
    for slot, seed in enumerate(SEEDS):
        expected = gymnasium_episode(env_id, seed, actions[slot, : taken[slot]])
        assert np.array_equal(last[slot], expected.observations[-1])


@pytest.mark.parametrize("env_id", ENVIRONMENTS)
def test_a_slot_reset_in_mid_flight_starts_afresh(env_id: str) -> None:
    actions = action_sequences(env_id, 1000, 1.0)
    environment = make_batched(env_id, len(SEEDS))
    environment.reset(np.arange(3), [100, 101, 102])
    for step in range(5):
        environment.step(np.array([0, 1]), actions[:2, step])
    found = batched_episodes(environment, SEEDS, actions)
    environment.close()
    for slot, seed in enumerate(SEEDS):
        assert_identical(found[slot], gymnasium_episode(env_id, seed, actions[slot]))


@pytest.mark.parametrize("env_id", ENVIRONMENTS)
def test_episodes_of_one_seed_are_each_gymnasiums(env_id: str) -> None:
    """Policies are compared on the same first states, which are drawn once."""
    actions = action_sequences(env_id, 8, 1.0)
    seeds = [3, 14, 3]
    environment = make_batched(env_id, 3)
    assert isinstance(environment, MujocoBatch)
    drawn: list[int] = []
    reset = environment._reference.reset
    environment._reference.reset = lambda *, seed: (drawn.append(seed), reset(seed=seed))[1]
    found = batched_episodes(environment, seeds, actions)
    environment.close()
    assert drawn == [3, 14]
    for slot, seed in enumerate(seeds):
        assert_identical(found[slot], gymnasium_episode(env_id, seed, actions[slot]))


@pytest.mark.skipif(
    not hasattr(mujoco.mjtDisableBit, "mjDSBL_ISLAND"), reason="this MuJoCo looks for no islands"
)
@pytest.mark.parametrize("env_id", ["Hopper-v5", "Walker2d-v5"])
def test_islands_of_constraints_are_not_looked_for(env_id: str) -> None:
    """A step that touches the ground is the same without, to the last bit, and cheaper."""
    plain: Any = gymnasium.make(env_id).unwrapped
    environment = make_batched(env_id, 1)
    assert isinstance(environment, MujocoBatch)
    plain.reset(seed=3)
    environment.reset([0], [3])
    action = plain.action_space.sample()[None] * 0
    touched = 0
    for _ in range(40):
        expected = plain.step(action[0])[0]
        assert np.array_equal(environment.step(np.array([0]), action).observations[0], expected)
        touched += plain.data.nisland > 0
        assert environment._data[0].nefc == plain.data.nefc
        assert environment._data[0].nisland == 0
    environment.close()
    assert touched > 5


def test_an_error_in_any_thread_is_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    failed = threading.Event()
    step = mujoco.mj_step

    def fail(*arguments: Any) -> None:
        if threading.current_thread() is not threading.main_thread():
            failed.set()
            raise mujoco.FatalError("the simulation failed")
        assert failed.wait(10), "the other thread takes a slot of its own"
        step(*arguments)

    environment = make_batched("Hopper-v5", 4, threads=2)
    environment.reset(np.arange(4), range(4))
    monkeypatch.setattr(mujoco, "mj_step", fail)
    with pytest.raises(mujoco.FatalError, match="the simulation failed"):
        environment.step(np.arange(4), np.zeros((4, 3)))
    environment.close()


def test_results_do_not_change_when_the_batch_goes_on() -> None:
    actions = action_sequences("Hopper-v5", 2, 1.0)
    environment = make_batched("Hopper-v5", 3)
    first = environment.reset(np.arange(3), SEEDS)
    first_copy = first.copy()
    second = environment.step(np.arange(3), actions[:, 0]).observations
    second_copy = second.copy()
    environment.step(np.arange(3), actions[:, 1])
    environment.close()
    assert np.array_equal(first, first_copy)
    assert np.array_equal(second, second_copy)


@pytest.mark.parametrize(
    "options",
    [
        {"kwargs": {"healthy_reward": 2.0}},
        {"kwargs": {"terminate_when_unhealthy": False}},
        {"additional_wrappers": (ClipReward.wrapper_spec(min_reward=0.0, max_reward=0.5),)},
    ],
)
def test_other_arguments_and_wrappers_go_to_gymnasium(options: dict[str, Any]) -> None:
    specification = gymnasium.registry["Hopper-v5"]
    gymnasium.register(
        "ObdBenchOther-v0",
        entry_point=specification.entry_point,
        max_episode_steps=50,
        **options,
    )
    actions = action_sequences("Hopper-v5", 50, 1.0)
    try:
        environment = make_batched("ObdBenchOther-v0", len(SEEDS))
        assert not isinstance(environment, MujocoBatch)
        found = batched_episodes(environment, SEEDS, actions)
        environment.close()
        for slot, seed in enumerate(SEEDS):
            expected = gymnasium_episode("ObdBenchOther-v0", seed, actions[slot])
            assert_identical(found[slot], expected)
    finally:
        del gymnasium.registry["ObdBenchOther-v0"]


def test_calls_out_of_order_are_refused() -> None:
    environment = make_batched("Hopper-v5", 2)
    action = np.zeros((1, 3), np.float32)
    with pytest.raises(ValueError, match=r"Slots \[1\] are not in an episode: reset"):
        environment.step(np.array([1]), action)
    environment.reset([0, 1], [0, 1])
    with pytest.raises(ValueError, match="name a slot twice"):
        environment.step(np.array([1, 1]), np.zeros((2, 3), np.float32))
    with pytest.raises(ValueError, match="not all within 0 to 1"):
        environment.step(np.array([-1]), action)
    with pytest.raises(ValueError, match=r"shape \(1, 2\), expected \(1, 3\)"):
        environment.step(np.array([0]), np.zeros((1, 2), np.float32))
    with pytest.raises(ValueError, match="1 seeds for 2 slots"):
        environment.reset([0, 1], [0])
    for _ in range(1000):
        if environment.step(np.array([0]), np.ones((1, 3), np.float32)).terminated[0]:
            break
    with pytest.raises(ValueError, match=r"Slots \[0\] are not in an episode"):
        environment.step(np.array([0]), action)
    environment.close()

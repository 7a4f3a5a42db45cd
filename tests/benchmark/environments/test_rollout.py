"""A rollout gives what a plain loop gives, and steps no finished episode."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from benchmark.environments.batch import BatchedEnvironment, StepResult
from benchmark.environments.lookup import make_batched
from benchmark.environments.rollout import Episodes, NoTimeLimit, rollout
from benchmark.threads import torch_threads

SEEDS = [5, 6, 7]
GAINS = np.array([0.1, 0.6], np.float32)  # one policy each


def steer(observations: NDArray[np.float32]) -> NDArray[np.float32]:
    """Sums and products alone, so that a batch gives exactly what single observations give."""
    gains = GAINS[:, None, None]
    actions: NDArray[np.float32] = gains * observations[..., 1:4] - observations[..., 5:8]
    return actions.clip(-1, 1)


def push(observations: NDArray[np.float32]) -> NDArray[np.int64]:
    return (GAINS[:, None] * observations[..., 2] + observations[..., 3] > 0).astype(np.int64)


def plain_episode(env_id: str, policy: Any, index: int, seed: int) -> tuple[float, int]:
    """Return and length of one episode of policy `index`, by gymnasium alone."""
    environment = gymnasium.make(env_id)
    observation, _ = environment.reset(seed=seed)
    total, steps, done = 0.0, 0, False
    while not done:
        batch = np.broadcast_to(observation.astype(np.float32), (2, 1, observation.size))
        action = policy(batch)[index, 0]
        observation, reward, terminated, truncated, _ = environment.step(action)
        total += float(reward)
        steps += 1
        done = terminated or truncated
    environment.close()
    return total, steps


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize(("env_id", "policy"), [("Hopper-v5", steer), ("CartPole-v1", push)])
def test_returns_and_lengths_equal_a_plain_loop(env_id: str, policy: Any, threads: int) -> None:
    found = rollout(env_id, policy, policies=2, episodes=3, seeds=SEEDS, threads=threads)
    plain = [[plain_episode(env_id, policy, p, seed) for seed in SEEDS] for p in range(2)]
    assert np.array_equal(found.returns, [[episode[0] for episode in row] for row in plain])
    assert np.array_equal(found.lengths, [[episode[1] for episode in row] for row in plain])
    assert found.environment_steps == sum(episode[1] for row in plain for episode in row)
    assert len(np.unique(found.lengths)) > 2, "episodes of one length would test too little"


class Recorder:
    """A batch that remembers which slots were stepped."""

    def __init__(self, batch: BatchedEnvironment) -> None:
        self._batch = batch
        self.stepped: list[NDArray[np.integer]] = []
        self.closed = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._batch, name)

    def step(self, slots: NDArray[np.integer], actions: NDArray[Any]) -> StepResult:
        self.stepped.append(slots.copy())
        return self._batch.step(slots, actions)

    def close(self) -> None:
        self.closed = True
        self._batch.close()


@pytest.fixture
def recorders(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Recorder]]:
    made: list[Recorder] = []

    def make(*arguments: Any) -> Recorder:
        made.append(Recorder(make_batched(*arguments)))
        return made[-1]

    # By import_module: as an attribute of its package, the module is hidden by its function.
    module = importlib.import_module("benchmark.environments.rollout")
    monkeypatch.setattr(module, "make_batched", make)
    yield made


def test_finished_episodes_are_not_stepped(recorders: list[Recorder]) -> None:
    found = rollout("Hopper-v5", steer, policies=2, episodes=3, seeds=SEEDS)
    counts = np.bincount(np.concatenate(recorders[0].stepped), minlength=6)
    assert np.array_equal(counts.reshape(2, 3), found.lengths)
    assert len(recorders[0].stepped) == found.lengths.max()


def test_the_policy_sees_every_slot_and_finished_ones_stand_still() -> None:
    seen: list[NDArray[np.float32]] = []

    def watch(observations: NDArray[np.float32]) -> NDArray[np.float32]:
        seen.append(observations)
        return steer(observations)

    found = rollout("Hopper-v5", watch, policies=2, episodes=3, seeds=SEEDS)
    assert all(x.shape == (2, 3, 11) and x.dtype == np.float32 for x in seen)
    for (p, e), length in np.ndenumerate(found.lengths):
        history = np.array([x[p, e] for x in seen])
        assert (history[length:] == history[length : length + 1]).all()
        assert (history[1:length] != history[: length - 1]).any(axis=1).all()
    assert np.array_equal(seen[0][0], seen[0][1]), "policies start from the same states"
    assert not np.array_equal(seen[0][0, 0], seen[0][0, 1]), "episodes start from different ones"


def lean(gains: NDArray[np.float32], observations: NDArray[np.float32]) -> Any:
    """Actions with which Hopper and Walker2d fall the sooner, the higher the gain."""
    joints = 3 if observations.shape[-1] == 11 else 6
    return gains * (1 + observations[..., :joints])


def balance(gains: NDArray[np.float32], observations: NDArray[np.float32]) -> Any:
    """Scores of CartPole's two actions."""
    push_right = gains[..., 0] * observations[..., 2] + observations[..., 3]
    return np.stack([np.zeros_like(push_right), push_right], axis=-1)


class Narrowable:
    """Policies of some gains, which note which of them are asked."""

    def __init__(self, respond: Any, gains: NDArray[np.float32], asked: list[list[float]]) -> None:
        self.respond, self.gains, self.asked = respond, gains, asked

    def only(self, policies: NDArray[np.intp]) -> Narrowable:
        return Narrowable(self.respond, self.gains[policies], self.asked)

    def __call__(self, observations: NDArray[np.float32]) -> Any:
        assert len(observations) == len(self.gains)
        self.asked.append(self.gains.tolist())
        return self.respond(self.gains[:, None, None], observations)


@pytest.mark.parametrize(
    ("env_id", "respond"),
    [("Hopper-v4", lean), ("Hopper-v5", lean), ("Walker2d-v5", lean), ("CartPole-v1", balance)],
)
def test_policies_that_have_finished_are_not_asked(env_id: str, respond: Any) -> None:
    gains = np.array([0.9, 0.1, 0.6, 0.2, 0.7], np.float32)
    asked: list[list[float]] = []
    policies = Narrowable(respond, gains, asked)
    options: Any = {"policies": 5, "episodes": 3, "seeds": SEEDS}
    narrowed = rollout(env_id, policies, threads=2, **options)
    calls = [*asked]
    whole = rollout(env_id, policies.__call__, **options)  # a function cannot be narrowed
    assert np.array_equal(narrowed.returns, whole.returns)
    assert np.array_equal(narrowed.lengths, whole.lengths)
    lasts = narrowed.lengths.max(axis=1)
    assert len(np.unique(lasts)) > 2, "policies that finish together would test too little"
    for step, found in enumerate(calls):
        unfinished = gains[lasts > step].tolist()
        assert set(unfinished) <= set(found)
        assert len(unfinished) > 0.75 * len(found)


def test_max_steps_cuts_episodes() -> None:
    found = rollout("Hopper-v5", steer, policies=2, episodes=3, seeds=SEEDS, max_steps=4)
    assert (found.lengths == 4).all()


def test_progress_counts_environment_steps() -> None:
    counts: list[int] = []
    found = rollout(
        "Hopper-v5", steer, policies=2, episodes=3, seeds=SEEDS, on_progress=counts.append
    )
    assert counts[0] == 6
    assert counts == sorted(counts)
    assert counts[-1] == found.environment_steps


def test_policies_are_asked_with_torch_on_one_thread() -> None:
    """Torch's others would wait for the next call on the cores that the environments need."""
    found: list[int] = []

    def act(observations: NDArray[np.float32]) -> NDArray[np.float32]:
        found.append(torch.get_num_threads())
        return steer(observations)

    with torch_threads(2):
        rollout("Hopper-v5", act, policies=2, episodes=1, seeds=[0], threads=2, max_steps=3)
        assert torch.get_num_threads() == 2
    assert found == [1, 1, 1]


def test_the_batch_is_closed_when_the_policy_fails(recorders: list[Recorder]) -> None:
    def fail(observations: NDArray[np.float32]) -> NDArray[np.float32]:
        raise RuntimeError("policy failed")

    with pytest.raises(RuntimeError, match="policy failed"):
        rollout("Hopper-v5", fail, policies=1, episodes=1, seeds=[0])
    assert recorders[0].closed


def test_wrong_shapes_are_named() -> None:
    with pytest.raises(ValueError, match="2 seeds for 3 episodes"):
        rollout("Hopper-v5", steer, policies=2, episodes=3, seeds=[0, 1])
    with pytest.raises(ValueError, match=r"shape \(2, 3\), expected \(2, 3, 3\)"):
        rollout("Hopper-v5", push, policies=2, episodes=3, seeds=SEEDS)


@pytest.mark.parametrize("env_id", ["CartPole-v1", "InvertedPendulum-v5", "Hopper-v5"])
def test_episodes_in_which_an_action_was_nan_have_no_return(env_id: str) -> None:
    """CartPole takes an action from any score, MuJoCo plays on; a pendulum's reward is finite."""
    space = gymnasium.make(env_id).action_space
    numbers = int(space.n) if isinstance(space, gymnasium.spaces.Discrete) else space.shape[0]
    asked = 0

    def act(observations: NDArray[np.float32]) -> NDArray[np.float32]:
        nonlocal asked
        asked += 1
        actions = np.zeros((*observations.shape[:2], numbers), np.float32)
        if asked == 3:
            actions[1, 2, -1] = np.nan
        return actions

    found = rollout(env_id, act, policies=2, episodes=3, seeds=SEEDS, max_steps=5)
    assert np.argwhere(np.isnan(found.returns)).tolist() == [[1, 2]]
    assert found.lengths.tolist() == [[5] * 3] * 2


def test_an_environment_without_a_time_limit_needs_max_steps() -> None:
    specification = gymnasium.registry["CartPole-v1"]
    gymnasium.register("ObdBenchEndless-v0", entry_point=specification.entry_point)
    try:
        with pytest.raises(NoTimeLimit, match="Pass max_steps"):
            rollout("ObdBenchEndless-v0", push, policies=2, episodes=3, seeds=SEEDS)
        found = rollout(
            "ObdBenchEndless-v0", push, policies=2, episodes=3, seeds=SEEDS, max_steps=5
        )
    finally:
        del gymnasium.registry["ObdBenchEndless-v0"]
    assert found.lengths.max() == 5


def test_environment_steps_are_the_sum_of_lengths() -> None:
    assert Episodes(np.zeros((1, 2)), np.array([[3, 4]])).environment_steps == 7

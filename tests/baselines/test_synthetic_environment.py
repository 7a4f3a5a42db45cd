"""The evolved bandit: its states and best actions by hand, and a search that gets better."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch

from baselines.synthetic_environment import SyntheticEnvironment
from benchmark.method import BadParameter
from benchmark.students.spec import StudentSpec
from tests.baselines.test_hades import distil, make_problem


def weights(vector: np.ndarray, *sizes: int) -> list[tuple[np.ndarray, np.ndarray]]:
    found, at = [], 0
    for before, after in pairwise(sizes):
        weight = vector[at : at + before * after].reshape(after, before)
        at += before * after
        found.append((weight, vector[at : at + after]))
        at += after
    assert at == len(vector)
    return found


def through(layers: list[tuple[np.ndarray, np.ndarray]], values: np.ndarray) -> np.ndarray:
    (weight, bias), (last, offset) = layers
    return last @ np.tanh(weight @ values + bias) + offset


@pytest.mark.parametrize("env_id", ["CartPole-v1", "Hopper-v5"])
def test_pairs_are_states_of_the_codes_and_their_best_actions(env_id: str) -> None:
    method = SyntheticEnvironment(synthetic_size=5, code_dim=3, hidden=4)
    problem = make_problem(method, env_id=env_id)
    start, sets = method.search_space(problem)
    # CartPole's dimensions whatever the id: actions of Hopper are taken for continuous ones.
    states, rewards = 3 * 4 + 4 + 4 * 4 + 4, 4 * 4 + 4 + 4 * 2 + 2
    assert start.shape == (states + rewards,)
    generator = torch.Generator().manual_seed(1)
    candidates = start + torch.randn(2, len(start), generator=generator)
    pairs = sets(candidates)
    codes = (
        torch.randn(1, 5, 3, generator=problem.generator("synthetic environment"))[0]
        .double()
        .numpy()
    )
    chosen = set()
    for row, vector in enumerate(candidates.double().numpy()):
        f, g = weights(vector[:states], 3, 4, 4), weights(vector[states:], 4, 4, 2)
        for column, code in enumerate(codes):
            state = through(f, code)
            np.testing.assert_allclose(pairs.observations[row, column], state, atol=1e-5)
            reward = through(g, state)
            action = problem.scaling.actions_out(pairs.actions[row, column]).numpy()
            if env_id == "CartPole-v1":
                np.testing.assert_allclose(action, np.eye(2)[reward.argmax()])
                chosen.add(int(reward.argmax()))
            else:  # the point from which the reward falls in every direction
                np.testing.assert_allclose(pairs.actions[row, column], np.tanh(reward), atol=1e-5)
    assert env_id != "CartPole-v1" or chosen == {0, 1}


@pytest.mark.parametrize("seed", [0, 1])
def test_the_search_teaches_students_to_balance(seed: int) -> None:
    method = SyntheticEnvironment(
        synthetic_size=16, population=24, outer_steps=12, sigma=0.1, episodes_per_policy=1,
        policies_per_candidate=1, max_steps=200,
    )  # fmt: skip
    student = StudentSpec(width=32, depth=2, steps=20, head="mean")
    recorder = distil(method, make_problem(method, seed, student))
    spent = [recorder.environment_steps[step] for step in range(13)]
    lengths = np.diff(spent) / 24  # mean length of a generation's episodes
    assert lengths[:3].mean() < 60
    assert lengths[-3:].mean() > 120


def test_labels_are_not_to_be_fixed() -> None:
    with pytest.raises(BadParameter, match="labels of SyntheticEnvironment is 'fixed'"):
        SyntheticEnvironment(labels="fixed")

"""Scoring one synthetic set: all episodes as one batch against one observation a policy call."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from benchmark.environments.rollout import Episodes, rollout

ENV_ID = "Hopper-v5"
STUDENTS, EPISODES = 10, 10
SEEDS = list(range(EPISODES))
WIDTHS = (11, 256, 256, 256, 3)  # four layers, as the published students


class Students:
    """Stand-ins for trained students: parameters `[P, out, in]`, ReLU, tanh actions.

    Their actions are small, so that they lean over slowly: episodes last 37 to 138 steps, 76 in
    the mean. That is short enough for the rounding of a batched product against that of a single
    one, which Hopper amplifies, to stay far below a visible difference.
    """

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(0)
        self.weights: list[Tensor] = []
        self.biases: list[Tensor] = []
        for fan_in, fan_out in pairwise(WIDTHS):
            scale = (2.0 / fan_in) ** 0.5
            weight = torch.randn(STUDENTS, fan_out, fan_in, generator=generator)
            self.weights.append(weight * scale)
            self.biases.append(torch.zeros(STUDENTS, 1, fan_out))
        self.weights[-1] *= 0.05

    def __call__(self, observations: NDArray[np.float32]) -> NDArray[np.float32]:
        """Actions `[P, E, act_dim]` of observations `[P, E, obs_dim]`."""
        hidden = torch.from_numpy(observations)
        for layer, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            hidden = torch.baddbmm(bias, hidden, weight.transpose(1, 2))
            hidden = torch.tanh(hidden) if layer == len(self.weights) - 1 else torch.relu(hidden)
        return hidden.numpy()

    def single(self, student: int) -> nn.Sequential:
        """One student as the plain module that a reader would write."""
        layers: list[nn.Module] = []
        for weight, bias in zip(self.weights, self.biases, strict=True):
            linear = nn.Linear(weight.shape[2], weight.shape[1])
            linear.weight.data, linear.bias.data = weight[student], bias[student, 0]
            layers += [linear, nn.ReLU()]
        return nn.Sequential(*layers[:-1], nn.Tanh())


def score_batched(students: Students, threads: int) -> Episodes:
    with torch.no_grad():
        return rollout(
            ENV_ID, students, policies=STUDENTS, episodes=EPISODES, seeds=SEEDS, threads=threads
        )


def score_plainly(students: Students) -> Episodes:
    """One environment, one observation a policy call."""
    environment = gymnasium.make(ENV_ID)
    returns = np.zeros((STUDENTS, EPISODES))
    lengths = np.zeros((STUDENTS, EPISODES), dtype=np.int64)
    with torch.no_grad():
        for student in range(STUDENTS):
            policy = students.single(student)
            for episode, seed in enumerate(SEEDS):
                cell = student, episode
                returns[cell], lengths[cell] = _plain_episode(environment, policy, seed)
    environment.close()
    return Episodes(returns, lengths)


def _plain_episode(
    environment: gymnasium.Env[Any, Any], policy: nn.Module, seed: int
) -> tuple[float, int]:
    observation, _ = environment.reset(seed=seed)
    total, steps, done = 0.0, 0, False
    while not done:
        action = policy(torch.as_tensor(observation, dtype=torch.float32)).numpy()
        observation, reward, terminated, truncated, _ = environment.step(action)
        total += float(reward)
        steps += 1
        done = terminated or truncated
    return total, steps


@pytest.fixture
def one_torch_thread() -> Iterator[None]:
    """Policies on one thread on both sides, so that `threads` is the only parallelism."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.usefixtures("one_torch_thread")
@pytest.mark.benchmark(group="scoring")
@pytest.mark.parametrize("threads", [1, os.cpu_count() or 1], ids=["one thread", "all cores"])
def test_scoring_as_one_batch(benchmark: Any, threads: int) -> None:
    """Scores are those of the plain loop; `extra_info` records how much sooner they are there.

    The ratio is recorded and not asserted: on one thread MuJoCo's own step takes most of the
    time on both sides and bounds it, and with more it depends on what else the machine does.
    """
    students = Students()
    batched: Episodes = benchmark.pedantic(score_batched, args=(students, threads), rounds=5)
    plain, ratios = _compare(
        lambda: score_batched(students, threads), lambda: score_plainly(students)
    )
    benchmark.extra_info["threads"] = threads
    benchmark.extra_info["environment_steps"] = batched.environment_steps
    benchmark.extra_info["mean_episode_length"] = float(batched.lengths.mean())
    benchmark.extra_info["speedups_over_plain_loop"] = ratios
    benchmark.extra_info["median_speedup_over_plain_loop"] = float(np.median(ratios))
    assert np.array_equal(batched.lengths, plain.lengths)
    assert np.allclose(batched.returns, plain.returns, rtol=1e-4)


def _compare(
    fast: Callable[[], Episodes], slow: Callable[[], Episodes], rounds: int = 5
) -> tuple[Episodes, list[float]]:
    """The slow side's episodes, and the ratios of times taken turn by turn.

    In turns, because other work on the machine then weighs on both sides alike.
    """
    ratios: list[float] = []
    for _ in range(rounds):
        start = time.perf_counter()
        fast()
        middle = time.perf_counter()
        episodes = slow()
        ratios.append((time.perf_counter() - middle) / (middle - start))
    return episodes, ratios

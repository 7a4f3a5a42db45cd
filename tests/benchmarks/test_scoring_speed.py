"""Scoring one synthetic set: all episodes as one batch against one observation a policy call."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import gymnasium
import mujoco
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from benchmark.environments.rollout import Episodes, rollout
from benchmark.scaling import Scaling
from benchmark.students.heads import MeanHead
from benchmark.students.network import Network, Parameters
from benchmark.students.student import StudentPolicy
from benchmark.threads import torch_threads

ENV_ID = "Hopper-v5"
STUDENTS, EPISODES = 10, 10
SEEDS = list(range(EPISODES))
WIDTHS = (11, 256, 256, 256, 3)  # four layers, as the published students
STATE = mujoco.mjtState.mjSTATE_INTEGRATION.value


def make_students() -> StudentPolicy:
    """Students with random parameters: ReLU, tanh actions, the environment's own units.

    Their actions are small, so that they lean over slowly: episodes last 37 to 138 steps, 76 in
    the mean. That is short enough for the rounding of a batched product against that of a single
    one, which Hopper amplifies, to stay far below a visible difference.
    """
    generator = torch.Generator().manual_seed(0)
    parameters: Parameters = []
    for fan_in, fan_out in pairwise(WIDTHS):
        scale = (2.0 / fan_in) ** 0.5 * (0.05 if fan_out == WIDTHS[-1] else 1.0)
        weight = torch.randn(STUDENTS, fan_out, fan_in, generator=generator) * scale
        parameters.append((weight, torch.zeros(STUDENTS, 1, fan_out)))
    zero, one = torch.zeros, torch.ones
    units = Scaling(zero(WIDTHS[0]), one(WIDTHS[0]), zero(WIDTHS[-1]), one(WIDTHS[-1]))
    return StudentPolicy(Network(WIDTHS), MeanHead(), parameters, units)


def single(students: StudentPolicy, student: int) -> nn.Sequential:
    """One student as the plain module that a reader would write."""
    layers: list[nn.Module] = []
    for weight, bias in students.parameters:
        linear = nn.Linear(weight.shape[2], weight.shape[1])
        linear.weight.data, linear.bias.data = weight[student], bias[student, 0]
        layers += [linear, nn.ReLU()]
    return nn.Sequential(*layers[:-1], nn.Tanh())


def score_batched(students: Any, threads: int) -> Episodes:
    return rollout(
        ENV_ID, students, policies=STUDENTS, episodes=EPISODES, seeds=SEEDS, threads=threads
    )


def score_plainly(students: StudentPolicy) -> Episodes:
    """One environment, one observation a policy call."""
    environment = gymnasium.make(ENV_ID)
    returns = np.zeros((STUDENTS, EPISODES))
    lengths = np.zeros((STUDENTS, EPISODES), dtype=np.int64)
    with torch.no_grad():
        for student in range(STUDENTS):
            policy = single(students, student)
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


@dataclass
class Recorder:
    """Students that note every call, so that the calls can be timed by themselves."""

    students: StudentPolicy
    calls: list[tuple[StudentPolicy, NDArray[np.float32]]] = field(default_factory=list)

    def only(self, policies: NDArray[np.intp]) -> Recorder:
        return Recorder(self.students.only(policies), self.calls)

    def __call__(self, observations: NDArray[np.float32]) -> NDArray[np.float32]:
        self.calls.append((self.students, observations))
        return self.students(observations)


class Steps:
    """MuJoCo's steps of all episodes, so that they can be timed by themselves."""

    def __init__(self, students: StudentPolicy) -> None:
        self.environment: Any = gymnasium.make(ENV_ID).unwrapped
        self.model = self.environment.model
        self.states: list[NDArray[np.float64]] = []
        simulate = self.environment.do_simulation

        def note(control: NDArray[Any], frames: int) -> None:
            self.environment.data.ctrl[:] = control
            self.states.append(np.empty(mujoco.mj_stateSize(self.model, STATE)))
            mujoco.mj_getState(self.model, self.environment.data, self.states[-1], STATE)
            simulate(control, frames)

        self.environment.do_simulation = note
        with torch.no_grad():
            for student in range(STUDENTS):
                for seed in SEEDS:
                    _plain_episode(self.environment, single(students, student), seed)

    def seconds(self, threads: int, *, islands: bool) -> float:
        """Seconds of `mj_step`, with the search for islands as in gymnasium or without."""
        bit = mujoco.mjtDisableBit.mjDSBL_ISLAND.value
        flags = self.model.opt.disableflags & ~bit
        self.model.opt.disableflags = flags if islands else flags | bit
        shares = [self.states[thread::threads] for thread in range(threads)]
        data = [mujoco.MjData(self.model) for _ in shares]
        with ThreadPoolExecutor(threads) as pool:
            return _seconds(lambda: list(pool.map(self._step, data, shares)), threads)

    def _step(self, data: Any, states: list[NDArray[np.float64]]) -> None:
        for state in states:
            mujoco.mj_setState(self.model, data, state, STATE)
            mujoco.mj_step(self.model, data, self.environment.frame_skip)


def _seconds(call: Callable[[], Any], threads: int) -> float:
    """Seconds of a call; CPU seconds on one thread, which other work hardly moves."""
    clock = time.process_time if threads == 1 else time.perf_counter
    began = clock()
    call()
    return clock() - began


@pytest.mark.benchmark(group="scoring")
@pytest.mark.parametrize("threads", [1, os.cpu_count() or 1], ids=["one thread", "all cores"])
def test_scoring_as_one_batch(benchmark: Any, threads: int) -> None:
    """Scores are those of the plain loop; `extra_info` records how much sooner they are there.

    Next to it, in the same rounds and over the same steps, the floors: the plain loop's time over
    that of MuJoCo's steps on as many threads, as gymnasium takes them and as the batch does
    (without islands), and over that of the latter and the policies' calls. Ratios are recorded and
    not asserted: they depend on what else the machine does. Policies run on one thread everywhere,
    so that `threads` is the only parallelism.
    """
    students, rounds = make_students(), 5
    recorder = Recorder(students)
    score_batched(recorder, threads)

    def play_again() -> None:
        for policy, observations in recorder.calls:
            policy(observations)

    with torch_threads(1):
        batched: Episodes = benchmark.pedantic(
            score_batched, args=(students, threads), rounds=rounds
        )
        steps, plain = Steps(students), score_plainly(students)
        times = np.empty((rounds, 5))
        for row in times:  # in turns, because other work on the machine then weighs on all alike
            row[0] = _seconds(lambda: score_plainly(students), threads)
            row[1] = _seconds(lambda: score_batched(students, threads), threads)
            row[2] = steps.seconds(threads, islands=True)
            row[3] = steps.seconds(threads, islands=False)
            row[4] = row[3] + _seconds(play_again, threads)
    ratios = times[:, :1] / times[:, 1:]
    benchmark.extra_info["environment_steps"] = batched.environment_steps
    benchmark.extra_info["mean_episode_length"] = float(batched.lengths.mean())
    benchmark.extra_info["speedups_over_plain_loop"] = ratios[:, 0].round(2).tolist()
    for name, column in zip(
        (
            "median_speedup_over_plain_loop",
            "floor_of_mujoco_steps",
            "floor_of_mujoco_steps_without_islands",
            "floor_of_those_and_policies",
        ),
        ratios.T,
        strict=True,
    ):
        benchmark.extra_info[name] = float(np.median(column))
    assert np.array_equal(batched.lengths, plain.lengths)
    assert np.allclose(batched.returns, plain.returns, rtol=1e-4)
    assert len(steps.states) == batched.environment_steps

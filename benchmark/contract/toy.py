"""Problems that take a method milliseconds: invented transitions of a real environment."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from typing import Any

import gymnasium
import numpy as np
import torch
from torch import Tensor

from benchmark.datasets.dataset import Dataset, ReferenceReturns
from benchmark.environments.lookup import make_batched
from benchmark.scaling import Scaling, action_bounds
from benchmark.students.spec import StudentSpec
from benchmark.teachers.teacher import Layers, NetworkTeacher

CONTINUOUS = "Hopper-v5"
DISCRETE = "CartPole-v1"
TRANSITIONS = 240
EPISODE = 20
STUDENT = StudentSpec(width=8, depth=2, steps=8)


@dataclass(frozen=True)
class Toy:
    """All that a method may be given. Everything in it is made anew by each call of `toy`.

    Args:
        dataset: Normal observations, uniform actions, uniform rewards.
        teacher: Networks of random weights.
        log_density: Of the normal distribution that the observations are from `[M]`, float64.
        scaling: The dataset's; of an empty one, that of a full one.
    """

    dataset: Dataset
    teacher: NetworkTeacher
    log_density: Tensor
    scaling: Scaling


def toy(env_id: str = CONTINUOUS, transitions: int = TRANSITIONS) -> Toy:
    """The toy problem of an environment, the same one at every call.

    Args:
        env_id: Gymnasium id.
        transitions: A multiple of 20, in episodes of 20; 0 is a dataset without any.
    """
    dataset = _dataset(env_id, transitions)
    _, space = _spaces(env_id)
    full = dataset if transitions else _dataset(env_id, TRANSITIONS)
    normal = torch.distributions.Normal(torch.zeros((), dtype=torch.float64), 1.0)
    density = normal.log_prob(torch.from_numpy(dataset.observations).double())  # type: ignore[no-untyped-call]
    return Toy(
        dataset,
        _teacher(dataset.observation_dim, dataset.action_dim),
        density.sum(1),
        Scaling.of(full, space),
    )


@cache
def _spaces(env_id: str) -> tuple[int, gymnasium.Space[Any]]:
    environment = make_batched(env_id, 1)
    try:
        return environment.observation_dim, environment.action_space
    finally:
        environment.close()


def _dataset(env_id: str, transitions: int) -> Dataset:
    rng = np.random.default_rng(0)
    width, space = _spaces(env_id)
    low, high = action_bounds(space)
    episodes = transitions // EPISODE
    if isinstance(space, gymnasium.spaces.Discrete):
        actions = np.eye(len(low), dtype=np.float32)[rng.integers(len(low), size=transitions)]
    else:
        actions = rng.uniform(low, high, (transitions, len(low))).astype(np.float32)
    return Dataset(
        name=f"toy/{env_id}",
        env_id=env_id,
        states=rng.standard_normal((transitions + episodes, width)).astype(np.float32),
        actions=actions,
        rewards=rng.uniform(size=transitions).astype(np.float32),
        terminations=np.zeros(transitions, dtype=bool),
        truncations=np.arange(1, transitions + 1) % EPISODE == 0,
        lengths=np.full(episodes, EPISODE),
        reference=ReferenceReturns(random=0.0, expert=100.0),
    )


def _teacher(observation_dim: int, action_dim: int) -> NetworkTeacher:
    generator = torch.Generator().manual_seed(0)

    def layers(*widths: int, lead: tuple[int, ...] = ()) -> Layers:
        return [
            (
                torch.randn(*lead, after, before, generator=generator) / before**0.5,
                torch.zeros(*lead, after),
            )
            for before, after in pairwise(widths)
        ]

    return NetworkTeacher(
        actor=layers(observation_dim, 8, action_dim),
        critics=layers(observation_dim + action_dim, 8, 1, lead=(2,)),
        observation_mean=torch.zeros(observation_dim),
        observation_std=torch.ones(observation_dim),
        action_noise="exploration",
        facts={"recipe": "toy"},
    )

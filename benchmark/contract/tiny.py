"""A problem and hyper-parameters so small that a run of a method takes milliseconds.

The problems are invented transitions of a real environment.
"""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium.spaces import Box
from torch import Tensor

from benchmark.config import BadConfiguration, build
from benchmark.datasets.dataset import Dataset, ReferenceReturns
from benchmark.environments.lookup import make_batched
from benchmark.errors import ObdBenchError, did_you_mean
from benchmark.method import Method
from benchmark.scaling import Scaling, action_bounds
from benchmark.students.spec import StudentSpec
from benchmark.teachers.teacher import Layers, NetworkTeacher

CONTINUOUS = "Hopper-v5"
DISCRETE = "CartPole-v1"
TRANSITIONS = 240
EPISODE = 20
STUDENT = StudentSpec(width=8, depth=2, steps=8)
VALUE = 5.0
"""Mean action value of the toy teacher; values of real teachers are positive."""

TINY = {
    "synthetic_size": 6,
    "outer_steps": 4,
    "outer_batch": 8,
    "steps": 6,
    "inner_steps": 4,
    "batch_size": 8,
    "iterations": 4,
    "epochs": 2,
    "population": 4,
    "generations": 4,
    "episodes_per_policy": 1,
    "max_steps": 20,
    "window": 2,
    "stages": 2,
}
"""Values of hyper-parameters that have these names in any method. A field whose default is smaller
keeps it. Others that a method needs, it names in `tiny: ClassVar[Mapping[str, Any]]`."""


class CannotBeMade(ObdBenchError):
    """The refusal by a method of the hyper-parameters that it is checked with."""


def tiny_method(method: Method | type[Method], settings: Mapping[str, Any]) -> Method:
    """Make a method as small as it can be; settings override its own `tiny`, and that `TINY`.

    Raises:
        CannotBeMade: The method refuses these values.
    """
    kind = method if isinstance(method, type) else type(method)
    own: Mapping[str, Any] = getattr(kind, "tiny", {})
    hints = typing.get_type_hints(kind)
    named = {
        field.name: _smaller(TINY[field.name], getattr(method, field.name, None))
        for field in dataclasses.fields(kind)
        if field.name in TINY and _takes_a_number(hints[field.name])
    }
    values = {**named, **own, **settings}
    try:
        return build(method, values, f"{kind.__name__}.tiny or --set")
    except Exception as error:  # a method may refuse in any way
        raise CannotBeMade(
            f"{error} It was made with {values}. Where a method needs other values to be tiny, it "
            f"names them in `tiny: ClassVar[Mapping[str, Any]]`; --set gives them for one check."
        ) from error


def require_parameters(kind: type[Method], settings: Mapping[str, Any]) -> None:
    """Raise BadConfiguration where a setting is not one of the method's hyper-parameters."""
    names = [field.name for field in dataclasses.fields(kind) if field.init]
    for key in settings:
        if key not in names:
            raise BadConfiguration(
                f"{kind.__name__} has no parameter {key!r}. {did_you_mean(key, names)}"
            )


def _smaller(tiny: int, default: Any) -> int:
    return min(tiny, default) if isinstance(default, int) else tiny


def _takes_a_number(hint: Any) -> bool:
    return hint is int or int in typing.get_args(hint)


@dataclass(frozen=True)
class Toy:
    """A problem's data, teacher and log density; each call of `toy` makes all of them anew.

    Args:
        dataset: Normal observations, uniform actions, uniform rewards.
        teacher: Networks of random weights.
        log_density: Log density of the observations under the normal distribution that they were
            drawn from `[M]`, float64.
        scaling: Scaling of the dataset; for an empty one, that of a full one.
    """

    dataset: Dataset
    teacher: NetworkTeacher
    log_density: Tensor
    scaling: Scaling


def toy(env_id: str = CONTINUOUS, transitions: int = TRANSITIONS) -> Toy:
    """Make the toy problem of an environment, with the same numbers at every call.

    Args:
        env_id: Gymnasium id.
        transitions: Number of transitions, a multiple of 20, in episodes of 20; may be 0.
    """
    dataset = _dataset(env_id, transitions)
    _, space = _spaces(env_id)
    full = dataset if transitions else _dataset(env_id, TRANSITIONS)
    normal = torch.distributions.Normal(torch.zeros((), dtype=torch.float64), 1.0)
    density = normal.log_prob(torch.from_numpy(dataset.observations).double())  # type: ignore[no-untyped-call]
    return Toy(
        dataset,
        random_teacher(dataset.observation_dim, dataset.action_dim),
        density.sum(1),
        Scaling.of(full, space),
    )


def toy_in_other_units() -> Toy:
    """Make the toy problem with observations and actions that are far from normalised ones.

    Observations lie around 20 standard deviations, and actions in [2, 3], [4, 6] or [8, 12]: a set
    in the units that students learn in is then nowhere near the data.
    """
    plain = toy()
    widths = plain.dataset.observation_dim, plain.dataset.action_dim
    std, half_range = (np.resize(np.array([0.5, 1.0, 2.0], np.float32), width) for width in widths)
    dataset = dataclasses.replace(
        plain.dataset,
        states=(plain.dataset.states + 20) * std,
        actions=(plain.dataset.actions + 5) * half_range,
    )
    teacher = dataclasses.replace(
        plain.teacher,
        observation_mean=torch.from_numpy(20 * std),
        observation_std=torch.from_numpy(std),
    )
    scaling = Scaling.of(dataset, Box(4 * half_range, 6 * half_range))
    return Toy(dataset, teacher, plain.log_density, scaling)


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


def random_teacher(observation_dim: int, action_dim: int, seed: int = 0) -> NetworkTeacher:
    """A teacher of random weights, of raw observations that are normal; its values are positive."""
    generator = torch.Generator().manual_seed(seed)

    def layers(*widths: int, lead: tuple[int, ...] = ()) -> Layers:
        return [
            (
                torch.randn(*lead, after, before, generator=generator) / before**0.5,
                torch.zeros(*lead, after),
            )
            for before, after in pairwise(widths)
        ]

    critics = layers(observation_dim + action_dim, 8, 1, lead=(2,))
    critics[-1][1].fill_(VALUE)
    return NetworkTeacher(
        actor=layers(observation_dim, 8, action_dim),
        critics=critics,
        observation_mean=torch.zeros(observation_dim),
        observation_std=torch.ones(observation_dim),
        action_noise="exploration",
        facts={"recipe": "toy"},
    )

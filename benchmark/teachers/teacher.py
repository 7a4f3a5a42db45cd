"""The teacher: the near-expert policy and action-value function extracted from a dataset.

This file holds what a teacher is, the measurement of its return, and the interface of the recipes
that train one.
"""

from __future__ import annotations

import contextlib
import typing
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from benchmark.datasets.dataset import Dataset, ReferenceReturns
from benchmark.environments.contacts import contact_rule
from benchmark.environments.lookup import make_batched
from benchmark.environments.rollout import Episodes, rollout
from benchmark.errors import ObdBenchError
from benchmark.registry import Registry
from benchmark.scaling import action_bounds
from benchmark.seeds import episode_seeds

ActionNoise = Literal["gaussian", "additive", "exploration"]

Layers = list[tuple[Tensor, Tensor]]
"""Weight `[out, in]` and bias `[out]` of every linear layer, first to last."""


class TeacherProblem(ObdBenchError):
    """A teacher that is missing, malformed or does not fit its dataset."""


class Teacher(typing.Protocol):
    """A policy and its action value, on raw observations and actions in the unit box [-1, 1]."""

    observation_dim: int
    action_dim: int

    def act(self, observations: Tensor) -> Tensor:
        """Deterministic actions `[B, act_dim]` for raw observations `[B, obs_dim]`."""

    def sample(self, observations: Tensor, generator: torch.Generator) -> Tensor:
        """Actions `[B, act_dim]` drawn from the policy."""

    def q(self, observations: Tensor, actions: Tensor) -> Tensor:
        """Action value `[B]`: the discounted sum of rewards, in the environment's reward unit."""


@dataclass(frozen=True)
class NetworkTeacher:
    """A ReLU actor with tanh actions and one or more ReLU critics, on normalised observations.

    Args:
        actor: `(weight [out, in], bias [out])` of every layer. A Gaussian actor's last layer gives
            means and raw log standard deviations.
        critics: `(weight [C, out, in], bias [C, out])` of every layer, for C critics; `q` is the
            value of the first, because the published OBD code weights with that one.
        observation_mean: Mean `[obs_dim]` to subtract from observations.
        observation_std: Standard deviation `[obs_dim]` to divide them by afterwards.
        action_noise: How `sample` draws. "gaussian": tanh(mean + std * noise) with the actor's own
            std; "additive": tanh(mean) + std * noise, clipped to [-1, 1]; "exploration": the
            deterministic action + N(0, 0.1^2), clipped, as TD3 explores.
        facts: Provenance as JSON values: recipe, dataset, seed, steps, returns.
        log_std_multiplier: Factor of the raw log standard deviation; learned by CORL's policies.
        log_std_offset: Added to it afterwards; -1 is where CORL's policies start.
    """

    actor: Layers = field(repr=False)
    critics: Layers = field(repr=False)
    observation_mean: Tensor = field(repr=False)
    observation_std: Tensor = field(repr=False)
    action_noise: ActionNoise
    facts: Mapping[str, Any]
    log_std_multiplier: float = 1.0
    log_std_offset: float = -1.0

    EXPLORATION_STD = 0.1
    BLOCK = 1 << 14  # states

    @property
    def observation_dim(self) -> int:
        return int(self.observation_mean.shape[0])

    @property
    def action_dim(self) -> int:
        outputs = int(self.actor[-1][1].shape[0])  # means, then log standard deviations if any
        return outputs if self.action_noise == "exploration" else outputs // 2

    @torch.no_grad()
    def act(self, observations: Tensor) -> Tensor:
        """Deterministic actions `[B, act_dim]` for raw observations `[B, obs_dim]`."""
        return self.mode(observations)

    def mode(self, observations: Tensor) -> Tensor:
        """The same for raw observations `[..., obs_dim]`; autograd can follow it."""
        return self._actor_outputs(observations)[..., : self.action_dim].tanh()

    @torch.no_grad()
    def sample(self, observations: Tensor, generator: torch.Generator) -> Tensor:
        """Actions `[B, act_dim]` drawn from the policy.

        A dataset's states are often asked for at once: hidden layers never hold them all.
        """
        blocks = torch.split(observations, self.BLOCK)
        outputs = torch.cat([self._actor_outputs(block) for block in blocks])
        mean = outputs[:, : self.action_dim]
        noise = torch.randn(mean.shape, generator=generator)
        if self.action_noise == "exploration":
            return (mean.tanh() + self.EXPLORATION_STD * noise).clamp(-1, 1)
        raw = outputs[:, self.action_dim :]
        log_std = (self.log_std_multiplier * raw + self.log_std_offset).clamp(-20, 2)
        if self.action_noise == "additive":
            return (mean.tanh() + log_std.exp() * noise).clamp(-1, 1)
        return (mean + log_std.exp() * noise).tanh()

    @torch.no_grad()
    def q(self, observations: Tensor, actions: Tensor) -> Tensor:
        """Action value `[B]` of the first critic."""
        hidden = torch.cat((self._normalise(observations), actions), dim=1)
        return _mlp([(weight[0], bias[0]) for weight, bias in self.critics], hidden)[:, 0]

    def check_fit(self, observation_dim: int, action_dim: int, name: str) -> None:
        """Raise TeacherProblem unless these are the teacher's dimensions; `name` has them."""
        if (self.observation_dim, self.action_dim) != (observation_dim, action_dim):
            raise TeacherProblem(
                f"The teacher takes {self.observation_dim} observations and gives "
                f"{self.action_dim} actions; {name} has {observation_dim} and {action_dim}. Use a "
                f"teacher that was trained for it or imported for it."
            )

    def _actor_outputs(self, observations: Tensor) -> Tensor:
        return _mlp(self.actor, self._normalise(observations))

    def _normalise(self, observations: Tensor) -> Tensor:
        return (observations - self.observation_mean) / self.observation_std


def _mlp(layers: Layers, hidden: Tensor) -> Tensor:
    for index, (weight, bias) in enumerate(layers):
        hidden = torch.nn.functional.linear(hidden, weight, bias)
        if index + 1 < len(layers):
            hidden = hidden.relu()
    return hidden


def play_teacher(
    teacher: NetworkTeacher, env_id: str, episodes: int, seed: int, threads: int = 1
) -> Episodes:
    """Play whole episodes `[1, E]` with the teacher's deterministic action.

    Arguments and errors as those of `evaluate_teacher`.
    """
    if episodes < 1:
        raise ValueError(f"episodes is {episodes}, expected at least 1.")
    center, half_range = _action_bounds(teacher, env_id)

    def policy(observations: NDArray[np.float32]) -> NDArray[np.float32]:
        actions: NDArray[np.float32] = teacher.act(torch.from_numpy(observations[0])).numpy()
        return (actions * half_range + center)[None]

    return rollout(
        env_id,
        policy,
        policies=1,
        episodes=episodes,
        seeds=episode_seeds(episodes, purpose="teacher evaluation", environment=env_id, seed=seed),
        threads=threads,
    )


def evaluate_teacher(
    teacher: NetworkTeacher,
    env_id: str,
    reference: ReferenceReturns,
    episodes: int,
    seed: int,
    threads: int = 1,
) -> dict[str, float]:
    """Play whole episodes with the teacher's deterministic action.

    Args:
        teacher: The policy; its actions in the unit box are mapped to the environment's bounds.
        env_id: Exact gymnasium id.
        reference: Random and expert return, which normalized returns are relative to.
        episodes: Number of episodes, stepped as one batch.
        seed: Seed of the episodes' first states.
        threads: Threads that step the environments; the results do not depend on it.

    Returns:
        `return` (mean), `return_sd` (standard deviation over the episodes), `normalized_return`,
        `episodes`.

    Raises:
        TeacherProblem: The teacher's dimensions are not the environment's.
        UnknownEnvironment, UnsupportedSpace, NoTimeLimit: See `rollout`.
        ValueError: `episodes` is below one.
    """
    returns = play_teacher(teacher, env_id, episodes, seed, threads).returns
    mean = float(returns.mean())
    return {
        "return": mean,
        "return_sd": float(returns.std()),
        "normalized_return": float(reference.normalise(mean)),
        "episodes": episodes,
    }


def measured_return(facts: Mapping[str, Any]) -> Mapping[str, Any]:
    """What `evaluate_teacher` found, from a teacher's facts; empty where it is not known.

    Nor is it known where the environment's contacts are others now (see `contact_rule`).
    """
    if facts.get("contacts") != contact_rule(facts.get("environment")):
        return {}
    return facts.get("evaluation") or {}


def _action_bounds(
    teacher: NetworkTeacher, env_id: str
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Check that the teacher fits; give the center and half range of each action `[act_dim]`."""
    with contextlib.closing(make_batched(env_id, 1)) as environment:
        space, observation_dim = environment.action_space, environment.observation_dim
    low, high = action_bounds(space)
    teacher.check_fit(observation_dim, len(low), env_id)
    center, half_range = (high + low) / 2, (high - low) / 2
    return center.astype(np.float32), half_range.astype(np.float32)


TrainingProgress = Callable[[int, int, dict[str, float], float | None], None]
"""Called with (steps done, all steps, losses by name, normalized return or None)."""


@dataclass(frozen=True)
class TeacherRecipe(ABC):
    """An offline RL algorithm with its settings; subclasses are frozen dataclasses.

    Args:
        report_every: Gradient steps between saved states, progress reports and evaluations.
    """

    report_every: int = 5_000

    @abstractmethod
    def train(
        self,
        dataset: Dataset,
        seed: int,
        *,
        state: Path | None = None,
        progress: TrainingProgress | None = None,
        evaluate: Callable[[NetworkTeacher], float] | None = None,
        device: str = "cpu",
    ) -> NetworkTeacher:
        """Train a teacher; the same dataset content, settings and seed give the same teacher.

        Args:
            dataset: The only transitions that the training sees.
            seed: Seed of initialisation and minibatches.
            state: File of the training's state, from which a killed training goes on; None keeps
                no state.
            progress: Callback at every report.
            evaluate: Function from a teacher to its normalized return, for the reports.
            device: Torch device of the training; the teacher is returned on the CPU.
        """


TEACHERS: Registry[type[TeacherRecipe]] = Registry(
    "teacher recipe",
    "obdbench.teachers",
    TeacherRecipe,  # type: ignore[arg-type]
)

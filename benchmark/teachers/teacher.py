"""The teacher: the near-expert policy and action-value function extracted from a dataset.

Here is what a teacher is, what its policy earns, and what a recipe of the registry that trains one
has to offer.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from benchmark.datasets.dataset import Dataset, ReferenceReturns
from benchmark.environments.lookup import make_batched
from benchmark.environments.rollout import rollout
from benchmark.errors import ObdBenchError
from benchmark.registry import Registry
from benchmark.scaling import action_bounds
from benchmark.seeds import episode_seeds

Layers = list[tuple[Tensor, Tensor]]
"""Weight and bias of every layer, first to last."""


class TeacherProblem(ObdBenchError):
    """A teacher that is missing, malformed or does not fit its dataset."""


class Teacher(Protocol):
    """A policy and its action value, on raw observations and actions in the unit box [-1, 1]."""

    observation_dim: int
    action_dim: int

    def act(self, observations: Tensor) -> Tensor:
        """Deterministic actions `[B, act_dim]` for raw observations `[B, obs_dim]`."""
        ...

    def sample(self, observations: Tensor, generator: torch.Generator) -> Tensor:
        """Actions `[B, act_dim]` drawn from the policy."""
        ...

    def q(self, observations: Tensor, actions: Tensor) -> Tensor:
        """Action value `[B]`, in undiscounted reward units per step discounted by the recipe."""
        ...


@dataclass(frozen=True)
class NetworkTeacher:
    """A ReLU actor with tanh actions and one or more ReLU critics, on normalised observations.

    Args:
        actor: `(weight [out, in], bias [out])` of every layer. A Gaussian actor's last layer gives
            means and raw log standard deviations.
        critics: `(weight [C, out, in], bias [C, out])` of every layer, for C critics; `q` is the
            first one's, which is the one the published OBD code weights with.
        observation_mean: Subtracted from observations `[obs_dim]`.
        observation_std: Divides them afterwards `[obs_dim]`.
        action_noise: "gaussian" draws tanh(mean + std * noise) with the actor's own std;
            "additive" tanh(mean) + std * noise, clipped; "exploration" adds clipped N(0, 0.1^2)
            to the deterministic action, as TD3 does.
        facts: What is known of it: recipe, dataset, seed, steps, returns. JSON values.
    """

    actor: Layers = field(repr=False)
    critics: Layers = field(repr=False)
    observation_mean: Tensor = field(repr=False)
    observation_std: Tensor = field(repr=False)
    action_noise: Literal["gaussian", "additive", "exploration"]
    facts: Mapping[str, Any]
    log_std_multiplier: float = 1.0
    log_std_offset: float = -1.0

    EXPLORATION_STD = 0.1

    @property
    def observation_dim(self) -> int:
        return int(self.observation_mean.shape[0])

    @property
    def action_dim(self) -> int:
        outputs = int(self.actor[-1][1].shape[0])
        return outputs if self.action_noise == "exploration" else outputs // 2

    @torch.no_grad()
    def act(self, observations: Tensor) -> Tensor:
        """Deterministic actions `[B, act_dim]` for raw observations `[B, obs_dim]`."""
        return self._actor_outputs(observations)[:, : self.action_dim].tanh()

    @torch.no_grad()
    def sample(self, observations: Tensor, generator: torch.Generator) -> Tensor:
        """Actions `[B, act_dim]` drawn from the policy."""
        outputs = self._actor_outputs(observations)
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


def evaluate_teacher(
    teacher: NetworkTeacher,
    env_id: str,
    reference: ReferenceReturns,
    episodes: int,
    seed: int,
    threads: int = 1,
) -> dict[str, float]:
    """Plays whole episodes with the teacher's deterministic action.

    Args:
        teacher: Acts in the unit box, which is mapped to the environment's bounds.
        env_id: Exact gymnasium id.
        reference: Returns that normalisation stands on.
        episodes: How many, stepped as one batch.
        seed: Of the episodes' first states.
        threads: That step the environments; the results do not depend on it.

    Returns:
        `return` (mean), `return_sd` (over these episodes), `normalized_return`, `episodes`.

    Raises:
        TeacherProblem: The teacher's dimensions are not the environment's.
        UnknownEnvironment, UnsupportedSpace, NoTimeLimit: See `rollout`.
        ValueError: `episodes` is below one.
    """
    if episodes < 1:
        raise ValueError(f"episodes is {episodes}, expected at least 1.")
    center, half_range = _action_bounds(teacher, env_id)

    def policy(observations: NDArray[np.float32]) -> NDArray[np.float32]:
        actions: NDArray[np.float32] = teacher.act(torch.from_numpy(observations[0])).numpy()
        return (actions * half_range + center)[None]

    returns = rollout(
        env_id,
        policy,
        policies=1,
        episodes=episodes,
        seeds=episode_seeds(episodes, purpose="teacher evaluation", environment=env_id, seed=seed),
        threads=threads,
    ).returns
    mean = float(returns.mean())
    return {
        "return": mean,
        "return_sd": float(returns.std()),
        "normalized_return": float(reference.normalise(mean)),
        "episodes": episodes,
    }


def _action_bounds(
    teacher: NetworkTeacher, env_id: str
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Center and half range of each action `[act_dim]`, once the teacher is known to fit."""
    environment = make_batched(env_id, 1)
    try:
        space, observation_dim = environment.action_space, environment.observation_dim
    finally:
        environment.close()
    low, high = action_bounds(space)
    found = (teacher.observation_dim, teacher.action_dim)
    expected = (observation_dim, len(low))
    if found != expected:
        raise TeacherProblem(
            f"The teacher takes {found[0]} observations and gives {found[1]} actions; {env_id} has "
            f"{expected[0]} and {expected[1]}. Evaluate it where its dataset comes from."
        )
    center, half_range = (high + low) / 2, (high - low) / 2
    return center.astype(np.float32), half_range.astype(np.float32)


TrainingProgress = Callable[[int, int, dict[str, float], float | None], None]
"""Called with (step, of how many, losses by name, normalized return or None)."""


@dataclass(frozen=True)
class TeacherRecipe(ABC):
    """Offline RL from a dataset to a teacher. Subclasses are frozen dataclasses of settings.

    Args:
        report_every: Steps between saved states, progress reports and evaluations.
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
        """Trains a teacher; the same dataset content, settings and seed give the same teacher.

        Args:
            dataset: What to learn from; nothing else is seen.
            seed: Of initialisation and minibatches.
            state: File that the training state is kept in: a killed training goes on from there.
            progress: Called at every report.
            evaluate: Gives a teacher's normalized return, for the reports.
            device: A torch device.
        """


TEACHERS: Registry[type[TeacherRecipe]] = Registry(
    "teacher recipe",
    "obdbench.teachers",
    TeacherRecipe,  # type: ignore[arg-type]
)

"""The suite's own datasets, collected here: from policy snapshots that it ships, or a controller.

Three environments times D4RL's three mixtures (arXiv 2004.07219, Section 5), and CartPole for
discrete actions. A controller written by hand spares a new environment the training run.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from numpy.typing import NDArray

from benchmark.datasets.collect import Part, collect
from benchmark.datasets.dataset import Dataset, OnProgress, ReferenceReturns
from benchmark.datasets.snapshots import SnapshotPolicies, load_snapshots
from benchmark.datasets.source import DatasetSource
from benchmark.environments.lookup import action_space
from benchmark.scaling import action_bounds

Controller = Callable[[NDArray[np.float64]], NDArray[np.float64]]
"""Actions `[B, act_dim]` for observations `[B, obs_dim]`; for discrete actions scores `[B, n]`."""


@dataclass(frozen=True)
class SnapshotMixture(DatasetSource):
    """Episodes with sampled actions of policy snapshots.

    Args:
        environment: Name of the snapshots, e.g. `hopper`.
        description: One sentence.
        shares: Gives each snapshot its share of the transitions; the shares sum to 1.
        default_size: Transitions when no size is asked for.
        folder: Folder of the snapshots (`obdbench data train-policies`); None for shipped ones.
    """

    environment: str
    description: str
    shares: Callable[[SnapshotPolicies], dict[int, float]]
    default_size: int = 200_000
    folder: Path | None = None

    @property
    def environment_id(self) -> str | None:
        return load_snapshots(self.environment, self.folder).env_id

    def build(
        self, name: str, size: int | None, seed: int, threads: int, progress: OnProgress | None
    ) -> Dataset:
        size = self.default_size if size is None else size
        policies = load_snapshots(self.environment, self.folder)
        parts, given, total = [], 0, 0.0
        for snapshot, share in self.shares(policies).items():
            total += share
            upto = round(size * total)  # of the running total, so that the parts sum to `size`
            parts.append(Part(snapshot, upto - given))
            given = upto
        # Every slot plays its episode to the end: more slots than the data has episodes are waste.
        slots = min(64, 1 + size // 1000)
        return collect(
            name, policies, parts, seed=seed, slots=slots, threads=threads, progress=progress
        )


def replay(policies: SnapshotPolicies) -> dict[int, float]:
    """Equal shares of the snapshots up to the medium policy, equally spaced in training."""
    return {snapshot: 1 / len(policies.replay) for snapshot in policies.replay}


def medium(policies: SnapshotPolicies) -> dict[int, float]:
    """Only the medium policy."""
    return {policies.medium: 1.0}


def medium_expert(policies: SnapshotPolicies) -> dict[int, float]:
    """Half the medium policy, half the best snapshot."""
    return {policies.medium: 0.5, policies.best: 0.5}


@dataclass(frozen=True)
class NoisyController:
    """A controller at several levels of noise, each as one policy (see `collect.ActingPolicies`).

    Args:
        env_id: Exact gymnasium id.
        controller: Gives the actions without noise.
        noise: Standard deviation of the Gaussian noise that each policy adds.
        reference: Returns of the random policy and of an expert.
        space: Action space of the environment.
    """

    env_id: str
    controller: Controller
    noise: tuple[float, ...]
    reference: ReferenceReturns
    space: gymnasium.Space[Any]

    @property
    def action_dim(self) -> int:
        return len(action_bounds(self.space)[0])

    def act(
        self,
        policies: NDArray[np.int64],
        observations: NDArray[np.float64],
        noise: NDArray[np.float32],
    ) -> NDArray[np.float32]:
        """The controller's action plus noise, clipped to the bounds; scores are not clipped."""
        levels = np.asarray(self.noise, dtype=np.float32)[policies]
        actions = self.controller(observations).astype(np.float32) + levels[:, None] * noise
        if isinstance(self.space, gymnasium.spaces.Discrete):
            return actions
        return actions.clip(*action_bounds(self.space))


@dataclass(frozen=True)
class ScriptedMixture(DatasetSource):
    """Equal shares of one controller at several levels of noise.

    Args:
        env_id: Exact gymnasium id.
        description: One sentence.
        controller: Gives the actions without noise.
        noise: Standard deviation of the noise, one per share.
        reference: Returns of the random policy and of an expert.
        default_size: Transitions when no size is asked for.
    """

    env_id: str
    description: str
    controller: Controller
    noise: tuple[float, ...]
    reference: ReferenceReturns
    default_size: int = 50_000

    @property
    def environment_id(self) -> str | None:
        return self.env_id

    def build(
        self, name: str, size: int | None, seed: int, threads: int, progress: OnProgress | None
    ) -> Dataset:
        size = self.default_size if size is None else size
        policies = NoisyController(
            self.env_id, self.controller, self.noise, self.reference, action_space(self.env_id)
        )
        upto = [size * i // len(self.noise) for i in range(len(self.noise) + 1)]
        parts = [Part(i, upto[i + 1] - upto[i]) for i in range(len(self.noise))]
        slots = min(16, 1 + size // 500)
        return collect(
            name, policies, parts, seed=seed, slots=slots, threads=threads, progress=progress
        )


def balance(observations: NDArray[np.float64]) -> NDArray[np.float64]:
    """CartPole: scores for pushing left and right, towards where the pole is falling.

    Observations are the cart's position and velocity, the pole's angle and angular velocity
    `[B, 4]`. Without noise the return is the highest possible, 500.
    """
    right = observations @ np.array([0.1, 0.3, 3.0, 1.0])
    return np.stack([-right, right], axis=1)


def _three_mixtures(environment: str, env_id: str) -> tuple[SnapshotMixture, ...]:
    """The mixtures of one environment: medium-replay, medium, medium-expert."""
    described = (
        (replay, "the PPO snapshots up to the medium policy, in training proportion"),
        (medium, "the medium policy, whose return is 40 to 45 % of the best one's"),
        (medium_expert, "half the medium policy, half the best snapshot"),
    )
    return tuple(
        SnapshotMixture(environment, f"{env_id}: {what}", shares) for shares, what in described
    )


HALFCHEETAH_MEDIUM_REPLAY, HALFCHEETAH_MEDIUM, HALFCHEETAH_MEDIUM_EXPERT = _three_mixtures(
    "halfcheetah", "HalfCheetah-v5"
)
HOPPER_MEDIUM_REPLAY, HOPPER_MEDIUM, HOPPER_MEDIUM_EXPERT = _three_mixtures("hopper", "Hopper-v5")
WALKER2D_MEDIUM_REPLAY, WALKER2D_MEDIUM, WALKER2D_MEDIUM_EXPERT = _three_mixtures(
    "walker2d", "Walker2d-v5"
)
CARTPOLE_MIXED = ScriptedMixture(
    "CartPole-v1",
    "CartPole-v1, discrete actions: a hand-written controller at three levels of noise",
    controller=balance,
    noise=(0.5, 1.0, 2.0),
    # Uniformly random actions: 22.7 +- 0.3 over 2,000 episodes. 500 is the most there is.
    reference=ReferenceReturns(random=22.7, expert=500.0),
)

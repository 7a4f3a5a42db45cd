"""TD3+BC (Fujimoto & Gu 2021, "A Minimalist Approach to Offline Reinforcement Learning").

TD3 on the dataset, with a behavioural-cloning term in the actor's loss:

    critic loss = mean (r + discount min Q_target(s', a') - Q(s, a))^2,
        a' = clip(pi_target(s') + clipped noise)                       (TD3, Algorithm 1)
    actor loss = -lambda mean Q(s, pi(s)) + mean (pi(s) - a)^2         (eq. 3)
    lambda = alpha / mean |Q|                                          (eq. 5)

TD3 is Fujimoto, van Hoof & Meger 2018, "Addressing Function Approximation Error in Actor-Critic
Methods".
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import ClassVar

import torch

from benchmark.datasets.dataset import Dataset
from benchmark.teachers.offline import (
    Critics,
    Draws,
    Learner,
    OfflineRecipe,
    Optimised,
    Transitions,
    layers_of,
    mlp,
)
from benchmark.teachers.teacher import NetworkTeacher


@dataclass(frozen=True)
class TD3BC(OfflineRecipe):
    """The TD3+BC recipe; all defaults but the number of steps and the decay are the paper's.

    Args:
        alpha: Weight of the action value relative to cloning (eq. 5).
        policy_noise: Standard deviation of the noise that smooths the target policy.
        noise_clip: Bound of the absolute value of that noise.
        policy_delay: Critic steps per actor step.
    """

    alpha: float = 2.5
    policy_noise: float = 0.2
    noise_clip: float = 0.5
    policy_delay: int = 2

    name: ClassVar[str] = "td3_bc"

    def learner(self, dataset: Dataset, seed: int, device: str) -> Learner:
        return TD3BCLearner(self, dataset, seed, device)


class TD3BCLearner(Learner):
    """The networks of TD3+BC and its gradient step."""

    recipe: TD3BC

    def build(self, observation_dim: int, action_dim: int) -> Optimised:
        width, rate = self.recipe.width, self.recipe.learning_rate
        self.actor = mlp(observation_dim, width, action_dim)
        self.critics = Critics(observation_dim + action_dim, width)
        self.target_actor, self.target_critics = map(copy.deepcopy, (self.actor, self.critics))
        return {
            "actor": (list(self.actor.parameters()), rate),
            "critics": (list(self.critics.parameters()), rate),
        }

    def phase(self, step: int) -> int:
        return int(step % self.recipe.policy_delay == 0)

    def draw(self, step: int) -> Draws:
        rows = self.rows()
        return {"rows": rows, "smoothing": self.noise(len(rows), self.dataset.action_dim)}

    def advance(self, step: int, draws: Draws) -> None:
        recipe, batch = self.recipe, self.batch(draws["rows"])
        with torch.no_grad():
            # Smoothing: similar actions should have similar values, so a sharp peak of Q cannot
            # be exploited. The smaller of two critics counters overestimation.
            noise = draws["smoothing"] * recipe.policy_noise
            noise = noise.clamp(-recipe.noise_clip, recipe.noise_clip)
            following = (self.target_actor(batch.next_observations).tanh() + noise).clamp(-1, 1)
            value = self.target_critics(batch.next_observations, following).amin(0)  # [2, B] -> [B]
            target = batch.rewards + recipe.discount * batch.continues * value
        error = self.critics(batch.observations, batch.actions) - target  # [2, B]
        self.update("critics", error.square().mean(1).sum())
        if self.phase(step):
            self._advance_actor(batch)

    def _advance_actor(self, batch: Transitions) -> None:
        policy = self.actor(batch.observations).tanh()
        value = self.critics(batch.observations, policy, count=1)[0]  # the first critic's [B]
        # lambda of eq. 5; |Q| is that of the policy's own actions, as in the authors' code
        scale = self.recipe.alpha / value.abs().mean().detach()
        self.update("actor", (policy - batch.actions).square().mean() - scale * value.mean())
        # The targets move only when the actor does: between its steps the critics' goal is fixed.
        self.follow(self.target_actor, self.actor)
        self.follow(self.target_critics, self.critics)

    def teacher(self, step: int) -> NetworkTeacher:
        actor, critics = layers_of(self.actor), self.critics.layers()
        return self.scaled_teacher(step, actor, critics, "exploration")

"""IQL (Kostrikov, Nair & Levine 2022, "Offline Reinforcement Learning with Implicit Q-Learning").

The value of a state is an upper expectile of the values of the dataset's actions in that state, so
no action outside the dataset is ever valued; the policy is advantage-weighted behavioural cloning:

    V loss = mean |tau - 1(u < 0)| u^2,  u = min Q_target(s, a) - V(s)      (eq. 5)
    Q loss = mean (r + discount V(s') - Q(s, a))^2                          (eq. 6)
    policy loss = -mean exp(beta u) log pi(a | s)                           (eq. 7)
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from benchmark.datasets.dataset import Dataset
from benchmark.teachers.offline import (
    Critics,
    Draws,
    Learner,
    OfflineRecipe,
    Optimised,
    layers_of,
    mlp,
)
from benchmark.teachers.teacher import Layers, NetworkTeacher

LOG_STD_BOUNDS = (-5.0, 2.0)
"""Bounds of the policy's log standard deviation, as in the authors' code."""


@dataclass(frozen=True)
class IQL(OfflineRecipe):
    """The IQL recipe; all defaults but steps and decay are the paper's for MuJoCo.

    Args:
        expectile: tau of eq. 5; 0.5 gives the mean, 1 the maximum over the dataset's actions.
        temperature: beta of eq. 7; 0 gives behavioural cloning.
        largest_weight: Upper bound of exp(beta u), as in the authors' code.
        return_range: Range of the dataset's returns after the rewards are scaled, as in the
            authors' code for MuJoCo; the teacher's action values are scaled back.
    """

    expectile: float = 0.7
    temperature: float = 3.0
    largest_weight: float = 100.0
    return_range: float = 1000.0

    name: ClassVar[str] = "iql"

    def learner(self, dataset: Dataset, seed: int, device: str) -> Learner:
        return IQLLearner(self, dataset, seed, device)


class IQLLearner(Learner):
    """The networks of IQL and its gradient step."""

    recipe: IQL

    def build(self, observation_dim: int, action_dim: int) -> Optimised:
        width, rate = self.recipe.width, self.recipe.learning_rate
        span = float(np.ptp(self.dataset.episode_returns))
        self.reward_scale = self.recipe.return_range / span if span > 0 else 1.0
        self.actor = mlp(observation_dim, width, action_dim)
        self.log_std = nn.Parameter(torch.zeros(action_dim))
        self.value = mlp(observation_dim, width, 1)
        self.critics = Critics(observation_dim + action_dim, width)
        self.target_critics = copy.deepcopy(self.critics)
        return {
            "actor": ([*self.actor.parameters(), self.log_std], rate),
            "value": (list(self.value.parameters()), rate),
            "critics": (list(self.critics.parameters()), rate),
        }

    def draw(self, step: int) -> Draws:
        return {"rows": self.rows()}

    def advance(self, step: int, draws: Draws) -> None:
        recipe, batch = self.recipe, self.batch(draws["rows"])
        # V(s), V(s') and u are those of before this step in all three losses.
        with torch.no_grad():
            action_value = self.target_critics(batch.observations, batch.actions).amin(0)
            following = self.value(batch.next_observations)[:, 0]
            rewards = batch.rewards * self.reward_scale
            target = rewards + recipe.discount * batch.continues * following
        advantage = action_value - self.value(batch.observations)[:, 0]
        self.update("value", expectile_loss(advantage, recipe.expectile))  # eq. 5
        error = self.critics(batch.observations, batch.actions) - target  # eq. 6 [2, B]
        self.update("critics", error.square().mean(1).sum())
        # eq. 7; no gradient through the weight, which says only how much each action counts
        weight = (recipe.temperature * advantage.detach()).exp().clamp(max=recipe.largest_weight)
        log_prob = self._log_prob(batch.observations, batch.actions)
        self.update("actor", -(weight * log_prob).mean())
        self.follow(self.target_critics, self.critics)

    def _log_prob(self, observations: Tensor, actions: Tensor) -> Tensor:
        """Log density `[B]` of a Gaussian around tanh(outputs), up to a constant.

        The mean is squashed, not the sample, as in the authors' code: actions at the bounds of the
        unit box have a finite density.
        """
        log_std = self.log_std.clamp(*LOG_STD_BOUNDS)
        standardised = (actions - self.actor(observations).tanh()) * (-log_std).exp()
        log_prob: Tensor = -(0.5 * standardised.square() + log_std).sum(1)
        return log_prob

    def teacher(self, step: int) -> NetworkTeacher:
        actor = _with_log_std(layers_of(self.actor), self.log_std.detach().cpu())
        critics = self.critics.layers(1 / self.reward_scale)
        return self.scaled_teacher(step, actor, critics, "additive", (1.0, 0.0))


def expectile_loss(difference: Tensor, expectile: float) -> Tensor:
    """The asymmetric squared loss (eq. 5); the expectile is its minimiser."""
    weight = torch.where(difference < 0, 1 - expectile, expectile)
    return (weight * difference.square()).mean()


def _with_log_std(layers: Layers, log_std: Tensor) -> Layers:
    """Extend the last layer to give log standard deviations too, the same for every observation."""
    weight, bias = layers[-1]
    outputs = (torch.cat((weight, torch.zeros_like(weight))), torch.cat((bias, log_std)))
    return [*layers[:-1], outputs]

"""Cal-QL (Nakamoto et al. 2023, "Cal-QL: Calibrated Offline RL Pre-Training").

Soft actor-critic on the dataset; CQL's regulariser lowers the values of the policy's actions and
raises those of the dataset's, but it does not push a value below the return that the dataset's own
policy earned from that state (the calibration):

    gap = log sum_a exp max(Q(s, a), return to go) - Q(s, a_data)           (paper, eq. 4.1)
    critic loss = mean (r + discount min Q_target(s', a') - Q(s, a))^2 + alpha * mean gap
    actor loss = mean (temperature log pi(a|s) - min Q(s, a)),  a ~ pi(.|s)
    temperature loss = -log temperature mean (log pi(a|s) + target entropy)

This is the teacher of the OBD papers. The logarithm of the sum is estimated from uniform actions
and from the policy's at s and at s', each weighted by the reciprocal of its density, as in CQL's
importance-sampled form (Kumar et al. 2020, appendix F).
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

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

LOG_STD_BOUNDS = (-20.0, 2.0)
LOG_STD_SCALARS = (1.0, -1.0)
"""Multiplier and offset of the raw log standard deviation, where CORL's policies start."""


@dataclass(frozen=True)
class CalQL(OfflineRecipe):
    """The Cal-QL recipe with the authors' rates, weight and candidates, in fewer steps.

    Their code has no settings for MuJoCo. Of its general defaults these differ: it takes the best
    of n next actions in the target, initialises orthogonally, trains the two scalars of the
    policy's log standard deviation and does not normalise observations. `cal_ql_corl` is the
    recipe of the OBD papers' teachers.

    Args:
        conservatism: Weight alpha of the regulariser.
        candidates: Actions n of each of the three kinds in the estimate of the sum.
        actor_learning_rate: Learning rate of the actor and the temperature; `learning_rate` is
            that of the critics.
        actor_layers: Hidden layers of the actor; the critics have two.
        initialisation: Initial weights of every network, "uniform" (torch's own) or "orthogonal".
        log_std_scalars: Whether the multiplier and the offset of the actor's raw log standard
            deviation are trained with the actor.
    """

    conservatism: float = 5.0
    candidates: int = 10
    actor_learning_rate: float = 1e-4
    actor_layers: int = 2
    initialisation: Literal["uniform", "orthogonal"] = "uniform"
    log_std_scalars: Literal["fixed", "trained"] = "fixed"

    name: ClassVar[str] = "cal_ql"

    def learner(self, dataset: Dataset, seed: int, device: str) -> Learner:
        return CalQLLearner(self, dataset, seed, device)


@dataclass(frozen=True)
class CORLCalQL(CalQL):
    """Cal-QL with the defaults of CORL's cal_ql.py, which trained the OBD authors' teachers.

    Source: github.com/tinkoff-ai/CORL, algorithms/finetune/cal_ql.py, commit 1254f0b, with the
    names there. `TrainConfig`: offline_iterations 1e6 at constant rates, cql_alpha 10, policy_lr
    3e-5, orthogonal_init True; `TanhGaussianPolicy`: three hidden layers of 256, trained scalars.
    Inherited, for the values are the same: batch_size 256, discount 0.99, qf_lr 3e-4,
    soft_target_update_rate 5e-3, cql_n_actions 10, cql_importance_sample, a target entropy of
    -act_dim, normalize (with 1e-3 added to the deviation), q_n_hidden_layers 2 of 256; and without
    backup_entropy, cql_lagrange, cql_max_target_backup, normalize_reward (reward_scale 1,
    reward_bias 0), clipped differences and bc_steps. The checkpoints that OBD's authors published
    hold the same rates, steps and layers; they do not tell cql_alpha.
    """

    steps: int = 1_000_000
    decay_from: float = 1.0
    conservatism: float = 10.0
    actor_learning_rate: float = 3e-5
    actor_layers: int = 3
    initialisation: Literal["uniform", "orthogonal"] = "orthogonal"
    log_std_scalars: Literal["fixed", "trained"] = "trained"

    name: ClassVar[str] = "cal_ql_corl"


class CalQLLearner(Learner):
    """The networks of Cal-QL and its gradient step."""

    recipe: CalQL

    def build(self, observation_dim: int, action_dim: int) -> Optimised:
        recipe = self.recipe
        returns = torch.from_numpy(self.dataset.returns_to_go(recipe.discount))
        self.returns_to_go = returns.float().to(self.device)  # of every transition [M]
        width, initialisation = recipe.width, recipe.initialisation
        outputs = 2 * action_dim
        self.actor = mlp(observation_dim, width, outputs, recipe.actor_layers, initialisation)
        trained = recipe.log_std_scalars == "trained"
        self.scalars = nn.Parameter(torch.tensor(LOG_STD_SCALARS), requires_grad=trained)
        self.critics = Critics(observation_dim + action_dim, width, initialisation)
        self.target_critics = copy.deepcopy(self.critics)
        self.log_temperature = nn.Parameter(torch.zeros(()))
        of_actor = [*self.actor.parameters(), *([self.scalars] if trained else [])]
        return {
            "temperature": ([self.log_temperature], recipe.actor_learning_rate),
            "actor": (of_actor, recipe.actor_learning_rate),
            "critics": (list(self.critics.parameters()), recipe.learning_rate),
        }

    def draw(self, step: int) -> Draws:
        rows = self.rows()
        one = (len(rows), self.dataset.action_dim)
        many = (self.recipe.candidates, *one)
        return {
            "rows": rows,
            "policy": self.noise(*one),
            "next": self.noise(*one),
            "uniform": torch.rand(many, generator=self.generator) * 2 - 1,
            "candidates": self.noise(*many),
            "next_candidates": self.noise(*many),
        }

    def advance(self, step: int, draws: Draws) -> None:
        batch = self.batch(draws["rows"])
        outputs = self.actor(batch.observations)
        actions, log_prob = sample(outputs, draws["policy"], self.scalars)
        entropy_gap = log_prob.detach() - self.dataset.action_dim  # target entropy: -act_dim
        temperature = self.log_temperature.detach().exp()  # before its step, as in both codes
        # The temperature rises while the policy's entropy is below its target.
        self.update("temperature", -(self.log_temperature * entropy_gap).mean())
        value = self.critics(batch.observations, actions).amin(0)
        actor_loss = (temperature * log_prob - value).mean()
        # Both losses come before either step, so that each sees the other's networks unchanged.
        critic_loss = self._critic_loss(batch, draws, outputs.detach())
        self.update("actor", actor_loss)
        self.update("critics", critic_loss)
        self.follow(self.target_critics, self.critics)

    def _critic_loss(self, batch: Transitions, draws: Draws, outputs: Tensor) -> Tensor:
        with torch.no_grad():
            next_outputs = self.actor(batch.next_observations)
            following, _ = sample(next_outputs, draws["next"], self.scalars)
            value = self.target_critics(batch.next_observations, following).amin(0)
            target = batch.rewards + self.recipe.discount * batch.continues * value
            candidates = self._candidates(draws, outputs, next_outputs)
        in_data = self.critics(batch.observations, batch.actions)  # [2, B]
        gap = self._log_sum(batch, self.returns_to_go[draws["rows"]], *candidates) - in_data
        error = (in_data - target).square().mean(1).sum()
        loss: Tensor = error + self.recipe.conservatism * gap.mean(1).sum()
        return loss

    def _candidates(
        self, draws: Draws, outputs: Tensor, next_outputs: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Candidate actions `[3 n, B, act_dim]`, uniform ones first; log densities `[3 n, B]`."""
        here, log_here = sample(outputs, draws["candidates"], self.scalars)
        there, log_there = sample(next_outputs, draws["next_candidates"], self.scalars)
        # the uniform density on [-1, 1]^act_dim is 2^-act_dim
        uniform = torch.full_like(log_here, -self.dataset.action_dim * math.log(2))
        log_densities = torch.cat((uniform, log_here, log_there))
        return torch.cat((draws["uniform"], here, there)), log_densities

    def _log_sum(
        self, batch: Transitions, returns_to_go: Tensor, actions: Tensor, log_density: Tensor
    ) -> Tensor:
        """The log-sum-exp of the candidates' calibrated values, for both critics `[2, B]`."""
        count, size, action_dim = actions.shape
        observations = batch.observations.expand(count, -1, -1).reshape(count * size, -1)
        values = self.critics(observations, actions.reshape(-1, action_dim)).view(2, count, size)
        uniform, policy = values.split((count // 3, 2 * count // 3), dim=1)
        # The calibration is of the policy's values only, as in the authors' code.
        calibrated = torch.cat((uniform, policy.maximum(returns_to_go)), dim=1)
        # The estimate's mean would subtract log 3n: a constant, without a gradient.
        return (calibrated - log_density).logsumexp(1)

    def teacher(self, step: int) -> NetworkTeacher:
        actor, critics = layers_of(self.actor), self.critics.layers()
        multiplier, offset = self.scalars.tolist()
        return self.scaled_teacher(step, actor, critics, "gaussian", (multiplier, offset))


def sample(outputs: Tensor, noise: Tensor, scalars: Tensor) -> tuple[Tensor, Tensor]:
    """Draw actions of a tanh-Gaussian policy, with their log densities.

    Args:
        outputs: Means, then raw log standard deviations `[B, 2 act_dim]`.
        noise: Standard normal numbers `[..., B, act_dim]`.
        scalars: Multiplier and offset `[2]` of the raw log standard deviations.

    Returns:
        Actions `[..., B, act_dim]` in (-1, 1) and log densities `[..., B]`.
    """
    mean, raw = outputs.chunk(2, dim=-1)
    log_std = (scalars[0] * raw + scalars[1]).clamp(*LOG_STD_BOUNDS)
    u = mean + log_std.exp() * noise
    # log p(a) = log N(u) - log |da / du|, with da / du = 1 - tanh(u)^2, whose logarithm is written
    # in a form that does not lose digits for large u
    log_slope = 2 * (math.log(2) - u - nn.functional.softplus(-2 * u))
    log_normal = -0.5 * (noise.square() + math.log(2 * math.pi)) - log_std
    return u.tanh(), (log_normal - log_slope).sum(-1)

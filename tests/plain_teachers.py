"""Offline RL as the papers print it: eager torch, one critic and one candidate at a time.

What the teachers are held to (tests/benchmark/teachers) and timed against (tests/benchmarks).
"""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Independent, Normal, TanhTransform, TransformedDistribution

from benchmark.datasets.dataset import Dataset
from benchmark.teachers.cal_ql import CalQL
from benchmark.teachers.iql import IQL
from benchmark.teachers.offline import Draws, Learner, layers_of
from benchmark.teachers.td3_bc import TD3BC
from benchmark.teachers.teacher import Layers


def plain(layers: Layers) -> nn.Sequential:
    """A copy of these layers as torch's own modules."""
    modules: list[nn.Module] = []
    for weight, bias in layers:
        linear = nn.Linear(weight.shape[1], weight.shape[0])
        linear.weight = nn.Parameter(weight.detach().clone())
        linear.bias = nn.Parameter(bias.detach().clone())
        modules += [linear, nn.ReLU()]
    return nn.Sequential(*modules[:-1])


def value_of(network: nn.Module, observations: Tensor, actions: Tensor) -> Tensor:
    """Values `[B]` of a plain critic."""
    value: Tensor = network(torch.cat((observations, actions), 1))[:, 0]
    return value


class Plain:
    """Networks copied from a learner, so that both start alike; then it goes its own way."""

    def __init__(self, learner: Any, dataset: Dataset) -> None:
        self.actor = plain(layers_of(learner.actor))
        self.critics = [
            plain([(w[i], b[i]) for w, b in learner.critics.layers()]) for i in range(2)
        ]
        self.targets = copy.deepcopy(self.critics)
        states, following = map(torch.from_numpy, (dataset.observations, dataset.next_observations))
        mean, std = states.mean(0), states.std(0, correction=0) + 1e-3
        self.states, self.following = (states - mean) / std, (following - mean) / std
        self.actions = torch.from_numpy(dataset.actions)
        self.rewards = torch.from_numpy(dataset.rewards)
        self.done = torch.from_numpy(dataset.terminations).float()
        self.reported: dict[str, float] = {}

    def adam(self, parameters: Iterable[nn.Parameter], rate: float) -> torch.optim.Adam:
        return torch.optim.Adam(parameters, rate)

    def descend(self, name: str, optimizer: torch.optim.Adam, loss: Tensor) -> None:
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        self.reported[name] = loss.item()

    def follow(self, *pairs: tuple[nn.Module, nn.Module]) -> None:
        for target, source in pairs:
            for t, p in zip(target.parameters(), source.parameters(), strict=True):
                t.data.copy_(0.995 * t.data + 0.005 * p.data)

    def batch(self, rows: Tensor) -> tuple[Tensor, ...]:
        return tuple(
            values[rows]
            for values in (self.states, self.actions, self.rewards, self.done, self.following)
        )


class PlainTD3BC(Plain):
    """Fujimoto & Gu 2021, eq. 1 to 5."""

    def __init__(self, learner: Learner, dataset: Dataset, recipe: TD3BC) -> None:
        super().__init__(learner, dataset)
        self.recipe = recipe
        self.target_actor = copy.deepcopy(self.actor)
        self.actor_adam = self.adam(self.actor.parameters(), recipe.learning_rate)
        self.critic_adam = [self.adam(c.parameters(), recipe.learning_rate) for c in self.critics]

    def step(self, step: int, draws: Draws) -> None:
        s, a, r, d, s2 = self.batch(draws["rows"])
        noise = (0.2 * draws["smoothing"]).clamp(-0.5, 0.5)
        with torch.no_grad():
            a2 = (torch.tanh(self.target_actor(s2)) + noise).clamp(-1, 1)
            q2 = torch.minimum(*(value_of(t, s2, a2) for t in self.targets))
            y = r + self.recipe.discount * (1 - d) * q2
        for i, (critic, adam) in enumerate(zip(self.critics, self.critic_adam, strict=True)):
            self.descend(f"critic {i}", adam, nn.functional.mse_loss(value_of(critic, s, a), y))
        if step % 2 == 0:
            pi = torch.tanh(self.actor(s))
            q = value_of(self.critics[0], s, pi)
            loss = -(self.recipe.alpha / q.abs().mean().detach()) * q.mean()
            loss = loss + nn.functional.mse_loss(pi, a)
            self.descend("actor", self.actor_adam, loss)
            self.follow(
                (self.target_actor, self.actor), *zip(self.targets, self.critics, strict=True)
            )


class PlainIQL(Plain):
    """Kostrikov et al. 2022, eq. 5 to 7, with torch's own normal distribution."""

    def __init__(self, learner: Any, dataset: Dataset, recipe: IQL) -> None:
        super().__init__(learner, dataset)
        self.recipe = recipe
        self.value = plain(layers_of(learner.value))
        self.log_std = nn.Parameter(learner.log_std.detach().clone())
        span = float(dataset.episode_returns.max() - dataset.episode_returns.min())
        self.rewards = self.rewards * (1000 / span)
        rate = recipe.learning_rate
        self.actor_adam = self.adam([*self.actor.parameters(), self.log_std], rate)
        self.value_adam = self.adam(self.value.parameters(), rate)
        self.critic_adam = [self.adam(c.parameters(), rate) for c in self.critics]

    def step(self, step: int, draws: Draws) -> None:
        s, a, r, d, s2 = self.batch(draws["rows"])
        with torch.no_grad():
            q = torch.minimum(*(value_of(t, s, a) for t in self.targets))
            y = r + self.recipe.discount * (1 - d) * self.value(s2)[:, 0]
        u = q - self.value(s)[:, 0]
        tau = torch.full_like(u, self.recipe.expectile)
        loss = ((tau - (u.detach() < 0).float()).abs() * u**2).mean()
        self.descend("value", self.value_adam, loss)
        for i, (critic, adam) in enumerate(zip(self.critics, self.critic_adam, strict=True)):
            self.descend(f"critic {i}", adam, nn.functional.mse_loss(value_of(critic, s, a), y))
        policy = Normal(self.actor(s).tanh(), self.log_std.exp())
        weight = torch.exp(self.recipe.temperature * u.detach()).clamp(max=100)
        log_prob = policy.log_prob(a).sum(1)  # type: ignore[no-untyped-call]
        self.descend("actor", self.actor_adam, -(weight * log_prob).mean())
        self.follow(*zip(self.targets, self.critics, strict=True))


class PlainCalQL(Plain):
    """Nakamoto et al. 2023: SAC, and CQL's regulariser candidate by candidate, calibrated."""

    def __init__(self, learner: Learner, dataset: Dataset, recipe: CalQL) -> None:
        super().__init__(learner, dataset)
        self.recipe = recipe
        self.log_alpha = nn.Parameter(torch.zeros(()))
        self.multiplier, self.offset = (nn.Parameter(torch.tensor(x)) for x in (1.0, -1.0))
        scalars = [self.multiplier, self.offset] if recipe.log_std_scalars == "trained" else []
        rate = recipe.actor_learning_rate
        self.actor_adam = self.adam([*self.actor.parameters(), *scalars], rate)
        self.alpha_adam = self.adam([self.log_alpha], rate)
        self.critic_adam = [self.adam(c.parameters(), recipe.learning_rate) for c in self.critics]
        self.to_go = _returns_to_go(dataset, recipe.discount)

    def policy(self, states: Tensor) -> Tensor:
        """Means and log standard deviations, as CORL computes them from the network's outputs."""
        mean, raw = self.actor(states).chunk(2, -1)
        return torch.cat((mean, self.multiplier * raw + self.offset), -1)

    def step(self, step: int, draws: Draws) -> None:
        s, a, r, d, s2 = self.batch(draws["rows"])
        dims = a.shape[1]
        with torch.no_grad():
            a2 = drawn(self.policy(s2), draws["next"])
            q2 = torch.minimum(*(value_of(t, s2, a2) for t in self.targets))
            y = r + self.recipe.discount * (1 - d) * q2
        losses = []
        for critic in self.critics:
            q = value_of(critic, s, a)
            terms = []
            for i in range(self.recipe.candidates):
                uniform = value_of(critic, s, draws["uniform"][i])
                terms.append(uniform - torch.log(torch.tensor(0.5**dims)))
                for source, noise in ((s, "candidates"), (s2, "next_candidates")):
                    with torch.no_grad():
                        action = drawn(self.policy(source), draws[noise][i])
                        density = policy_of(self.policy(source)).log_prob(action)
                    q_pi = torch.maximum(value_of(critic, s, action), self.to_go[draws["rows"]])
                    terms.append(q_pi - density)
            gap = torch.logsumexp(torch.stack(terms), 0) - q
            losses.append(((q - y) ** 2).mean() + self.recipe.conservatism * gap.mean())

        pi = drawn(self.policy(s), draws["policy"])
        log_pi = policy_of(self.policy(s)).log_prob(pi)
        alpha = self.log_alpha.detach().exp().clone()  # both codes step alpha after they read it
        alpha_loss = -(self.log_alpha * (log_pi.detach() - dims)).mean()
        self.descend("temperature", self.alpha_adam, alpha_loss)
        q = torch.minimum(*(value_of(c, s, pi) for c in self.critics))
        actor_loss = (alpha * log_pi - q).mean()
        self.descend("actor", self.actor_adam, actor_loss)
        for i, (adam, loss) in enumerate(zip(self.critic_adam, losses, strict=True)):
            self.descend(f"critic {i}", adam, loss)
        self.follow(*zip(self.targets, self.critics, strict=True))


def policy_of(outputs: Tensor) -> TransformedDistribution:
    """The tanh-Gaussian policy of means and log standard deviations, from torch's own parts."""
    mean, log_std = outputs.chunk(2, -1)
    normal = Independent(Normal(mean, log_std.clamp(-20, 2).exp()), 1)
    return TransformedDistribution(normal, TanhTransform(cache_size=1))


def drawn(outputs: Tensor, noise: Tensor) -> Tensor:
    """Its action for this standard normal noise."""
    mean, log_std = outputs.chunk(2, -1)
    return (mean + log_std.clamp(-20, 2).exp() * noise).tanh()


def _returns_to_go(dataset: Dataset, discount: float) -> Tensor:
    returns, following = [0.0] * len(dataset), 0.0
    for t in reversed(range(len(dataset))):
        last = dataset.terminations[t] or dataset.truncations[t]
        following = float(dataset.rewards[t]) + (0.0 if last else discount * following)
        returns[t] = following
    return torch.tensor(returns)

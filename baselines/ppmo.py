"""PPMO: a set whose one step of SGD trains an actor, by PPO through that step (arXiv 2508.09283).

    D = (x, y), x ~ Normal(0, 1), y ~ Uniform(-1, 1);  log sigma <- 0;  eta <- 0.02
    repeat                                                         (the paper's meta-epoch)
        theta_0 <- a fresh actor
        theta_1 <- theta_0 - eta grad l(D, theta_0)                (the inner step)
        roll theta_1 out, in E environments for T steps
        advantages and returns by GAE, with a critic that lives on
        for each minibatch of four epochs
            theta_1 <- theta_0 - eta grad l(D, theta_0)            (again from theta_0)
            D, log sigma, eta and critic <- Adam on the loss of PPO at theta_1

The loss l is the squared error of the means plus that of the log deviations, which start at 0.
There the likelihood's gradient in the means is the squared error's times act_dim / 2, so the
deterministic action of theta_1 is that of a student under `head = "gaussian"`, of one step at the
rate 2 eta / act_dim: the recipe "ppmo". Discrete actions (`head = "mean"`) have l on tanh of the
logits.

Actors see observations in the units of running statistics. The set is in the environment's own
units, and carries the statistics and the rate (`LearnedTraining`): a student of any protocol sees
the pairs in these units, one of the recipe "ppmo" takes its step at this rate.
Which settings are the authors', and which are ours: docs/deviations.md.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from gymnasium.spaces import Discrete
from torch import Tensor
from torch.distributions import Categorical, Distribution, Independent, Normal
from torch.nn.functional import mse_loss

from benchmark.environments.lookup import make_batched
from benchmark.method import (
    BadParameter,
    Method,
    Monitor,
    Problem,
    State,
    advice_on_divergence,
    require_above_zero,
    require_below_one,
    require_positive,
)
from benchmark.scaling import STD_FLOOR, Scaling
from benchmark.students.network import Network, Parameters
from benchmark.students.spec import RECIPES, StudentSpec
from benchmark.synthetic_set import LearnedTraining, NotFinite, SyntheticSet

RATES = (1e-6, 1e2)
"""Bounds of the learned rate."""
BETAS, EPSILON = torch.tensor([[0.9], [0.999]]), 1e-5
"""Decay of Adam's two moments `[2, 1]`, and its epsilon as in the authors' code."""


@dataclass(frozen=True)
class PPMO(Method):
    """A set whose one step of SGD, at a learned rate, trains an actor, by PPO through that step.

    It brings its own student, which scores the sets too unless there is an [evaluation_student].

    Args:
        synthetic_size: Pairs in the set.
        outer_steps: Fresh actors, each with its rollouts; each takes `environments` times `rollout`
            environment steps.
        environments: Environments that are stepped side by side.
        rollout: Steps per environment and outer step.
        epochs: Times that an outer step goes through its transitions.
        minibatch: Transitions per update of the set.
        outer_learning_rate: Learning rate of Adam on the set, its rate and the critic.
        outer_gradient_clip: Largest norm of their gradient together.
        inner_learning_rate: First value of the learned rate eta.
        discount: Discount gamma of the rewards.
        trace: Decay lambda of the advantages' sum.
        ratio_clip: Distance from 1 beyond which a ratio of probabilities gives no gradient.
        value_weight: Weight of the critic's loss.
        entropy_weight: Weight of the entropy.
        head: Head of the actor: "gaussian" for continuous actions, "mean" for discrete ones.
        width: Units of each of the two hidden layers, of the actor and of the critic.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"environment"})
    tiny: ClassVar[Mapping[str, Any]] = {
        "environments": 2, "rollout": 8, "minibatch": 8, "width": 8,
    }  # fmt: skip
    synthetic_size: int = 64
    outer_steps: int = 500
    environments: int = 10
    rollout: int = 200
    epochs: int = 4
    minibatch: int = 512
    outer_learning_rate: float = 2.5e-4
    outer_gradient_clip: float = 0.5
    inner_learning_rate: float = 0.02
    discount: float = 0.99
    trace: float = 0.95
    ratio_clip: float = 0.1
    value_weight: float = 0.5
    entropy_weight: float = 0.01
    head: Literal["gaussian", "mean"] = "gaussian"
    width: int = 64

    def __post_init__(self) -> None:
        require_positive(
            self, "synthetic_size", "outer_steps", "environments", "rollout", "epochs", "minibatch",
            "width",
        )  # fmt: skip
        require_above_zero(
            self, "outer_learning_rate", "outer_gradient_clip", "inner_learning_rate", "ratio_clip"
        )
        require_below_one(self, "discount", "trace")

    def student_for(self, student: StudentSpec) -> StudentSpec:
        """PPMO's actor, whatever the sweep's student is."""
        return dataclasses.replace(RECIPES["ppmo"], head=self.head, width=self.width)

    def distill(self, problem: Problem, monitor: Monitor) -> None:
        """Run the algorithm above; a resumed run goes on with the next fresh actor."""
        run = PPMORun(self, problem, monitor)
        with contextlib.closing(run.environment):
            for step in range(run.start, self.outer_steps):
                run.report(step)
                initial = run.fresh_actor(step)
                rollout = run.roll_out(initial, step)
                batch = run.with_advantages(rollout)
                generator = problem.generator("minibatches", step)
                for _ in range(self.epochs):
                    order = torch.randperm(len(batch.actions), generator=generator)
                    for rows in torch.split(order, self.minibatch):
                        run.update(initial, Batch(*(column[rows] for column in batch)))
                run.seen.add(rollout.observations)
            run.report(self.outer_steps)


class Learned(NamedTuple):
    """All that Adam updates but the critic: the set in the units of actors, and its rate."""

    observations: Tensor  # x [N, obs_dim]
    actions: Tensor  # y [N, act_dim], in the unit box
    log_std: Tensor  # targets of the log deviations [act_dim]; [0] for discrete actions
    rate: Tensor  # eta []


class Rollout(NamedTuple):
    """Transitions of E environments over T steps; observations as the environment gives them."""

    observations: Tensor  # [T, E, obs_dim]
    next_observations: Tensor  # [T, E, obs_dim], those at an episode's end included
    actions: Tensor  # [T, E, act_dim] in the unit box, not clipped; [T, E] where discrete
    log_probabilities: Tensor  # [T, E]
    rewards: Tensor  # [T, E]
    terminated: Tensor  # [T, E], whether the next state has no value
    ended: Tensor  # [T, E], whether the next transition is of another episode


class Batch(NamedTuple):
    """Transitions as the loss of PPO takes them, B of them."""

    observations: Tensor  # in the units of actors [B, obs_dim]
    actions: Tensor
    log_probabilities: Tensor  # of the actions under the actor that took them [B]
    advantages: Tensor  # [B]
    returns: Tensor  # [B]


class Moments:
    """Count, mean and sum of squared deviations of all rows so far, per column, in float64."""

    def __init__(self, columns: int) -> None:
        self.tensors = torch.zeros(3, columns, dtype=torch.float64)

    def add(self, values: Tensor) -> None:
        """Add rows `[..., columns]` (Chan et al. 1979: exact for any order of parts)."""
        count, mean, squares = self.tensors
        rows = values.double().reshape(-1, values.shape[-1])
        more, away = len(rows), rows.mean(0) - mean
        total = count + more
        squares = squares + (rows - rows.mean(0)).square().sum(0) + away**2 * count * more / total
        self.tensors = torch.stack((total, mean + away * more / total, squares))

    @property
    def std(self) -> Tensor:
        """Standard deviation `[columns]`; 1 before the first rows."""
        count, _, squares = self.tensors
        return torch.where(count > 0, (squares / count.clamp(min=1)).sqrt(), 1.0)


class PPMORun:
    """What one run holds from one outer step to the next."""

    def __init__(self, settings: PPMO, problem: Problem, monitor: Monitor) -> None:
        self.settings, self.problem, self.monitor = settings, problem, monitor
        student = problem.student
        self.actor = student.network(problem.observation_dim, problem.action_dim)
        self.critic = Network(
            (problem.observation_dim, settings.width, settings.width, 1),
            activation="tanh", output_gain=1.0,
        )  # fmt: skip
        self.environment = make_batched(problem.environment, settings.environments)
        self.discrete = isinstance(self.environment.action_space, Discrete)
        if self.discrete != (settings.head == "mean"):
            expected = "mean" if self.discrete else "gaussian"
            raise BadParameter(
                f"head of PPMO is {settings.head!r}; the actions of {problem.environment} are "
                f'{self.environment.action_space}. Set head = "{expected}".'
            )
        # One vector of all that is learned, of which the tensors are views, for one state of Adam.
        size, generator = settings.synthetic_size, problem.generator("pairs")
        first = [
            torch.randn(size, problem.observation_dim, generator=generator),
            2 * torch.rand(size, problem.action_dim, generator=generator) - 1,
            torch.zeros(self.actor.constants),
            torch.tensor(settings.inner_learning_rate),
        ]
        critic = self.critic.initialise(problem.generator("critic"))
        first += [tensor for layer in critic for tensor in layer]
        self.shapes = [tensor.shape for tensor in first]
        self.learned = torch.cat([tensor.flatten() for tensor in first]).requires_grad_()
        self.adam, self.updates = torch.zeros(2, len(self.learned)), 0  # moments of the gradient
        self.seen, self.incomes = Moments(problem.observation_dim), Moments(1)
        self.start = 0
        if (state := monitor.resume()) is not None:
            self.restore(state)

    def parts(self) -> tuple[Learned, Parameters]:
        """The set with its rate, and the critic: views through which gradients go."""
        pieces = torch.split(self.learned, [shape.numel() for shape in self.shapes])
        views = [piece.view(shape) for piece, shape in zip(pieces, self.shapes, strict=True)]
        return Learned(*views[:4]), list(zip(views[4::2], views[5::2], strict=True))

    @property
    def scaling(self) -> Scaling:
        """Units of actors: by all observations before this outer step, raw in the first."""
        return dataclasses.replace(
            self.problem.scaling,
            mean=self.seen.tensors[1].float(),
            std=self.seen.std.float() + STD_FLOOR,
        )

    def fresh_actor(self, step: int) -> Parameters:
        """Initial parameters theta_0 of the actor of an outer step."""
        drawn = self.actor.initialise(self.problem.generator("actor", step))
        return [(weight.requires_grad_(), bias.requires_grad_()) for weight, bias in drawn]

    def roll_out(self, initial: Parameters, step: int) -> Rollout:
        """Play the trained actor; environments start anew in every outer step, as do ended ones."""
        actor = inner_step(self.actor, initial, self.parts()[0])
        generator = self.problem.generator("rollout", step)
        count, scaling, rows = self.settings.environments, self.scaling, []
        slots = torch.arange(count)

        def reset(slots: Tensor) -> Tensor:
            seeds = torch.randint(2**31, (len(slots),), generator=generator).tolist()
            return torch.from_numpy(self.environment.reset(slots.numpy(), seeds)).float()

        seen = reset(slots)
        for _ in range(self.settings.rollout):
            with torch.no_grad():
                policy = distribution(self.actor, actor, scaling.observations_in(seen))
            if isinstance(policy, Categorical):
                actions = policy.probs.multinomial(1, generator=generator)[:, 0]
                taken = actions.numpy() + self.environment.action_space.start  # type: ignore[attr-defined]
            else:
                noise = torch.randn(policy.mean.shape, generator=generator)
                actions = policy.mean + policy.stddev * noise
                taken = scaling.actions_out(actions.clamp(-1, 1)).numpy()
            result = self.environment.step(slots.numpy(), taken)
            after = torch.from_numpy(result.observations).float()
            ended = torch.from_numpy(result.terminated | result.truncated)
            rows.append(
                (seen, after, actions, policy.log_prob(actions),
                 torch.from_numpy(result.rewards).float(), torch.from_numpy(result.terminated),
                 ended)
            )  # fmt: skip
            seen = after
            if bool(ended.any()):
                seen = after.clone()
                seen[ended] = reset(slots[ended])
        self.monitor.count_environment_steps(count * self.settings.rollout)
        return Rollout(*(torch.stack(column) for column in zip(*rows, strict=True)))

    @torch.no_grad()
    def with_advantages(self, rollout: Rollout) -> Batch:
        """Flatten the transitions to T x E of them, with advantages and the critic's targets."""
        # Rewards over the deviation of their discounted sums so far: the critic starts near 0.
        total, totals = torch.zeros(len(rollout.rewards[0])), []
        for rewards, ended in zip(rollout.rewards, rollout.ended, strict=True):
            total = total * self.settings.discount + rewards
            totals.append(total)
            total = total * ~ended
        self.incomes.add(torch.stack(totals)[..., None])
        rewards = rollout.rewards / (self.incomes.std.float() + STD_FLOOR)
        observations = self.scaling.observations_in(rollout.observations)
        values = self.values(observations)
        advantages = generalised_advantages(
            rewards, values, self.values(self.scaling.observations_in(rollout.next_observations)),
            rollout.terminated, rollout.ended, self.settings.discount, self.settings.trace,
        )  # fmt: skip
        columns = (
            observations, rollout.actions, rollout.log_probabilities, advantages,
            advantages + values,
        )  # fmt: skip
        return Batch(*(column.flatten(0, 1) for column in columns))

    def values(self, observations: Tensor) -> Tensor:
        """The critic's values `[...]` of states `[..., obs_dim]` in the units of actors."""
        outputs = self.critic.forward(self.parts()[1], observations.flatten(0, -2)[None]).outputs
        return outputs.view(observations.shape[:-1])

    def update(self, initial: Parameters, batch: Batch) -> None:
        """Repeat the inner step, and follow the loss of PPO back to the set, its rate, the critic.

        Raises:
            NotFinite: What is learned holds such values.
        """
        actor = inner_step(self.actor, initial, self.parts()[0])
        loss = ppo_loss(
            distribution(self.actor, actor, batch.observations),
            self.values(batch.observations), batch, self.settings,
        )  # fmt: skip
        (gradient,) = torch.autograd.grad(loss, self.learned)
        self.follow(gradient)
        if not bool(self.learned.isfinite().all()):
            raise NotFinite(
                f"What {type(self.settings).__name__} learns is not finite. "
                f"{advice_on_divergence(self.settings, self.problem.student)}"
            )

    @torch.no_grad()
    def follow(self, gradient: Tensor) -> None:
        """One step of Adam (arXiv 1412.6980) along a gradient, scaled down to the clip's norm."""
        gradient = gradient * (self.settings.outer_gradient_clip / gradient.norm()).clamp(max=1)
        self.updates += 1
        powers = torch.stack((gradient, gradient.square()))
        self.adam += (powers - self.adam) * (1 - BETAS)
        mean, square = self.adam / (1 - BETAS**self.updates)
        step = self.settings.outer_learning_rate * mean / (square.sqrt() + EPSILON)
        self.learned -= step
        self.parts()[0].rate.clamp_(*RATES)

    def report(self, step: int) -> None:
        """Report the outer step to the monitor; the last one is always scored."""
        self.monitor.progress(step, self.settings.outer_steps)
        if step == self.settings.outer_steps or self.monitor.due(step):
            self.monitor.note(inner_learning_rate=float(self.parts()[0].rate.detach()))
            self.monitor.checkpoint(step, self.synthetic_set())
        self.monitor.save(step, lambda: self.state(step))

    @torch.no_grad()
    def synthetic_set(self) -> SyntheticSet:
        """The pairs in the environment's units, with the units and the rate of their training."""
        pairs, scaling = self.parts()[0], self.scaling
        rate = float(pairs.rate) * (1 if self.discrete else 2 / self.problem.action_dim)
        return SyntheticSet(
            scaling.observations_out(pairs.observations), scaling.actions_out(pairs.actions),
            training=LearnedTraining(scaling, rate),
        )  # fmt: skip

    def state(self, step: int) -> State:
        """All that the next outer step depends on."""
        tensors = {
            "learned": self.learned.detach(), "adam": self.adam, "seen": self.seen.tensors,
            "incomes": self.incomes.tensors,
        }  # fmt: skip
        return State(tensors, {"step": step, "updates": self.updates})

    def restore(self, state: State) -> None:
        """Take all of it from a saved state."""
        self.start, self.updates = int(state.facts["step"]), int(state.facts["updates"])
        self.seen.tensors, self.incomes.tensors = state.tensors["seen"], state.tensors["incomes"]
        self.adam = state.tensors["adam"].clone()
        with torch.no_grad():
            self.learned.copy_(state.tensors["learned"])


def inner_step(actor: Network, initial: Parameters, pairs: Learned) -> Parameters:
    """The actor theta_1 after its only step; autograd goes through it to pairs and rate."""
    outputs = actor.forward(initial, pairs.observations[None]).outputs[0]
    if actor.constants:  # Gaussian: the means, then the log deviations, the same for all pairs
        mean, log_std = outputs.chunk(2, dim=-1)
        loss = mse_loss(mean, pairs.actions)
        loss = loss + mse_loss(log_std, pairs.log_std.expand_as(log_std))
    else:
        loss = mse_loss(outputs.tanh(), pairs.actions)
    tensors = [tensor for layer in initial for tensor in layer]
    gradients = iter(torch.autograd.grad(loss, tensors, create_graph=True))
    return [
        (weight - pairs.rate * next(gradients), bias - pairs.rate * next(gradients))
        for weight, bias in initial
    ]


def distribution(actor: Network, parameters: Parameters, observations: Tensor) -> Distribution:
    """Distributions of an actor's actions in states `[B, obs_dim]`, in the units of actors."""
    outputs = actor.forward(parameters, observations[None]).outputs[0]
    if not actor.constants:
        return Categorical(logits=outputs, validate_args=False)
    mean, log_std = outputs.chunk(2, dim=-1)
    return Independent(Normal(mean, log_std.exp(), validate_args=False), 1, validate_args=False)


def generalised_advantages(
    rewards: Tensor,
    values: Tensor,
    next_values: Tensor,
    terminated: Tensor,
    ended: Tensor,
    discount: float,
    trace: float,
) -> Tensor:
    """Advantages `[T, E]` by GAE (arXiv 1506.02438, equation 16), from arguments of that shape.

    An episode that is cut, by its time limit or by the end of the rollout, has a value after it;
    one that terminated has none.
    """
    errors = rewards + discount * next_values * ~terminated - values
    advantages, sum_of_errors = torch.empty_like(errors), torch.zeros_like(errors[0])
    for step in reversed(range(len(errors))):
        sum_of_errors = errors[step] + discount * trace * sum_of_errors * ~ended[step]
        advantages[step] = sum_of_errors
    return advantages


def ppo_loss(policy: Distribution, values: Tensor, batch: Batch, settings: PPMO) -> Tensor:
    """The loss of PPO (arXiv 1707.06347, equation 9), advantages standardised per minibatch."""
    advantages = batch.advantages - batch.advantages.mean()
    advantages = advantages / (batch.advantages.std(correction=0) + 1e-8)
    ratio = (policy.log_prob(batch.actions) - batch.log_probabilities).exp()
    clipped = ratio.clamp(1 - settings.ratio_clip, 1 + settings.ratio_clip)
    surrogate = torch.minimum(ratio * advantages, clipped * advantages).mean()
    value_loss = 0.5 * (values - batch.returns).square().mean()
    entropy: Tensor = policy.entropy().mean()
    return settings.value_weight * value_loss - surrogate - settings.entropy_weight * entropy

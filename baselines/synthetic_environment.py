"""A synthetic environment of one step, evolved, as a set of pairs (arXiv 2406.12589's bandits).

    z_1, ..., z_N ~ Normal(0, 1)                                   (drawn once)
    repeat                                                         (a generation)
        f_i, g_i <- weights around the mean                        (candidates of SNES)
        s_ij <- f_i(z_j);  a_ij <- argmax_a g_i(s_ij, a)           (a set per candidate)
        policies of every set, their returns, one step of SNES     (as HaDES)

A contextual bandit is an environment whose episodes last one step: f draws its state, g pays the
action. What an agent learns in it is the best action of every state, so that the bandit is a set of
pairs, made by few weights whatever its size. The authors train by reinforcement learning; here
students clone the best actions, next to HaDES at equal environment steps. Read in the authors'
code: both functions have a hidden layer of 32, SNES, population 256, sigma 0.05, 2,000 generations.
Ours: tanh; a reward that falls with the square of the distance to a point h(s) where actions are
continuous, whose best action is h(s); eight numbers per z.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from gymnasium.spaces import Discrete
from torch import Tensor

from baselines.hades import HaDES
from baselines.meta_gradient import Pairs
from baselines.references import flatten, unflatten
from benchmark.environments.lookup import action_space
from benchmark.method import BadParameter, Problem, require_positive
from benchmark.students.network import Network


@dataclass(frozen=True)
class SyntheticEnvironment(HaDES):
    """HaDES whose pairs are states and best actions of an evolved contextual bandit.

    Args:
        code_dim: Numbers per code z.
        hidden: Units of the hidden layer of f, and of that of g.
    """

    strategy: Literal["open_es", "snes"] = "snes"
    sigma: float = 0.05
    learning_rate: float = 1.0
    code_dim: int = 8
    hidden: int = 32

    def __post_init__(self) -> None:
        super().__post_init__()
        require_positive(self, "code_dim", "hidden")
        if self.labels != "evolved":
            raise BadParameter(
                f"labels of {type(self).__name__} is {self.labels!r}; labels are the best actions "
                f'of its rewards. Leave it at "evolved", or take hades.'
            )

    def search_space(self, problem: Problem) -> tuple[Tensor, Callable[[Tensor], Pairs]]:
        """Weights of f and g to begin with `[D]`, and how vectors `[P, D]` make sets."""
        states = Network((self.code_dim, self.hidden, problem.observation_dim), activation="tanh")
        rewards = Network(
            (problem.observation_dim, self.hidden, problem.action_dim), activation="tanh"
        )
        generator = problem.generator("synthetic environment")
        codes = torch.randn(1, self.synthetic_size, self.code_dim, generator=generator)
        first = [flatten(network.initialise(generator)) for network in (states, rewards)]
        cut = first[0].shape[1]
        discrete = isinstance(action_space(problem.environment), Discrete)

        def sets(candidates: Tensor) -> Pairs:
            count = len(candidates)
            of_states = unflatten(states, candidates[:, :cut])
            observations = states.forward(of_states, codes.expand(count, -1, -1)).outputs
            outputs = rewards.forward(unflatten(rewards, candidates[:, cut:]), observations).outputs
            if not discrete:  # g(s, a) = -|a - h(s)|^2
                return Pairs(observations, outputs.tanh())
            one_hot = torch.nn.functional.one_hot(outputs.argmax(-1), problem.action_dim)
            return Pairs(observations, problem.scaling.actions_in(one_hot.float()))

        return torch.cat(first, dim=1)[0], sets

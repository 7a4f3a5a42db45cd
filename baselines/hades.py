"""HaDES: behaviour distillation by evolution strategies, without data (arXiv 2406.15042).

    D <- 0
    repeat                                                            (a generation)
        D_1, ..., D_P ~ Normal(D, sigma^2)                            (synthetic pairs)
        theta_ik <- behavioural cloning of D_i from initialisation k  (K policies a candidate)
        f_i <- mean return of the policies theta_i1, ..., theta_iK
        D <- one step of the evolution strategy on f

Pairs evolve in the units that students learn in. The data reaches the method in one way: a
student's first layer standardises observations by the dataset's mean and deviation (the authors'
networks by constants of the environment that they stored). No transition, action or reward is read.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from gymnasium.spaces import Discrete
from torch import Tensor

from baselines.evolution_loop import Evolution, EvolutionRun
from baselines.meta_gradient import Pairs
from benchmark.environments.lookup import action_space
from benchmark.method import BadParameter, Monitor, Policy, Problem, require_positive
from benchmark.students.network import stack
from benchmark.students.student import StudentPolicy, train_students
from benchmark.synthetic_set import SyntheticSet


@dataclass(frozen=True)
class HaDES(Evolution):
    """Evolves a set on which students of any initialisation learn to act well ("random init").

    All candidates of a generation train from the same initialisations, new ones every generation,
    as in the authors' code.

    Args:
        synthetic_size: Pairs in the set; the paper goes from 4 to 256.
        policies_per_candidate: K (2 in the paper).
        labels: "evolved", or "fixed" to one-hot actions in turn, so that only observations evolve
            (the paper's recipe for MinAtar; only for discrete actions).
    """

    synthetic_size: int = 64
    policies_per_candidate: int = 2
    labels: Literal["evolved", "fixed"] = "evolved"

    def __post_init__(self) -> None:
        super().__post_init__()
        require_positive(self, "synthetic_size", "policies_per_candidate")

    def distill(self, problem: Problem, monitor: Monitor) -> None:
        """Run the algorithm above."""
        start, sets = self.search_space(problem)
        run = EvolutionRun(
            self, start, problem, monitor, lambda mean: self.result(sets(mean[None]), problem)
        )
        for generation in run.generations():
            noise = run.draw()
            policies = self.clone(sets(run.strategy.candidates(noise)), problem, generation)
            run.strategy.update(noise, run.mean_returns(policies))

    def search_space(self, problem: Problem) -> tuple[Tensor, Callable[[Tensor], Pairs]]:
        """The vector that the search begins at `[D]`, zeros, and how vectors `[P, D]` make sets."""
        labels = self._fixed_labels(problem)
        dim = problem.observation_dim + (problem.action_dim if labels is None else 0)
        start = torch.zeros(self.synthetic_size * dim)
        return start, lambda candidates: self.sets(candidates, problem, labels)

    def sets(self, candidates: Tensor, problem: Problem, labels: Tensor | None) -> Pairs:
        """Cut vectors `[P, D]` into sets: all observations first, then all actions."""
        size, width = self.synthetic_size, self.synthetic_size * problem.observation_dim
        observations = candidates[:, :width].reshape(len(candidates), size, -1)
        if labels is not None:
            return Pairs(observations, labels.expand(len(candidates), -1, -1))
        return Pairs(observations, candidates[:, width:].reshape(len(candidates), size, -1))

    def clone(self, sets: Pairs, problem: Problem, generation: int) -> StudentPolicy:
        """Train P x K policies from scratch, the K of a set next to each other."""
        copies = self.policies_per_candidate
        pairs = (
            sets.observations.repeat_interleave(copies, 0),
            sets.actions.repeat_interleave(copies, 0),
        )
        # Every candidate begins with the same K initialisations, so that its fitness differs from
        # another's only by its pairs. They are drawn once: a QR factorisation of each layer.
        drawn = [self.initialisation(problem, generation, k) for k in range(copies)]
        widths = (part.shape[-1] for part in pairs)
        initial = problem.student.network(*widths).initialise_runs(drawn)
        candidates = len(sets.actions)
        generators = [_copy(one) for _ in range(candidates) for one in drawn]
        return train_students(
            problem.student,
            lambda step: pairs,
            problem.scaling,
            generators,
            initial=stack([initial] * candidates),
        )

    def initialisation(self, problem: Problem, generation: int, k: int) -> torch.Generator:
        """Generator of initialisation k of a generation, and of a noisy head's noise."""
        return problem.generator(f"student {k}", generation)

    def result(self, sets: Pairs, problem: Problem) -> SyntheticSet | Policy:
        """Give the only set, in the environment's units."""
        observations, actions = sets
        scaling = problem.scaling
        return SyntheticSet(
            scaling.observations_out(observations[0]), scaling.actions_out(actions[0])
        )

    def _fixed_labels(self, problem: Problem) -> Tensor | None:
        """One-hot actions `[N, act_dim]` in the unit box; None where labels are evolved.

        Raises:
            BadParameter: Labels are fixed, but the actions are not discrete.
        """
        if self.labels == "evolved":
            return None
        space = action_space(problem.environment)
        if not isinstance(space, Discrete):
            raise BadParameter(
                f'labels = "fixed" needs discrete actions; those of {problem.environment} are '
                f'{space}. Set labels = "evolved".'
            )
        one_hot = torch.eye(problem.action_dim)
        return problem.scaling.actions_in(
            one_hot[torch.arange(self.synthetic_size) % problem.action_dim]
        )


def _copy(generator: torch.Generator) -> torch.Generator:
    """A generator that goes on where this one is, by itself: for a noisy head's noise."""
    copy = torch.Generator()
    copy.set_state(generator.get_state())
    return copy


@dataclass(frozen=True)
class FixedInitHaDES(HaDES):
    """HaDES whose students always start from the same initialisation ("fixed init").

    The paper uses it for neuroevolution: pairs are another way to write one policy's weights, and
    the score is that policy's. It therefore submits the policy, and is a reference and not
    distillation: students of other initialisations need not learn from its pairs.
    """

    reference: ClassVar[bool] = True
    policies_per_candidate: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.policies_per_candidate != 1:
            raise BadParameter(
                f"policies_per_candidate of {type(self).__name__} is "
                f"{self.policies_per_candidate}; from one initialisation all would be the "
                f"same policy. Raise episodes_per_policy instead."
            )

    def initialisation(self, problem: Problem, generation: int, k: int) -> torch.Generator:
        """Generator of the run's only initialisation."""
        return problem.generator("fixed initialisation")

    def result(self, sets: Pairs, problem: Problem) -> Policy:
        """Give the policy that the set trains."""
        return self.clone(sets, problem, generation=0)


@dataclass(frozen=True)
class PublishedHaDES(HaDES):
    """HaDES with the settings of the authors' code, which `HADES_PUBLISHED` holds."""

    version: ClassVar[int] = 2  # the authors' student and sampled actions since
    # The contract's environment has continuous actions, which MinAtar's labels and student are not.
    tiny: ClassVar[Mapping[str, Any]] = {"labels": "evolved", "students": "hades"}


@dataclass(frozen=True)
class PublishedFixedInitHaDES(FixedInitHaDES):
    """The same for one initialisation."""

    version: ClassVar[int] = 2


HADES_MINATAR_PUBLISHED = PublishedHaDES(
    outer_steps=5_000, population=2_048, strategy="snes", sigma=0.5, learning_rate=1.0,
    temperature=20.0, episodes_per_policy=8, actions="sampled", students="hades_minatar",
    synthetic_size=16, labels="fixed",
)  # fmt: skip
"""The same on MinAtar; score it by the protocol `hades_minatar`."""
HADES_PUBLISHED = PublishedHaDES(
    outer_steps=2_000, population=2_048, sigma=0.03, beta1=0.99, fitness_shaping="raw",
    actions="sampled", students="hades",
)  # fmt: skip
FIXED_INIT_HADES_PUBLISHED = PublishedFixedInitHaDES(
    outer_steps=2_000, population=2_048, sigma=0.03, beta1=0.99, fitness_shaping="raw",
    actions="sampled", students="hades",
)  # fmt: skip
"""Search, student and sampled actions as in the authors' code on Brax. Score them by the protocol
`hades`, which samples too; docs/deviations.md has what still differs."""

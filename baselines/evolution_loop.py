"""The generations of HaDES and of evolution on weights: a search, its episodes and its budget."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from baselines.gaussian_search import SNES, OpenES, Strategy, centred_ranks, raw_fitness
from benchmark.environments.rollout import rollout
from benchmark.errors import ObdBenchError
from benchmark.method import (
    BadParameter,
    Method,
    Monitor,
    Policy,
    Problem,
    State,
    advice_on_divergence,
    require_above_zero,
    require_below_one,
    require_positive,
)
from benchmark.students.spec import RECIPES, StudentSpec
from benchmark.students.student import StudentPolicy
from benchmark.synthetic_set import SyntheticSet

SHAPINGS = {"centred_ranks": centred_ranks, "raw": raw_fitness}


@dataclass(frozen=True)
class Evolution(Method):
    """Hyper-parameters of a search by evolution strategies in an environment.

    Args:
        outer_steps: Most generations (HaDES: 2,000).
        population: Candidates per generation (HaDES: 2,048).
        strategy: "open_es" (antithetic candidates, Adam) or "snes".
        sigma: Standard deviation of the candidates, for SNES at the start (HaDES: 0.03; SNES on
            MinAtar 0.5).
        learning_rate: Learning rate of Adam (HaDES: 0.05); with "snes" eta_mu, which Wierstra et
            al. set to 1.
        beta1: Decay of Adam's first moment: the usual 0.9 (HaDES's code: 0.99).
        fitness_shaping: Weights of "open_es": "centred_ranks", or "raw" returns as in HaDES's code.
            SNES has its own utilities and takes no other.
        temperature: Temperature of SNES's softmax utilities (HaDES on MinAtar: 20); None for the
            natural ones of Wierstra et al.
        episodes_per_policy: Episodes per policy, whose mean return is its fitness (HaDES: 4).
        max_steps: Length at which episodes of the search are cut, not those of the scoring; None
            for no cut.
        actions: "mode" for deterministic actions in the search, or "sampled" for draws from the
            policies' distributions (HaDES). The protocol says which of them the scoring takes.
        students: "sweep" leaves the sweep its student; "hades" (on Brax) and "hades_minatar" take
            the authors' in every setting that the sweep does not name.
        environment_steps: Budget of environment steps: the search ends with the generation that
            reaches it; None for no budget. Methods of equal budget are compared on equal terms,
            unless `outer_steps` ends the search before: a record says which share of its budget it
            took (`budget_taken`), and the log says so.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"environment"})
    outer_steps: int = 200
    population: int = 64
    strategy: Literal["open_es", "snes"] = "open_es"
    sigma: float = 0.1
    learning_rate: float = 0.05
    beta1: float = 0.9
    fitness_shaping: Literal["centred_ranks", "raw"] = "centred_ranks"
    temperature: float | None = None
    episodes_per_policy: int = 4
    max_steps: int | None = None
    environment_steps: int | None = None
    actions: Literal["mode", "sampled"] = "mode"
    students: Literal["sweep", "hades", "hades_minatar"] = "sweep"

    def __post_init__(self) -> None:
        require_positive(self, "outer_steps", "population", "episodes_per_policy")
        for name in ("max_steps", "environment_steps"):
            if getattr(self, name) is not None:
                require_positive(self, name)
        require_above_zero(self, "sigma", "learning_rate")
        require_below_one(self, "beta1")
        if self.temperature is not None:
            require_above_zero(self, "temperature")
            if self.strategy != "snes":
                raise BadParameter(
                    f"temperature is {self.temperature}, but {self.strategy!r} has no softmax "
                    f'utilities. Leave it out, or set strategy = "snes".'
                )
        if self.population < 2 or (self.strategy == "open_es" and self.population % 2):
            raise BadParameter(
                f"population of {type(self).__name__} is {self.population}; expected 2 or more, "
                f'and an even number for "open_es", whose candidates come in mirrored pairs.'
            )
        if self.strategy == "snes" and self.fitness_shaping != "centred_ranks":
            raise BadParameter(
                f"fitness_shaping is {self.fitness_shaping!r}, but SNES has its own utilities. "
                f'Leave it out, or set strategy = "open_es".'
            )

    @property
    def own_student(self) -> StudentSpec:
        """The authors' student, where `students` names it."""
        return super().own_student if self.students == "sweep" else RECIPES[self.students]

    def require_student(self, student: StudentSpec) -> None:
        """Any that has a distribution, where actions are sampled."""
        if self.actions == "sampled" and not student.policy_head.stochastic:
            raise BadParameter(
                f"{type(self).__name__} samples actions, and student.head = {student.head!r} has "
                f'only one. Take another head, or set actions = "mode".'
            )

    def search(self, mean: Tensor) -> Strategy:
        """Make the strategy of these hyper-parameters, started at a mean `[D]`."""
        if self.strategy == "snes":
            return SNES(mean, self.sigma, self.learning_rate, self.temperature)
        shaping = SHAPINGS[self.fitness_shaping]
        return OpenES(mean, self.sigma, self.learning_rate, shaping, self.beta1)


class EvolutionRun:
    """The search of one run, from its saved state or its start to its last generation.

    Args:
        settings: Hyper-parameters of the search.
        mean: Start of the search `[D]`.
        problem: Source of the environment and of every draw.
        monitor: Receiver of the run's reports, and source of its saved state.
        result: Makes the set or policy to submit from the mean `[D]`.
    """

    def __init__(
        self,
        settings: Evolution,
        mean: Tensor,
        problem: Problem,
        monitor: Monitor,
        result: Callable[[Tensor], SyntheticSet | Policy],
    ) -> None:
        self.settings, self.problem, self.monitor = settings, problem, monitor
        self.strategy, self.result = settings.search(mean), result
        self.generation, self.environment_steps = 0, 0
        if (state := monitor.resume()) is not None:
            self.strategy.restore(state.tensors)
            self.generation = int(state.facts["step"])
            self.environment_steps = int(state.facts["environment_steps"])

    def generations(self) -> Iterator[int]:
        """Iterate over the generations that remain; report before each and after the last."""
        while not self._ended():
            self._report()
            yield self.generation
            self.generation += 1
        self._report()

    def draw(self) -> Tensor:
        """Draw this generation's noise `[P, D]`."""
        generator = self.problem.generator("candidates", self.generation)
        return self.strategy.draw(self.settings.population, generator)

    def mean_returns(self, policies: StudentPolicy) -> Tensor:
        """Mean return of each candidate `[P]`, float64, over all of its policies' episodes.

        All candidates start from the same states and, where actions are sampled, draw the same
        numbers, new ones every generation, so that their returns differ only by the candidates.

        Args:
            policies: P x K policies, the K of a candidate next to each other.

        Raises:
            ObdBenchError: A return is not finite.
        """
        count = self.settings.episodes_per_policy
        generator = self.problem.generator("episodes", self.generation)
        episodes = rollout(
            self.problem.environment,
            self._acting(policies),
            policies=policies.count,
            episodes=count,
            seeds=torch.randint(2**31, (count,), generator=generator).tolist(),
            threads=min(torch.get_num_threads(), os.cpu_count() or 1),
            max_steps=self.settings.max_steps,
        )
        self.environment_steps += episodes.environment_steps
        self.monitor.count_environment_steps(episodes.environment_steps)
        returns = torch.from_numpy(episodes.returns).view(self.settings.population, -1)
        if not bool(returns.isfinite().all()):
            raise ObdBenchError(
                f"Candidates {torch.nonzero(~returns.isfinite().all(1))[:8, 0].tolist()} of "
                f"generation {self.generation} earned returns that are not finite: their policies "
                f"diverged. {advice_on_divergence(self.settings, self.problem.student)}"
            )
        return returns.mean(1)

    def _acting(self, policies: StudentPolicy) -> Policy:
        """The policies as the search lets them act."""
        if self.settings.actions == "mode":
            return policies
        generator = self.problem.generator("sampled actions", self.generation)
        own = policies.count // self.settings.population  # K policies of one candidate
        shape = (own, self.settings.episodes_per_policy)
        return policies.sampled(torch.randint(2**62, shape, generator=generator).tolist())

    def _ended(self) -> bool:
        """Whether the generations or the budget are used up."""
        budget = self.settings.environment_steps
        spent = budget is not None and self.environment_steps >= budget
        return spent or self.generation >= self.settings.outer_steps

    def _report(self) -> None:
        """Report the generation to the monitor; the last one is always scored."""
        step = self.generation
        self.monitor.progress(step, self.settings.outer_steps)
        if self._ended() or self.monitor.due(step):
            self._note_budget()
            self.monitor.note(sigma=float(torch.as_tensor(self.strategy.sigma).mean()))
            self.monitor.checkpoint(step, self.result(self.strategy.mean))
        self.monitor.save(step, self._state)

    def _note_budget(self) -> None:
        """Note the share of the budget that was taken; warn where generations end the search."""
        budget, generations = self.settings.environment_steps, self.settings.outer_steps
        if budget is None:
            return
        self.monitor.note(budget_taken=self.environment_steps / budget)
        if self._ended() and self.environment_steps < budget:
            logging.getLogger(__name__).warning(
                "The search ended after its %d generations (outer_steps) with %.0f %% of its "
                "budget of %d environment steps; more outer_steps let it take all of them.",
                generations, 100 * self.environment_steps / budget, budget,
            )  # fmt: skip

    def _state(self) -> State:
        """Tensors of the strategy and counters: all that the next generation depends on."""
        facts = {"step": self.generation, "environment_steps": self.environment_steps}
        return State(self.strategy.tensors(), facts)

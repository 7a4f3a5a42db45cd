"""Pairs that follow a gradient by Adam, AdaBelief or LAMB, towards the targets of any objective.

    m <- 0.9 m + 0.1 g;   v <- 0.999 v + 0.001 g^2       (AdaBelief: (g - m)^2 + epsilon)
    u = m / (1 - 0.9^t) / (sqrt(v / (1 - 0.999^t)) + epsilon)
    x <- x - rate u                                       (LAMB: rate |x| / |u| u, per tensor)

Sources: Adam, arXiv 1412.6980; AdaBelief, arXiv 2010.07468; LAMB, arXiv 1904.00962, Algorithm 2
(without weight decay).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from baselines.meta_gradient import MetaGradient, OuterBatch
from baselines.obd import DBC, PBC, AvPBC
from baselines.outer_loop import OBD, OuterRun
from baselines.sdw_obd import SDWOBD
from baselines.selection import require_available
from benchmark.method import (
    Method,
    Monitor,
    Problem,
    State,
    require_above_zero,
    require_positive,
    require_settings,
)
from benchmark.outer_steps import OuterSteps
from benchmark.students.heads import SQUARED_ERROR_HEADS
from benchmark.students.spec import StudentSpec
from benchmark.work import Priced

Rule = Literal["adam", "adabelief", "lamb"]
DECAYS = 0.9, 0.999
EPSILON: dict[Rule, float] = {"adam": 1e-8, "adabelief": 1e-16, "lamb": 1e-6}
"""The values of the papers' code in optax."""
OBJECTIVES: dict[str, type[OBD]] = {"dbc": DBC, "pbc": PBC, "av_pbc": AvPBC, "sdw_obd": SDWOBD}


@dataclass(frozen=True)
class AdaptivePairs(Method):
    """What methods have in common whose pairs follow an adaptive rule.

    Args:
        synthetic_size: Pairs in the set; they begin as real ones, drawn uniformly.
        objective: Targets and weights of the outer loss: those of `dbc`, `pbc`, `av_pbc` or
            `sdw_obd` at their defaults; what the method needs follows from it.
        outer_steps: Updates of the set.
        outer_learning_rate: Learning rate of the pairs.
        outer_batch: States of the dataset per outer loss.
    """

    synthetic_size: int = 256
    objective: Literal["dbc", "pbc", "av_pbc", "sdw_obd"] = "av_pbc"
    outer_steps: int = 10_000
    outer_learning_rate: float = 1e-3
    outer_batch: int = 1024

    def __post_init__(self) -> None:
        require_positive(self, "synthetic_size", "outer_steps", "outer_batch")
        require_above_zero(self, "outer_learning_rate")

    @property
    def needs(self) -> frozenset[str]:  # type: ignore[override]
        """The needs of the objective."""
        return OBJECTIVES[self.objective].needs

    def require_student(self, student: StudentSpec) -> None:
        """A head of the squared error."""
        require_settings(self, student, head=tuple(SQUARED_ERROR_HEADS))

    def work(self, observation_dim: int, action_dim: int, student: StudentSpec) -> Priced:
        """Outer steps, timed as they are taken."""
        return OuterSteps.of(self, observation_dim, action_dim, student)

    def rate(self, step: int) -> float:
        """Learning rate of the pairs at an outer step."""
        return self.outer_learning_rate

    def obd(self) -> OBD:
        """OBD of this objective: it has the targets, and the sizes of all that is drawn."""
        return OBJECTIVES[self.objective](
            synthetic_size=self.synthetic_size,
            outer_steps=self.outer_steps,
            outer_batch=self.outer_batch,
            outer_gradient_clip=self.clip,
        )

    @property
    def clip(self) -> float:
        """Largest norm of the gradient in all pairs; infinite for no limit."""
        return math.inf


class AdaptiveRun(OuterRun):
    """The normalised pairs of one run, under an adaptive rule.

    Args:
        method: Hyper-parameters.
        rule: How the pairs follow their gradient.
        problem: Source of the first pairs and of every draw.
        monitor: Receiver of the run's reports, and source of its saved state.

    Attributes:
        also_saved: Further tensors that the next outer step depends on, by name; a resumed run
            finds them in `resumed`.
    """

    def __init__(
        self, method: AdaptivePairs, rule: Rule, problem: Problem, monitor: Monitor
    ) -> None:
        method.require_student(problem.student)
        require_available(problem, method.synthetic_size)
        obd = method.obd()
        super().__init__(obd, obd.targets(problem), problem, monitor)
        self.method, self.rule = method, rule
        self.second = [torch.zeros_like(values) for values in self.velocity]
        self.also_saved: dict[str, Tensor] = {}
        if self.resumed is not None:
            self.second = [self.resumed.tensors[name] for name in _SECOND]

    def batch(self, step: int) -> OuterBatch:
        """Draw states of the dataset with their targets and weights, without noise."""
        generator = self.problem.generator("outer batch", step)
        chosen = self._draw_states(self.settings.outer_batch, generator)
        weights = self.targets.weights
        return OuterBatch(
            self.problem.observations.index_select(0, chosen)[None],
            self.targets.actions.index_select(0, chosen)[None],
            None if weights is None else weights.index_select(0, chosen)[None],
        )

    def update(self, gradient: MetaGradient) -> None:
        """Take one step of the rule; the gradient is clipped by its norm over all pairs.

        Raises:
            NotFinite: The pairs that come out hold such values.
        """
        parts = (gradient.observations[0], gradient.actions[0])
        norm = torch.linalg.vector_norm(torch.cat(parts, dim=1))
        self.norms[self.step] = norm
        scale = min(1.0, self.settings.outer_gradient_clip / (float(norm) + 1e-6))
        rate = self.method.rate(self.step)
        values = (self.observations, self.actions)
        for value, first, second, part in zip(
            values, self.velocity, self.second, parts, strict=True
        ):
            step = direction(self.rule, part * scale, first, second, self.step + 1)
            value.sub_(step * trust_ratio(value, step) if self.rule == "lamb" else step, alpha=rate)
        self.require_finite()

    def facts(self) -> dict[str, float]:
        """Facts as of every outer loop; without a limit nothing is said of clipped gradients."""
        facts = super().facts()
        if math.isinf(self.settings.outer_gradient_clip):
            facts.pop("gradient_clipped_share", None)
        return facts

    def state(self, step: int) -> State:
        """All that the next outer step depends on."""
        state = super().state(step)
        second = dict(zip(_SECOND, self.second, strict=True))
        return State({**state.tensors, **second, **self.also_saved}, state.facts)


_SECOND = ("observations_second_moment", "actions_second_moment")


def direction(rule: Rule, gradient: Tensor, first: Tensor, second: Tensor, count: int) -> Tensor:
    """The direction u of update number `count`, from 1; both moments are updated in place."""
    first.lerp_(gradient, 1 - DECAYS[0])
    squared = (gradient - first if rule == "adabelief" else gradient).square()
    second.lerp_(squared, 1 - DECAYS[1])
    if rule == "adabelief":
        second.add_(EPSILON[rule])
    spread = (second / (1 - DECAYS[1] ** count)).sqrt_().add_(EPSILON[rule])
    return first / (1 - DECAYS[0] ** count) / spread


def trust_ratio(values: Tensor, step: Tensor) -> float:
    """LAMB's |x| / |u| of one tensor; 1 where either norm is 0."""
    size, length = float(values.norm()), float(step.norm())
    return size / length if size > 0 and length > 0 else 1.0

"""RCIG for policies: FRePo's gradient, and what the pairs do to the students' bodies.

Source: Loo, Hasani, Lechner and Rus, ICML 2023, "Dataset Distillation with Convexified Implicit
Gradients" (arXiv 2302.06755), Section 4. With theta a student's body, W(theta, D) the last layer
that ridge regression gives it (baselines.last_layer), L that regression's loss and H the outer one:

    direct    dH/dD, the body held                                         (FRePo's gradient)
    v         (d^2 L / dtheta^2)^-1 dH/dtheta, by steps of Adam on v' (d^2 L / dtheta^2) v / 2
              - v' dH/dtheta
    implicit  -d/dD <v, dL/dtheta>, no longer than the direct part in X and in A

The problem is convexified: in d^2 L / dtheta^2 the network is its linearisation at theta
(baselines.body_curvature).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from baselines.adaptive_pairs import AdaptiveRun, Rule, direction
from baselines.body_curvature import BodyCurvature
from baselines.frepo import FRePo
from baselines.last_layer import features, mean_action_loss
from baselines.meta_gradient import MetaGradient, OuterBatch, Pairs
from baselines.student_pool import StudentPool, flattened, unflattened
from benchmark.method import (
    BadParameter,
    Monitor,
    Problem,
    State,
    require_above_zero,
    require_below_one,
    require_positive,
    require_settings,
)
from benchmark.students.network import Parameters
from benchmark.students.spec import StudentSpec
from benchmark.synthetic_set import SyntheticSet


@dataclass(frozen=True)
class RCIG(FRePo):
    """Pairs that follow the direct and the implicit gradient of regressed students.

    From the paper's code: AdaBelief at 3e-3, a pool of 30 students of 100 turns, each 20 steps of
    Adam at 5e-5, 20 steps for v, and a moving average of the pairs, 0.99, as the result.

    Args:
        inverse_steps: Steps of Adam for v.
        inverse_learning_rate: Learning rate of these; v is a change of the body, so by default that
            of the pool.
        average: Decay of the moving average of the pairs that is scored; 0 for the pairs.
    """

    rule: ClassVar[Rule] = "adabelief"
    tiny: ClassVar[dict[str, Any]] = {**FRePo.tiny, "turn_steps": 2, "inverse_steps": 2}
    outer_learning_rate: float = 3e-3
    pool: int = 30
    turn_steps: int = 20
    online_learning_rate: float = 5e-5
    inverse_steps: int = 20
    inverse_learning_rate: float = 5e-5
    average: float = 0.99

    def __post_init__(self) -> None:
        super().__post_init__()
        require_positive(self, "inverse_steps")
        require_above_zero(self, "inverse_learning_rate")
        require_below_one(self, "average")
        if self.solver != "ridge":
            raise BadParameter(
                f'solver is {self.solver!r}; expected "ridge": the implicit part is that of a last '
                f"layer in closed form."
            )

    def require_student(self, student: StudentSpec) -> None:
        """A ReLU network, whose tangents are written out."""
        super().require_student(student)
        require_settings(self, student, activation="relu")

    def rate(self, step: int) -> float:
        """Learning rate of the pairs, the same at every step."""
        return self.outer_learning_rate

    def run_of(self, problem: Problem, monitor: Monitor) -> AdaptiveRun:
        """The run, whose results are averages of its pairs."""
        return _AveragedRun(self, self.rule, problem, monitor)

    def gradient(
        self, pool: StudentPool, parameters: Parameters, pairs: Pairs, outer: OuterBatch
    ) -> MetaGradient:
        """The outer loss, and the sum of both parts; arguments as in FRePo."""
        sizes = pool.network.layer_sizes[: pool.network.depth - 1]
        if not sizes:  # a single layer has no body
            return super().gradient(pool, parameters, pairs, outer)
        theta = flattened(parameters[: len(sizes)]).requires_grad_()
        student = [*unflattened(theta, sizes), *parameters[len(sizes) :]]
        learned = Pairs(*(part.detach().requires_grad_() for part in pairs))
        fit = self.fit(pool, student, learned)
        inputs = features(pool.network, student, outer.observations)
        weights = None if outer.weights is None else outer.weights[0]
        loss = mean_action_loss(self.link, inputs, fit.layer, outer.actions[0], weights)
        *direct, wanted = torch.autograd.grad(loss, [*learned, theta], retain_graph=True)

        # dL/dtheta at the regressed last layer, differentiably in D
        inner = mean_action_loss(self.link, fit.features, fit.layer, learned.actions[0], None)
        inner = inner + fit.penalty * fit.layer.square().sum() / learned.actions[0].numel()
        (slope,) = torch.autograd.grad(inner, theta, create_graph=True)
        along = self.inverse(BodyCurvature(self.link, pool.network, student, fit, pairs), wanted)
        implicit = torch.autograd.grad(slope @ along, list(learned))
        parts = [
            one - other * min(1.0, float(one.norm() / other.norm().clamp(min=1e-30)))
            for one, other in zip(direct, implicit, strict=True)
        ]
        return MetaGradient(loss.detach()[None], *parts)

    def inverse(self, curvature: BodyCurvature, wanted: Tensor) -> Tensor:
        """Approximate v, a change of the body in one row, by Adam from 0."""
        along, first, second = (torch.zeros_like(wanted) for _ in range(3))
        for count in range(1, self.inverse_steps + 1):
            gradient = curvature.product(along) - wanted
            step = direction("adam", gradient, first, second, count)
            along.sub_(step, alpha=self.inverse_learning_rate)
        return along


class _AveragedRun(AdaptiveRun):
    """Pairs whose moving average is what is scored."""

    def __init__(self, method: RCIG, rule: Rule, problem: Problem, monitor: Monitor) -> None:
        super().__init__(method, rule, problem, monitor)
        self.decay = method.average
        self.averages = [self.observations.clone(), self.actions.clone()]
        if self.resumed is not None:
            self.averages = [self.resumed.tensors[name] for name in _AVERAGES]

    def update(self, gradient: MetaGradient) -> None:
        """Update the pairs, then their average."""
        super().update(gradient)
        for average, values in zip(self.averages, (self.observations, self.actions), strict=True):
            average.lerp_(values, 1 - self.decay)

    def synthetic_set(self) -> SyntheticSet:
        """The averaged pairs in the environment's units."""
        scaling = self.problem.scaling
        observations, actions = self.averages
        return SyntheticSet(scaling.observations_out(observations), scaling.actions_out(actions))

    def state(self, step: int) -> State:
        """All that the next outer step and the result depend on."""
        state = super().state(step)
        averages = dict(zip(_AVERAGES, self.averages, strict=True))
        return State({**state.tensors, **averages}, state.facts)


_AVERAGES = ("observations_average", "actions_average")

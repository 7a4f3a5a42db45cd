"""FRePo for policies: a regression on a student's features in place of its training.

Source: Zhou, Nezhadarya and Ba, NeurIPS 2022, "Dataset Distillation using Neural Feature
Regression" (arXiv 2206.00719), Algorithm 1. The features are those of a pool of students, which are
themselves trained on the pairs, a step at a time:

    repeat:
        draw a student of the pool: h the features of its last layer, W_0 that layer
        W_S = the last layer that fits A on [h(X), 1], in closed form or by T steps of descent
        D_syn = (X, A) follows the gradient of E_{s ~ D_off} w(s) |a([h(s), 1] W_S) - a*(s)|^2
        a step of BC on D_syn for that student; a fresh one in its place when it is old

Targets a* and weights w are OBD's. No training is differentiated, and the students' bodies are not.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch

from baselines.adaptive_pairs import AdaptivePairs, AdaptiveRun, Rule
from baselines.last_layer import (
    Fit,
    descent_fit,
    features,
    last_layer,
    mean_action_loss,
    ridge_fit,
)
from baselines.meta_gradient import MetaGradient, OuterBatch, Pairs
from baselines.student_pool import StudentPool
from benchmark.method import (
    Monitor,
    Problem,
    require_above_zero,
    require_positive,
    require_settings,
)
from benchmark.students.network import Parameters
from benchmark.students.spec import StudentSpec


@dataclass(frozen=True)
class FRePo(AdaptivePairs):
    """Pairs that follow the loss of students whose last layer is regressed on them.

    From the paper's code: 500,000 outer steps of LAMB at 3e-4 with a cosine decay to a tenth,
    batches of 1,024, 10 students of 100 turns, their Adam at 3e-4; its ridge is 1e-6.

    Args:
        solver: "ridge" fits the last layer in closed form; "descent" takes the student's own T
            steps from its present last layer: its training with the body held.
        link: "tanh" fits what the student's head makes of the outputs, linearised by "ridge" and
            exactly by "descent"; "identity" is the paper's linear regression of the actions.
        ridge: Ridge of the regression, as a fraction of the kernel's mean diagonal.
        pool: Students in the pool.
        turns: Turns of a student before a fresh one takes its place.
        turn_steps: Steps of Adam per turn, by which the pool's students learn the pairs.
        online_learning_rate: Learning rate of these steps.
    """

    rule: ClassVar[Rule] = "lamb"
    tiny: ClassVar[dict[str, Any]] = {"pool": 2, "turns": 2}
    outer_steps: int = 500_000
    outer_learning_rate: float = 3e-4
    solver: Literal["ridge", "descent"] = "ridge"
    link: Literal["tanh", "identity"] = "tanh"
    ridge: float = 1e-3
    pool: int = 10
    turns: int = 100
    turn_steps: int = 1
    online_learning_rate: float = 3e-4

    def __post_init__(self) -> None:
        super().__post_init__()
        require_positive(self, "pool", "turns", "turn_steps")
        require_above_zero(self, "ridge", "online_learning_rate")

    def require_student(self, student: StudentSpec) -> None:
        """A head of the squared error; for "descent" plain SGD at a constant rate too."""
        super().require_student(student)
        if self.solver == "descent":
            require_settings(
                self, student, optimizer="sgd", schedule="constant", gradient_clip=None
            )

    def rate(self, step: int) -> float:
        """A cosine from the learning rate to a tenth of it."""
        return self.decayed(step / self.outer_steps)

    def decayed(self, done: float) -> float:
        """The cosine where this share of the steps is done."""
        return self.outer_learning_rate * (0.55 + 0.45 * math.cos(math.pi * done))

    def distill(self, problem: Problem, monitor: Monitor) -> None:
        """Run Algorithm 1."""
        run = self.run_of(problem, monitor)
        pool = self.pool_of(run)
        for step in range(run.start, self.outer_steps):
            run.report(step)
            self.outer_step(run, pool, step)
        run.report(self.outer_steps)

    def run_of(self, problem: Problem, monitor: Monitor) -> AdaptiveRun:
        """The pairs of a run under this method's rule."""
        return AdaptiveRun(self, self.rule, problem, monitor)

    def pool_of(self, run: AdaptiveRun) -> StudentPool:
        """The pool of a run, fresh or as it was saved."""
        return StudentPool(
            run, size=self.pool, turns=self.turns, steps=self.turn_steps,
            learning_rate=self.online_learning_rate,
        )  # fmt: skip

    def outer_step(self, run: AdaptiveRun, pool: StudentPool, step: int) -> None:
        """Update the pairs by one student of the pool, then that student by the pairs."""
        index = pool.draw(step)
        run.update(self.gradient(pool, pool.student(index), run.pairs(), run.batch(step)))
        pool.take_turn(index, *run.pairs(), step)

    def gradient(
        self, pool: StudentPool, parameters: Parameters, pairs: Pairs, outer: OuterBatch
    ) -> MetaGradient:
        """The outer loss and its gradient in the pairs, the student's body held.

        Args:
            pool: Network and training of the students.
            parameters: Parameters of one of them, with a runs axis of 1.
            pairs: Pairs `[1, N, ...]`.
            outer: States, targets and weights `[1, B, ...]`.
        """
        learned = Pairs(*(part.detach().requires_grad_() for part in pairs))
        fit = self.fit(pool, parameters, learned)
        with torch.no_grad():
            inputs = features(pool.network, parameters, outer.observations)
        weights = None if outer.weights is None else outer.weights[0]
        loss = mean_action_loss(self.link, inputs, fit.layer, outer.actions[0], weights)
        return MetaGradient(loss.detach()[None], *torch.autograd.grad(loss, list(learned)))

    def fit(self, pool: StudentPool, parameters: Parameters, pairs: Pairs) -> Fit:
        """Fit the last layer of a student to the pairs, differentiably."""
        inputs = features(pool.network, parameters, pairs.observations)
        start = last_layer(pool.network, parameters, pairs.actions.shape[-1])
        if self.solver == "ridge":
            return ridge_fit(self.link, inputs, start, pairs.actions[0], self.ridge)
        return descent_fit(self.link, inputs, start, pairs.actions[0], pool.problem.student)


FREPO_DESCENT = FRePo(solver="descent")

"""Implicit gradients: what training does to a student, from where it ends and not from its way.

At a minimum theta* of the BC loss L on the pairs D, the implicit function theorem gives the
derivative of the outer loss H without any step of training (Lorraine, Vicol and Duvenaud, AISTATS
2020, arXiv 1911.02590, Theorem 1 and Algorithm 3; as distillation, arXiv 2203.08559):

    theta_T = T steps of BC on D from theta_0;   g = grad H(theta_T)
    p = (d^2 L / dtheta^2)^-1 g
    dH/dD = -(d^2 L / dD dtheta) p

The inverse is either the series p = a sum_{k=0}^{K} (1 - a d^2 L / dtheta^2)^k g, or K steps of
conjugate gradients. A product with the Hessian is one sweep of the R-operator; the memory does not
grow with T. Students of a few steps are not at a minimum, so this is another gradient than OBD's.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from baselines import native_engine
from baselines.adaptive_pairs import AdaptivePairs, AdaptiveRun
from baselines.meta_gradient import InnerLoop, InnerStep, MetaGradient, OuterBatch
from baselines.outer_loop import inner_loop
from baselines.student_pool import flattened, unflattened
from benchmark.method import (
    BadParameter,
    Monitor,
    Problem,
    require_above_zero,
    require_positive,
)
from benchmark.students.spec import StudentSpec

STUDENT = "student_parameters"
"""Name of the warm-started student's parameters in a saved state."""


@dataclass(frozen=True)
class ImplicitGradient(AdaptivePairs):
    """Pairs that follow the implicit gradient at the end of their students' training.

    From the code behind arXiv 2203.08559: Adam at 1e-2, gradients clipped at norm 4, 10 terms of
    the series at a = 1e-3.

    Args:
        outer_gradient_clip: Largest norm of the gradient in all pairs together.
        solver: "neumann" for the series, "conjugate" for conjugate gradients, which end before K
            steps where they meet a direction that is not curved upwards.
        solver_steps: K.
        neumann_rate: a; the series converges where it is below 2 over the largest curvature.
        damping: Added to the Hessian's diagonal, which is singular where a network has more
            parameters than the set has numbers.
        outer_steps_per_student: 1 trains a fresh student at every outer step. With more, a student
            lives for that many, and its T steps are divided among them: it is warm-started.
    """

    tiny: ClassVar[dict[str, Any]] = {"solver_steps": 2, "outer_steps_per_student": 2}
    outer_learning_rate: float = 1e-2
    outer_gradient_clip: float = 4.0
    solver: Literal["neumann", "conjugate"] = "neumann"
    solver_steps: int = 10
    neumann_rate: float = 1e-3
    damping: float = 1e-3
    outer_steps_per_student: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        require_positive(self, "solver_steps", "outer_steps_per_student")
        require_above_zero(self, "outer_gradient_clip", "neumann_rate", "damping")

    @property
    def clip(self) -> float:
        """Largest norm of the gradient in all pairs."""
        return self.outer_gradient_clip

    def engine(self, device: str) -> str:
        """The engine of the student's training."""
        return native_engine.name(device)

    def require_student(self, student: StudentSpec) -> None:
        """What OBD's adjoint needs; a warm-started one has a step each time, and no momentum."""
        self.obd().require_student(student)
        lives = self.outer_steps_per_student
        if lives > 1 and (student.momentum or student.steps < lives):
            raise BadParameter(
                f"outer_steps_per_student is {lives}, student.steps {student.steps} and "
                f"student.momentum {student.momentum:g}; expected at least one step of training "
                f"per outer step, and no momentum: an outer step would cut off its velocity."
            )

    def distill(self, problem: Problem, monitor: Monitor) -> None:
        """Distil one run, student by student."""
        run = AdaptiveRun(self, "adam", problem, monitor)
        loop = inner_loop(problem)
        if run.resumed is not None and STUDENT in run.resumed.tensors:
            run.also_saved = {STUDENT: run.resumed.tensors[STUDENT]}
        for step in range(run.start, self.outer_steps):
            run.report(step)
            run.update(self.gradient(*self.trained(run, loop, step)))
        run.report(self.outer_steps)

    def trained(
        self, run: AdaptiveRun, loop: InnerLoop, step: int
    ) -> tuple[InnerLoop, InnerStep, OuterBatch]:
        """Train the student of an outer step by its share of the T steps.

        Returns:
            The training, the BC loss at its end under the last step's noise, and the outer batch.
        """
        draw, turn = run.draw(loop, step), step % self.outer_steps_per_student
        first, last = (loop.steps * k // self.outer_steps_per_student for k in (turn, turn + 1))
        start, noise = draw.initial, None if draw.noise is None else draw.noise[first:last]
        if turn:
            start = unflattened(run.also_saved[STUDENT], loop.network.layer_sizes)
        part = dataclasses.replace(loop, steps=last - first)
        parameters = part.train(start, run.pairs(), noise)
        if self.outer_steps_per_student > 1:
            run.also_saved = {STUDENT: flattened(parameters)}
        final = None if noise is None else noise[-1]
        return part, part.inner_step(parameters, run.pairs(), final), draw.outer

    def gradient(self, loop: InnerLoop, inner: InnerStep, outer: OuterBatch) -> MetaGradient:
        """The outer loss at a trained student, and its implicit gradient in the pairs."""
        sizes = loop.network.layer_sizes

        def curved(along: Tensor) -> Tensor:
            product, _ = loop.second_derivatives(inner, unflattened(along, sizes))
            return flattened(product).add_(along, alpha=self.damping)

        loss, outer_gradient = loop.outer_gradient(inner.parameters, outer)
        along = self.solve(curved, flattened(outer_gradient))
        _, mixed = loop.second_derivatives(inner, unflattened(along, sizes))
        return MetaGradient(loss, -mixed.observations, -mixed.actions)

    def solve(self, curved: Callable[[Tensor], Tensor], wanted: Tensor) -> Tensor:
        """Approximate the inverse of a symmetric map at a vector, in K steps."""
        if self.solver == "conjugate":
            return conjugate_gradients(curved, wanted, self.solver_steps)
        term, total = wanted, wanted
        for _ in range(self.solver_steps):
            term = term - self.neumann_rate * curved(term)
            total = total + term
        return self.neumann_rate * total


def conjugate_gradients(curved: Callable[[Tensor], Tensor], wanted: Tensor, steps: int) -> Tensor:
    """Solve curved(x) = wanted from x = 0 (Hestenes and Stiefel 1952).

    It ends before a direction whose curvature is 0 or less; where that is the first one, x is 0.
    """
    solution, residual = torch.zeros_like(wanted), wanted
    direction, size = wanted, wanted.dot(wanted)
    for _ in range(steps):
        product = curved(direction)
        curvature = direction.dot(product)
        if not float(curvature) > 0:
            break
        length = size / curvature
        solution = solution + length * direction
        residual = residual - length * product
        before, size = size, residual.dot(residual)
        direction = residual + size / before * direction
    return solution


WARM_STARTED = ImplicitGradient(outer_steps_per_student=10)
"""A student lives for ten outer steps, as in the code behind arXiv 2203.08559."""

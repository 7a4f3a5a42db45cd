"""OBD with random truncated back-propagation (RaT-BPTT; Feng et al., ICLR 2024).

The gradient of an outer loss through a whole training is expensive, and far back it is mostly
noise. Here the training stops at a random step and the gradient goes back only through a window:

    end ~ uniform {window, ..., T}
    theta_{end - window} = BC on D_syn from theta_0, without stored values
    D_syn follows the gradient of H(theta_end) through the last `window` steps

A step of training costs three products per layer, its adjoint six more. On average an outer step
costs 3 (T - window) / 2 + 9 window products per layer instead of 9 T.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Hashable
from dataclasses import dataclass

import torch

from baselines.meta_gradient import MetaGradient
from baselines.obd import AvPBC
from baselines.outer_loop import OuterRun, inner_loop
from benchmark.method import BadParameter, Method, Monitor, Problem, require_positive
from benchmark.students.spec import StudentSpec
from benchmark.work import Priced


@dataclass(frozen=True)
class TruncatedAvPBC(AvPBC):
    """Av-PBC whose gradient goes back through a random window of the students' training.

    Args:
        window: Inner steps that are differentiated, at most the student's steps.
    """

    window: int = 25

    def __post_init__(self) -> None:
        super().__post_init__()
        require_positive(self, "window")

    def require_student(self, student: StudentSpec) -> None:
        """A window within the steps, and no momentum, whose velocity a window would cut off."""
        super().require_student(student)
        if student.momentum or not self.window <= student.steps:
            raise BadParameter(
                f"window is {self.window}, student.steps {student.steps} and student.momentum "
                f"{student.momentum:g}; expected a window within the steps, and no momentum: "
                f"a window would cut off its velocity."
            )

    def work(self, observation_dim: int, action_dim: int, student: StudentSpec) -> Priced | None:
        """Av-PBC's work on a training that costs as much as a window and what is before it."""
        share = self.expected_products(student.steps)
        steps = max(1, round(share * student.steps))
        return super().work(observation_dim, action_dim, dataclasses.replace(student, steps=steps))

    def pack_key(self) -> Hashable | None:
        """None: every run draws windows of its own, so runs cannot advance in lock-step."""
        return None

    def distill(self, problem: Problem, monitor: Monitor) -> None:
        """Distil one run, window by window."""
        self.require_student(problem.student)
        run = self.outer_run(problem, monitor)
        for step in range(run.start, self.outer_steps):
            run.report(step)
            run.update(self._gradient(run, step))
        run.report(self.outer_steps)

    distill_packed = Method.distill_packed  # one run after the other

    def expected_products(self, steps: int) -> float:
        """Expected products per layer of an outer step, as a fraction of those of Av-PBC."""
        return (3 * (steps - self.window) / 2 + 9 * self.window) / (9 * steps)

    def _gradient(self, run: OuterRun, step: int) -> MetaGradient:
        """The meta-gradient of one outer step, through one random window."""
        loop = inner_loop(run.problem, self.precision)
        draw = run.draw(loop, step)
        generator = run.problem.generator("window", step)
        end = int(torch.randint(self.window, loop.steps + 1, (), generator=generator))
        # Both loops share one draw of noise `[T, 1, N, act_dim]`: the first takes its first `lead`
        # steps, the second the window after them.
        lead, window = end - self.window, slice(end - self.window, end)
        before = None if draw.noise is None else draw.noise[:lead]
        reached = dataclasses.replace(loop, steps=lead).train(draw.initial, run.pairs(), before)
        return dataclasses.replace(loop, steps=self.window).gradient(
            reached,
            run.pairs(),
            draw.outer,
            None if draw.noise is None else draw.noise[window],
            None if draw.adjoint_noise is None else draw.adjoint_noise[window],
        )

"""The kernel first, unrolling after: a cheap gradient far from the end, OBD's near it.

    for the first part of the outer steps:  D_syn follows FRePo's gradient, by its rule
    for the rest:                           D_syn follows OBD's gradient, by SGD with momentum

A gradient of the first kind costs a fraction of one of the second (docs/methods.md); the second is
that of the training by which a set is scored.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from baselines import native_engine
from baselines.adaptive_pairs import AdaptiveRun
from baselines.frepo import FRePo
from baselines.meta_gradient import InnerLoop, Pairs
from baselines.outer_loop import OBD, follow, inner_loop
from benchmark.method import BadParameter, Monitor, Problem, require_above_zero
from benchmark.outer_steps import SAMPLED, OuterSteps
from benchmark.students.spec import StudentSpec
from benchmark.work import Priced


@dataclass(frozen=True)
class KernelThenUnrolled(FRePo):
    """FRePo for the first part of the outer steps, OBD under the same objective for the rest.

    Args:
        outer_steps: Updates of the set, of both kinds.
        kernel_share: Share of the outer steps that are FRePo's, in [0, 1]; its decay of the
            learning rate ends with them.
        unrolled_learning_rate: Learning rate of SGD on the pairs in the rest; its momentum and the
            clip of its gradients are OBD's.
    """

    outer_steps: int = 50_000
    kernel_share: float = 0.5
    unrolled_learning_rate: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        require_above_zero(self, "unrolled_learning_rate")
        if not 0 <= self.kernel_share <= 1:
            raise BadParameter(f"kernel_share is {self.kernel_share}; expected 0 to 1.")

    @property
    def switch(self) -> int:
        """The first outer step that is unrolled."""
        return round(self.kernel_share * self.outer_steps)

    def work(self, observation_dim: int, action_dim: int, student: StudentSpec) -> Priced:
        """FRePo's outer steps, then OBD's."""
        kernel = dataclasses.replace(self, kernel_share=1.0, outer_steps=SAMPLED)
        unrolled = None
        if rest := self.outer_steps - self.switch:
            obd = dataclasses.replace(self.obd(), outer_steps=rest)
            unrolled = obd.work(observation_dim, action_dim, student)
        return OuterSteps(
            self.switch, kernel, observation_dim, action_dim, student, others=unrolled
        )

    def rate(self, step: int) -> float:
        """FRePo's cosine, over the steps before the switch."""
        return self.decayed(step / self.switch)

    def engine(self, device: str) -> str:
        """The engine of the meta-gradient."""
        return native_engine.name(device)

    def require_student(self, student: StudentSpec) -> None:
        """What FRePo and OBD need."""
        super().require_student(student)
        self.obd().require_student(student)

    def distill(self, problem: Problem, monitor: Monitor) -> None:
        """Distil one run."""
        run = self.run_of(problem, monitor)
        pool, loop = self.pool_of(run), inner_loop(problem)
        for step in range(run.start, self.outer_steps):
            run.report(step)
            if step < self.switch:
                self.outer_step(run, pool, step)
            else:
                self.unrolled_step(run, loop, step)
        run.report(self.outer_steps)

    def unrolled_step(self, run: AdaptiveRun, loop: InnerLoop, step: int) -> None:
        """Update the pairs by the gradient through the training of a fresh student."""
        if step == self.switch:  # SGD starts without the kernel's moments
            for moving in run.velocity:
                moving.zero_()
        draw = run.draw(loop, step)
        gradient = loop.gradient(draw.initial, run.pairs(), draw.outer, draw.noise)
        velocity = Pairs(*(moving[None] for moving in run.velocity))
        run.norms[step] = follow(self.unrolled(), run.pairs(), velocity, gradient)[0]
        run.require_finite()

    def unrolled(self) -> OBD:
        """OBD as it is in the rest."""
        return dataclasses.replace(
            self.obd(),
            outer_learning_rate=self.unrolled_learning_rate,
            outer_gradient_clip=OBD.outer_gradient_clip,
        )

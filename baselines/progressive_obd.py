"""Progressive OBD: several small sets in sequence (Chen et al. 2023, arXiv 2310.06982).

One small set cannot serve a whole training equally well. Here K sets are distilled one after the
other, each for students that were trained on the earlier ones; training goes through the sets in
order, cumulatively:

    for k = 1 .. K:
        repeat:
            theta = BC on S_1, then S_1 + S_2, ... up to S_1 + ... + S_{k-1}, T/K steps each
            theta_k = T/K steps of BC on S_1 + ... + S_k from theta
            S_k follows the gradient of H(theta_k); the earlier sets stay

Students with momentum take their velocity along from stage to stage, as in the paper's evaluation
and in this suite's scoring.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from baselines.meta_gradient import InnerLoop, MetaGradient, Pairs
from baselines.obd import AvPBC
from baselines.outer_loop import Draw, OuterRun, inner_loop
from benchmark.method import BadParameter, Method, Monitor, Problem, require_positive
from benchmark.outer_steps import OuterSteps
from benchmark.students.network import Parameters
from benchmark.students.spec import StudentSpec
from benchmark.synthetic_set import SyntheticSet
from benchmark.work import Priced


@dataclass(frozen=True)
class ProgressiveAvPBC(AvPBC):
    """Av-PBC on several sets in sequence; `synthetic_size` is the sum of their sizes.

    Pairs of sets that are not distilled yet are the real ones that they start from.

    Args:
        stages: K, the number of sets; the outer steps are shared equally.
        velocity: "carried" takes the velocity of a student with momentum from stage to stage, as
            scoring does; "restarted" sets it to zero at each. No difference without momentum.
    """

    stages: int = 4
    velocity: Literal["carried", "restarted"] = "carried"

    def __post_init__(self) -> None:
        super().__post_init__()
        require_positive(self, "stages")
        if self.adjoint_noise == "fresh":
            raise BadParameter("adjoint_noise is 'fresh'; progressive sets take only 'reused'.")
        if self.stages > min(self.synthetic_size, self.outer_steps):
            raise BadParameter(
                f"stages is {self.stages}; expected at most {self.synthetic_size} (synthetic_size) "
                f"and {self.outer_steps} (outer_steps)."
            )

    def require_student(self, student: StudentSpec) -> None:
        """At least one step per stage; carried velocities are float32's only."""
        super().require_student(student)
        if student.steps < self.stages:
            raise BadParameter(
                f"stages is {self.stages} and student.steps {student.steps}; expected at least one "
                f"step per stage."
            )
        if self._carries(student) and self.precision != "float32":
            raise BadParameter(
                f"precision is {self.precision!r}, student.momentum {student.momentum:g} and "
                f'velocity "carried"; expected precision = "float32": torch, which takes '
                f"velocities along, has no other."
            )

    def _carries(self, student: StudentSpec) -> bool:
        return self.velocity == "carried" and student.momentum > 0

    def work(self, observation_dim: int, action_dim: int, student: StudentSpec) -> Priced:
        """Outer steps of every stage, timed as they are taken: their costs differ."""
        few = dataclasses.replace(self, outer_steps=self.stages)
        return OuterSteps(self.outer_steps, few, observation_dim, action_dim, student)

    def pack_key(self) -> Hashable | None:
        """None: a run changes its inner loop with the stage, so runs are not packed."""
        return None

    def distill(self, problem: Problem, monitor: Monitor) -> None:
        """Distil one run, stage by stage."""
        self.require_student(problem.student)
        run = _ProgressiveRun(self, self.targets(problem), problem, monitor)
        if self._carries(problem.student):  # the record's engine is that of the first stage
            monitor.note(engine_of_later_stages="torch")
        loop = inner_loop(problem, self.precision)
        for step in range(run.start, self.outer_steps):
            run.report(step)
            self._outer_step(run, loop, step)
        run.report(self.outer_steps)

    distill_packed = Method.distill_packed  # one run after the other

    def stage_of_pairs(self) -> Tensor:
        """Index of the set that each pair belongs to `[N]`."""
        return torch.arange(self.synthetic_size) * self.stages // self.synthetic_size

    def _outer_step(self, run: _ProgressiveRun, loop: InnerLoop, step: int) -> None:
        """Train through the earlier stages, then update the current set by its meta-gradient."""
        stage = step * self.stages // self.outer_steps
        draw = run.draw(loop, step)
        parameters: Parameters = draw.initial
        velocity: Parameters | None = None
        carries = self._carries(run.problem.student)
        for earlier in range(stage):
            part, rows, noise = self._part(run, loop, draw, earlier)
            pairs = _rows(run.pairs(), rows)
            if carries:
                parameters, velocity = part.train_on(parameters, velocity, pairs, noise)
            else:
                parameters = part.train(parameters, pairs, noise)
        part, rows, noise = self._part(run, loop, draw, stage)
        # The gradient stops at `parameters` and `velocity`: the stages before it are trained
        # through, not differentiated, and the rows of earlier sets are masked out of the update.
        pairs = _rows(run.pairs(), rows)
        gradient = part.gradient(parameters, pairs, draw.outer, noise, velocity=velocity)
        run.update_stage(rows, run.stages[rows] == stage, gradient)

    def _part(
        self, run: _ProgressiveRun, loop: InnerLoop, draw: Draw, stage: int
    ) -> tuple[InnerLoop, Tensor, Tensor | None]:
        """Inner loop of one stage, rows of the pairs that it learns from, and their noise."""
        # Stage k takes the steps ceil(T k / K) to ceil(T (k + 1) / K), and the pairs of all sets
        # up to k; the noise `[T, 1, N, act_dim]` is cut along both.
        first, last = (-(-loop.steps * k // self.stages) for k in (stage, stage + 1))
        rows = torch.nonzero(run.stages <= stage)[:, 0]
        noise = None if draw.noise is None else draw.noise[first:last, :, rows]
        return dataclasses.replace(loop, steps=last - first), rows, noise


class _ProgressiveRun(OuterRun):
    """Pairs with stages; an update moves only the pairs of one stage."""

    @property
    def stages(self) -> Tensor:
        assert isinstance(self.settings, ProgressiveAvPBC)
        return self.settings.stage_of_pairs()

    def update_stage(self, rows: Tensor, moving: Tensor, gradient: MetaGradient) -> None:
        """Update the pairs of one stage.

        Args:
            rows: Indices of the pairs that have a gradient `[n]`.
            moving: True for those of the current stage `[n]`.
            gradient: The meta-gradient in these rows.
        """
        whole = Pairs(*(torch.zeros_like(values) for values in self.pairs()))
        for target, part in zip(whole, (gradient.observations, gradient.actions), strict=True):
            target[:, rows] = part * moving[:, None]
        # Momentum would go on moving a set whose stage is over: velocities outside the current
        # stage are cleared.
        still = torch.ones(len(self.observations), dtype=torch.bool)
        still[rows[moving]] = False
        for velocity in self.velocity:
            velocity[still] = 0
        self.update(MetaGradient(gradient.loss, *whole))

    def synthetic_set(self) -> SyntheticSet:
        """The pairs in the environment's units, with their stages."""
        pairs = super().synthetic_set()
        return SyntheticSet(pairs.observations, pairs.actions, self.stages)


def _rows(pairs: Pairs, rows: Tensor) -> Pairs:
    return Pairs(pairs.observations[:, rows], pairs.actions[:, rows])

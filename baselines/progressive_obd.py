"""Progressive OBD: several small sets in sequence (Chen et al. 2023, arXiv 2310.06982).

One small set cannot serve the whole of a training. Here K sets are distilled one after the other,
each for students that have been through the ones before; training goes through them in order and
keeps the earlier ones (cumulatively):

    for k = 1 .. K:
        repeat:
            theta = BC on S_1, then S_1 + S_2, ... up to S_1 + ... + S_{k-1}, T/K steps each
            theta_k = T/K steps of BC on S_1 + ... + S_k from theta
            S_k follows the gradient of H(theta_k); the earlier sets stay
"""

from __future__ import annotations

import dataclasses
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from baselines.meta_gradient import InnerLoop, Pairs
from baselines.obd import AvPBC
from baselines.outer_loop import Draw, OuterRun, inner_loop
from benchmark.method import Assignment, BadParameter, require_positive
from benchmark.students.network import Parameters
from benchmark.synthetic_set import SyntheticSet


@dataclass(frozen=True)
class ProgressiveAvPBC(AvPBC):
    """Av-PBC on several sets in sequence; `synthetic_size` is their sum.

    Pairs of sets that are not distilled yet are the real ones that they start from.

    Args:
        stages: K; the outer steps are shared equally.
    """

    stages: int = 4

    def __post_init__(self) -> None:
        super().__post_init__()
        require_positive(self, "stages")
        if self.adjoint_noise == "fresh":
            raise BadParameter("adjoint_noise is 'fresh'; progressive sets take 'reused' alone.")
        if self.stages > min(self.synthetic_size, self.outer_steps):
            raise BadParameter(
                f"stages is {self.stages}; expected at most {self.synthetic_size} (synthetic_size) "
                f"and {self.outer_steps} (outer_steps)."
            )

    def pack_key(self) -> Hashable | None:
        """Runs are done one by one."""
        return None

    @classmethod
    def distill_packed(cls, assignments: Sequence[Assignment]) -> None:
        """One run after the other."""
        for method, problem, monitor in assignments:
            assert isinstance(method, ProgressiveAvPBC)
            method._advance(_ProgressiveRun(method, method.targets(problem), problem, monitor))

    def stage_of_pairs(self) -> Tensor:
        """The set that each pair belongs to `[N]`."""
        return torch.arange(self.synthetic_size) * self.stages // self.synthetic_size

    def _advance(self, run: _ProgressiveRun) -> None:
        loop = inner_loop(run.problem)
        if loop.momentum or loop.steps < self.stages:
            raise BadParameter(
                f"stages is {self.stages}, student.steps {loop.steps} and student.momentum "
                f"{loop.momentum:g}; expected a step a stage at least, and no momentum, whose "
                f"memory a change of sets cuts off."
            )
        for step in range(run.start, self.outer_steps):
            run.report(step)
            self._outer_step(run, loop, step)
        run.report(self.outer_steps)

    def _outer_step(self, run: _ProgressiveRun, loop: InnerLoop, step: int) -> None:
        stage = step * self.stages // self.outer_steps
        draw = run.draw(loop, step).alone()
        parameters: Parameters = draw.initial
        for earlier in range(stage):
            part, rows, noise = self._part(run, loop, draw, earlier)
            parameters = part.train(parameters, _rows(run.pairs(), rows), noise)
        part, rows, noise = self._part(run, loop, draw, stage)
        gradient = part.gradient(parameters, _rows(run.pairs(), rows), draw.outer, noise)
        run.update_stage(rows, run.stages[rows] == stage, gradient.observations, gradient.actions)

    def _part(
        self, run: _ProgressiveRun, loop: InnerLoop, draw: Draw, stage: int
    ) -> tuple[InnerLoop, Tensor, Tensor | None]:
        """The loop of one stage, the pairs that it learns from, and their noise."""
        first, last = (-(-loop.steps * k // self.stages) for k in (stage, stage + 1))
        rows = torch.nonzero(run.stages <= stage)[:, 0]
        noise = None if draw.noise is None else draw.noise[first:last, :, rows]
        return dataclasses.replace(loop, steps=last - first), rows, noise


class _ProgressiveRun(OuterRun):
    """Pairs with stages; an update moves the pairs of one stage alone."""

    @property
    def stages(self) -> Tensor:
        assert isinstance(self.settings, ProgressiveAvPBC)
        return self.settings.stage_of_pairs()

    def update_stage(
        self, rows: Tensor, moving: Tensor, observations: Tensor, actions: Tensor
    ) -> None:
        """Updates with the gradients `[1, len(rows), ...]` of these rows where `moving` is true."""
        whole = [torch.zeros_like(self.observations), torch.zeros_like(self.actions)]
        for target, gradient in zip(whole, (observations, actions), strict=True):
            target[rows] = gradient[0] * moving[:, None]
        still = torch.ones(len(self.observations), dtype=torch.bool)
        still[rows[moving]] = False
        for velocity in self.velocity:
            velocity[still] = 0  # a set that is done has no momentum left
        self.update(*whole)

    def synthetic_set(self) -> SyntheticSet:
        """The pairs in the environment's units, with their stages."""
        pairs = super().synthetic_set()
        return SyntheticSet(pairs.observations, pairs.actions, self.stages)


def _rows(pairs: Pairs, rows: Tensor) -> Pairs:
    return Pairs(pairs.observations[:, rows], pairs.actions[:, rows])

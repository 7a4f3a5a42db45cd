"""Reference row: the teacher itself, scored like a student."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray

from benchmark.method import Method, Monitor, Problem
from benchmark.scaling import Scaling
from benchmark.teachers.teacher import Teacher


@dataclass(frozen=True)
class TeacherReference(Method):
    """Scores the teacher's deterministic policy."""

    needs: ClassVar[frozenset[str]] = frozenset({"dataset", "teacher"})
    reference: ClassVar[bool] = True

    def distill(self, problem: Problem, monitor: Monitor) -> None:
        """No distillation, one checkpoint."""
        monitor.checkpoint(0, TeacherPolicy(problem.teacher, problem.scaling))


@dataclass(frozen=True)
class TeacherPolicy:
    """A teacher as one policy for `rollout`."""

    teacher: Teacher
    scaling: Scaling
    count: int = 1

    def __call__(self, observations: NDArray[np.float32]) -> NDArray[np.float32]:
        """Actions `[1, E, act_dim]` for raw observations `[1, E, obs_dim]`."""
        actions = self.teacher.act(torch.from_numpy(observations[0]))
        return self.scaling.actions_out(actions)[None].numpy()

"""Stepwise dual ranking: valuable states where the data are thin, stricter the later the step.

Source: Offline Behavioral Data Selection (KDD 2026, arXiv 2512.18246).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from baselines.selection import WITH_TEACHER, Labels, Selection, draw_rows, in_blocks
from benchmark.method import BadParameter, Problem, require_below_one

STEP_SCALE = 100  # of tanh(t / 100), the paper's schedule


@dataclass(frozen=True)
class SDR(Selection):
    """Draws uniformly from the states of every time step that pass two ranks.

    A state of time step t passes when its action value is at least the lambda1 * tanh(t / 100)
    quantile of that step's values, and its log density at most the 1 - lambda2 * tanh(t / 100)
    quantile: all states of the first step pass, and fewer of the later ones. Steps count from 0.

    Args:
        lambda1: Share of the late states that the action value removes.
        lambda2: Share of the late states that the density removes.
        valued_action: Whose action the value is of: "teacher" q(s, pi*(s)), the action that the
            pair carries, or "data" q(s, a).
    """

    needs: ClassVar[frozenset[str]] = WITH_TEACHER | {"log_density"}
    labels: Labels = "teacher"
    lambda1: float = 0.2
    lambda2: float = 0.2
    valued_action: Literal["teacher", "data"] = "teacher"

    def __post_init__(self) -> None:
        super().__post_init__()
        require_below_one(self, "lambda1", "lambda2")

    def rows(self, problem: Problem) -> Tensor:
        """Choose transitions `[N]`.

        Raises:
            BadParameter: The two ranks leave fewer.
        """
        passed = self.passed(
            problem.dataset.timesteps,
            self._values(problem).numpy(),
            problem.log_density.numpy(),
        )
        if len(passed) < self.synthetic_size:
            raise BadParameter(
                f"synthetic_size is {self.synthetic_size}, but lambda1 = {self.lambda1} and "
                f"lambda2 = {self.lambda2} leave {len(passed)} of {len(problem.dataset)} "
                f"transitions of {problem.dataset.name}. Lower lambda1, lambda2 or synthetic_size."
            )
        return draw_rows(problem, self.synthetic_size, torch.from_numpy(passed))

    def passed(
        self,
        timesteps: NDArray[np.int64],
        values: NDArray[np.floating],
        log_density: NDArray[np.floating],
    ) -> NDArray[np.int64]:
        """Rows that pass both ranks, ascending; all arguments are `[M]`."""
        # Rows sorted by time step, cut where the step changes: one group per step.
        by_step = np.argsort(timesteps, kind="stable")
        groups = np.split(by_step, np.flatnonzero(np.diff(timesteps[by_step])) + 1)
        passed = np.zeros(len(timesteps), dtype=bool)
        for group in groups:
            # 0 at the first step, where both quantiles are the extremes and every state passes.
            strictness = math.tanh(timesteps[group[0]] / STEP_SCALE)
            q, density = values[group], log_density[group]
            valuable = q >= np.quantile(q, self.lambda1 * strictness)
            thin = density <= np.quantile(density, 1 - self.lambda2 * strictness)
            passed[group] = valuable & thin
        return np.flatnonzero(passed)

    def _values(self, problem: Problem) -> Tensor:
        """Action value of every state `[M]`."""
        teacher, observations = problem.teacher, torch.from_numpy(problem.dataset.observations)
        if self.valued_action == "data":
            return in_blocks(teacher.q, observations, problem.actions)
        return in_blocks(lambda block: teacher.q(block, teacher.act(block)), observations)

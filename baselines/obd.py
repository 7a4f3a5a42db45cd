"""Offline behaviour distillation (Lei, Zhang & Tao, NeurIPS 2024, arXiv 2410.22728).

A student is trained on the synthetic pairs by T steps of BC; the outer loss holds it to a target
on states of the dataset; the pairs follow the gradient of that loss through the training:

    repeat:
        theta_0 ~ initialisation;  theta_T = T steps of BC on D_syn from theta_0
        v <- momentum * v + clip(grad_{D_syn} H(theta_T));  D_syn <- D_syn - lr * v

The three objectives differ only in H (Section 4):

    DBC     E_{(s,a) ~ D_off}  |pi_theta(s) - a|^2                       (data-based, eq. 4)
    PBC     E_{s ~ D_off}      |pi_theta(s) - pi*(s)|^2                  (policy-based, eq. 5)
    Av-PBC  E_{s ~ D_off}      q*(s, pi*(s)) |pi_theta(s) - pi*(s)|^2    (action-value weighted)
"""

from __future__ import annotations

import dataclasses
from abc import abstractmethod
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, cast

import torch
from torch import Tensor

from baselines.outer_loop import OuterRun, Targets, advance
from baselines.selection import require_available
from benchmark.method import Assignment, Method, Monitor, Problem, require_positive


@dataclass(frozen=True)
class OBD(Method):
    """The loop that the three objectives share; the defaults are the paper's.

    Args:
        synthetic_size: Pairs in the set.
        outer_steps: Updates of the set. The defaults are the paper's for Hopper; on HalfCheetah and
            Walker2d it takes 200,000 for DBC and PBC and 50,000 for Av-PBC.
        outer_learning_rate: Learning rate of SGD on the pairs.
        outer_momentum: Momentum of SGD on the pairs.
        outer_gradient_clip: Largest norm of the gradient in all pairs together; a longer one is
            scaled to it.
        outer_batch: States of the dataset per outer loss (10 batches of 256).
        adjoint_noise: "reused" differentiates the loss that was computed; "fresh" draws new action
            noise in the backward pass, as the published code does. Matters to noisy heads only.
    """

    synthetic_size: int = 256
    outer_steps: int = 50_000
    outer_learning_rate: float = 0.1
    outer_momentum: float = 0.9
    outer_gradient_clip: float = 2.0
    outer_batch: int = 2560
    adjoint_noise: Literal["reused", "fresh"] = "reused"

    def __post_init__(self) -> None:
        require_positive(self, "outer_steps", "outer_batch")

    @abstractmethod
    def targets(self, problem: Problem) -> Targets:
        """Target actions and weights of this objective on every state of the dataset."""

    def distill(self, problem: Problem, monitor: Monitor) -> None:
        """Distil one run."""
        advance([self.outer_run(problem, monitor)])

    def outer_run(self, problem: Problem, monitor: Monitor) -> OuterRun:
        """The run before its first outer step, or at the step of its saved state."""
        require_available(problem, self.synthetic_size)
        return OuterRun(self, self.targets(problem), problem, monitor)

    def pack_key(self) -> Hashable:
        """Settings of the outer loop: runs of any objective are packed where these are equal."""
        return tuple(getattr(self, field.name) for field in dataclasses.fields(OBD))

    @classmethod
    def distill_packed(cls, assignments: Sequence[Assignment]) -> None:
        """Distil R runs, each product of their outer steps batched over the runs."""
        advance([cast(OBD, a.method).outer_run(a.problem, a.monitor) for a in assignments])


@dataclass(frozen=True)
class DBC(OBD):
    """Data-based BC: students are held to the dataset's own actions."""

    def targets(self, problem: Problem) -> Targets:
        """The dataset's actions, unweighted."""
        return Targets(problem.actions, None)


@dataclass(frozen=True)
class PBC(OBD):
    """Policy-based BC: students are held to the teacher's actions.

    Args:
        teacher_action: "mean" for the teacher's deterministic action, "sampled" for one draw per
            state (the published code draws anew in every batch).
    """

    needs: ClassVar[frozenset[str]] = frozenset({"dataset", "teacher"})
    teacher_action: Literal["mean", "sampled"] = "mean"

    def targets(self, problem: Problem) -> Targets:
        """The teacher's actions, unweighted."""
        return Targets(self._teacher_actions(problem), None)

    def _teacher_actions(self, problem: Problem) -> Tensor:
        """The teacher's actions in the unit box on every state of the dataset `[M, act_dim]`."""
        observations = torch.from_numpy(problem.dataset.observations)
        if self.teacher_action == "mean":
            return problem.teacher.act(observations)
        return problem.teacher.sample(observations, problem.generator("teacher actions"))


@dataclass(frozen=True)
class AvPBC(PBC):
    """Action-value weighted PBC: every state is weighted by the value of the teacher's action.

    Args:
        beta: Factor of the action value (0.02 in the published code).
    """

    outer_steps: int = 20_000
    beta: float = 0.02

    def targets(self, problem: Problem) -> Targets:
        """The teacher's actions, weighted by beta * q*(s, pi*(s))."""
        actions = self._teacher_actions(problem)
        values = problem.teacher.q(torch.from_numpy(problem.dataset.observations), actions)
        return Targets(actions, self.beta * values)


DBC_PUBLISHED = DBC(adjoint_noise="fresh")
PBC_PUBLISHED = PBC(adjoint_noise="fresh", teacher_action="sampled")
AV_PBC_PUBLISHED = AvPBC(adjoint_noise="fresh", teacher_action="sampled")
"""The three as the published code runs them: its backward pass, and sampled teacher actions."""

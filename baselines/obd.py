"""Offline behaviour distillation (Lei, Zhang & Tao, NeurIPS 2024, arXiv 2410.22728).

A student is trained on the synthetic pairs by T steps of BC; the outer loss holds it to a target
on states of the dataset; the pairs follow the gradient of that loss through the training:

    repeat:
        theta_0 ~ initialisation;  theta_T = T steps of BC on D_syn from theta_0
        v <- momentum * v + clip(grad_{D_syn} H(theta_T));  D_syn <- D_syn - lr * v

The three objectives differ in H alone (Section 4):

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
    """What the three objectives share; the defaults are the paper's.

    Args:
        synthetic_size: Pairs in the set.
        outer_steps: Updates of the set. The defaults are the paper's for Hopper; on HalfCheetah and
            Walker2d it takes 200,000 for DBC and PBC and 50,000 for Av-PBC.
        outer_learning_rate: Of SGD on the pairs.
        outer_momentum: Of SGD on the pairs.
        outer_gradient_clip: Bound on the norm of the gradient in all pairs together.
        outer_batch: States of the dataset that an outer loss is taken over (10 batches of 256).
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
        """What this objective holds students to."""

    def distill(self, problem: Problem, monitor: Monitor) -> None:
        """Distil one run."""
        advance([self.outer_run(problem, monitor)])

    def outer_run(self, problem: Problem, monitor: Monitor) -> OuterRun:
        """The run before its first outer step, or where its saved state left it."""
        require_available(problem, self.synthetic_size)
        return OuterRun(self, self.targets(problem), problem, monitor)

    def pack_key(self) -> Hashable:
        """Runs of any objective go together, so long as their outer loops are alike."""
        return tuple(getattr(self, field.name) for field in dataclasses.fields(OBD))

    @classmethod
    def distill_packed(cls, assignments: Sequence[Assignment]) -> None:
        """Distil R runs in one batch of products."""
        advance(
            [
                cast(OBD, method).outer_run(problem, monitor)
                for method, problem, monitor in assignments
            ]
        )


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
        teacher_action: "mean" takes the teacher's deterministic action, "sampled" one draw for
            every state (the published code draws anew in every batch).
    """

    needs: ClassVar[frozenset[str]] = frozenset({"dataset", "teacher"})
    teacher_action: Literal["mean", "sampled"] = "mean"

    def targets(self, problem: Problem) -> Targets:
        """The teacher's actions, unweighted."""
        return Targets(self._teacher_actions(problem), None)

    def _teacher_actions(self, problem: Problem) -> Tensor:
        """In the unit box, for every state of the dataset `[M, act_dim]`."""
        observations = torch.from_numpy(problem.dataset.observations)
        if self.teacher_action == "mean":
            return problem.teacher.act(observations)
        return problem.teacher.sample(observations, problem.generator("teacher actions"))


@dataclass(frozen=True)
class AvPBC(PBC):
    """Action-value weighted PBC: every state counts by the value of the teacher's action.

    Args:
        beta: Scales the action value (0.02 in the published code).
    """

    outer_steps: int = 20_000
    beta: float = 0.02

    def targets(self, problem: Problem) -> Targets:
        """The teacher's actions, weighted by beta * q*(s, pi*(s))."""
        actions = self._teacher_actions(problem)
        values = problem.teacher.q(torch.from_numpy(problem.dataset.observations), actions)
        return Targets(actions, self.beta * values)


@dataclass(frozen=True)
class PublishedDBC(DBC):
    """DBC with the published code's backward pass."""

    adjoint_noise: Literal["reused", "fresh"] = "fresh"


@dataclass(frozen=True)
class PublishedPBC(PBC):
    """PBC with the published code's backward pass and sampled teacher actions."""

    adjoint_noise: Literal["reused", "fresh"] = "fresh"
    teacher_action: Literal["mean", "sampled"] = "sampled"


@dataclass(frozen=True)
class PublishedAvPBC(AvPBC):
    """Av-PBC with the published code's backward pass and sampled teacher actions."""

    adjoint_noise: Literal["reused", "fresh"] = "fresh"
    teacher_action: Literal["mean", "sampled"] = "sampled"

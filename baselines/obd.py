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

import logging
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from baselines.outer_loop import OBD, Targets
from baselines.selection import in_blocks
from benchmark.method import BadParameter, Problem, require_above_zero


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
        raw = torch.from_numpy(problem.dataset.observations)
        if self.teacher_action == "mean":
            return problem.once("teacher actions", lambda: in_blocks(problem.teacher.act, raw))
        return problem.teacher.sample(raw, problem.generator("teacher actions"))


@dataclass(frozen=True)
class AvPBC(PBC):
    """Action-value weighted PBC: every state is weighted by the value of the teacher's action.

    Weights have two effects that are worth telling apart. Their ratios say which states count;
    their mean multiplies every gradient, as a larger learning rate of the pairs would. With D4RL's
    values the published weights have a mean well above 1 (docs/deviations.md).

    Args:
        beta: Factor of the action value (0.02 in the published code).
        weights: "raw" takes beta * q as published; "mean_one" divides by the mean weight, so that
            the pairs move at PBC's step; "mean" gives every state the mean weight, which is PBC
            at Av-PBC's step. A negative weight drives students away from the teacher: the
            log names a negative mean, and a record the share of the states that have one.
    """

    outer_steps: int = 20_000
    beta: float = 0.02
    weights: Literal["raw", "mean_one", "mean"] = "raw"

    def __post_init__(self) -> None:
        super().__post_init__()
        require_above_zero(self, "beta")

    def targets(self, problem: Problem) -> Targets:
        """The teacher's actions, weighted by beta * q*(s, pi*(s))."""
        return self._scaled(self._raw_targets(problem))

    def _raw_targets(self, problem: Problem) -> Targets:
        actions = self._teacher_actions(problem)
        raw = torch.from_numpy(problem.dataset.observations)

        def values() -> Tensor:
            return in_blocks(problem.teacher.q, raw, actions)

        if self.teacher_action == "mean":  # sampled ones are the run's own
            return Targets(actions, self.beta * problem.once("values of teacher actions", values))
        return Targets(actions, self.beta * values())

    def _scaled(self, targets: Targets) -> Targets:
        """The targets with the weights that `weights` asks for.

        Raises:
            BadParameter: They are to be scaled, and their mean is not above 0.
        """
        weights, mean = targets.weights, targets.mean_weight
        if weights is None:
            return targets
        if negative := float((weights < 0).double().mean()):
            facts = {**targets.facts, "negative_weights_share": negative}
            targets = targets._replace(facts=facts)
        if self.weights == "raw":
            if not mean > 0:
                logging.getLogger(__name__).warning(
                    "The mean weight beta * q is %.4g: below 0 it drives students away from the "
                    "teacher. Take a teacher whose action values are positive, or PBC.", mean,
                )  # fmt: skip
            return targets
        if not mean > 0:
            raise BadParameter(
                f"The mean weight beta * q is {mean:.4g}, which weights = {self.weights!r} cannot "
                f"scale by; expected more than 0. Take a teacher whose action values are positive, "
                f"or PBC, which has no weights."
            )
        if self.weights == "mean_one":
            return targets._replace(weights=weights / mean)
        return targets._replace(weights=torch.full_like(weights, mean))


AV_PBC_MEAN_ONE = AvPBC(weights="mean_one")
PBC_SCALED = AvPBC(weights="mean")
"""The two that separate what Av-PBC's weights choose from how far they move the pairs: with `pbc`
and `av_pbc` they are the 2 x 2 of weighting and step."""
DBC_PUBLISHED = DBC(adjoint_noise="fresh", head_scalars="trained")
PBC_PUBLISHED = PBC(adjoint_noise="fresh", head_scalars="trained", teacher_action="sampled")
AV_PBC_PUBLISHED = AvPBC(adjoint_noise="fresh", head_scalars="trained", teacher_action="sampled")
"""The three as the published code runs them: its backward pass, sampled teacher actions, and a head
whose two scalars are trained."""

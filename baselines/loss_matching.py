"""Loss matching: pairs on which fixed random regressors lose what they lose on the real data.

Source: the abstract of arXiv 2512.00536 (ICLR 2026). Nothing is trained: in the order of d^2
linear regressors are drawn once, and the pairs descend the squared differences of their losses,

    min over D of  sum_k (L_k(D) - L_k(D_off))^2,   L_k(D) = mean over (s, a) of |phi(s) W_k - a|^2

The abstract says only this. Ours are phi(s), the normalised observation and a 1; the distribution
of W_k; and the descent.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from baselines.matching import LearnedPairs, Matching, RealPairs
from baselines.selection import BLOCK
from benchmark.method import BadParameter, Monitor, Problem
from benchmark.students.spec import StudentSpec


@dataclass(frozen=True)
class LossMatching(Matching):
    """Matches the losses of fixed random regressors.

    Args:
        regressors: Number of regressors; None takes 2 d^2, for d = obs_dim + 1 features. The losses
            depend on d (d + 1) / 2 + d act_dim + 1 moments of the pairs, about as many as d^2 where
            d is small, and then hardly determine them.
    """

    tiny: ClassVar[dict[str, int]] = {"regressors": 20}
    outer_learning_rate: float = 0.02
    regressors: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.regressors is not None and self.regressors < 1:
            raise BadParameter(
                f"regressors is {self.regressors}; expected 1 or more, or none for 2 d^2."
            )

    def require_student(self, student: StudentSpec) -> None:
        """Any: nothing here depends on the student."""

    def distill(self, problem: Problem, monitor: Monitor) -> None:
        """Draw the regressors once, then descend; a resumed run draws them again."""
        real = RealPairs(self, problem)
        pairs = LearnedPairs(self, problem, monitor)
        whole = moments_in_blocks(real.observations, real.actions)
        d, action_dim = whole.cross.shape
        generator = problem.generator("regressors")
        drawn = torch.randn(self.regressors or 2 * d * d, d, action_dim, generator=generator)
        # Of variance 1 / d, so that predictions phi W are about as large as actions.
        regressors = (drawn / d**0.5).to(problem.device)
        wanted = losses(Moments(*(part.to(regressors) for part in whole)), regressors)
        for _ in pairs.steps():
            found = losses(moments(pairs.observations[0], pairs.actions[0]), regressors)
            # The mean over k, and N times it, since the gradient in one of N pairs falls as 1 / N:
            # one learning rate holds for every number of regressors and pairs.
            pairs.descend(self.synthetic_size * (found - wanted).square().mean())


LOSS_MATCHING_RELABELLED = LossMatching(labels="teacher")


class Moments(NamedTuple):
    """Means over pairs: phi phi^T `[d, d]`, phi a^T `[d, act_dim]`, and |a|^2, a scalar."""

    features: Tensor
    cross: Tensor
    square: Tensor


def moments(observations: Tensor, actions: Tensor) -> Moments:
    """Moments of pairs: normalised observations `[N, obs_dim]`, actions `[N, act_dim]`."""
    phi, count = pad(observations, (0, 1), value=1.0), len(actions)
    return Moments(phi.T @ phi / count, phi.T @ actions / count, actions.square().sum() / count)


def moments_in_blocks(observations: Tensor, actions: Tensor) -> Moments:
    """Moments of the real data in float64, of which another copy of all rows is never held."""
    total: Moments | None = None
    blocks = zip(torch.split(observations, BLOCK), torch.split(actions, BLOCK), strict=True)
    for rows, labels in blocks:
        share = len(labels) / len(actions)
        block = [share * part for part in moments(rows.double(), labels.double())]
        total = Moments(*(block if total is None else map(torch.add, total, block)))
    assert total is not None  # `RealPairs` refuses a dataset without transitions
    return total


def losses(found: Moments, regressors: Tensor) -> Tensor:
    """Losses `[K]` of regressors `[K, d, act_dim]` on pairs that have these moments.

    mean |phi W - a|^2 = tr(W^T E[phi phi^T] W) - 2 tr(W^T E[phi a^T]) + E|a|^2: pairs enter by
    their moments only, so that the data are read once, and a step costs K d^2 act_dim products.
    """
    quadratic = (regressors * (found.features @ regressors)).sum((-2, -1))
    return quadratic - 2 * (regressors * found.cross).sum((-2, -1)) + found.square

"""Selections of the most valuable transitions: by action value, or by the return of the episode.

Source of the latter: the data of %BC (Decision Transformer, arXiv 2106.01345, Section 5: BC on the
top X% of timesteps, ordered by the returns of their episodes).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from baselines.selection import WITH_TEACHER, Selection, draw_rows, in_blocks
from benchmark.method import BadParameter, Problem


@dataclass(frozen=True)
class TopQ(Selection):
    """The highest q(s, a) of the data's own actions, whichever label the pairs then carry.

    Nothing in it is random: every seed chooses the same pairs.
    """

    needs: ClassVar[frozenset[str]] = WITH_TEACHER

    def rows(self, problem: Problem) -> Tensor:
        """Choose transitions `[N]`, the highest value first."""
        observations = torch.from_numpy(problem.dataset.observations)
        values = in_blocks(problem.teacher.q, observations, problem.actions)
        return values.topk(self.synthetic_size).indices


@dataclass(frozen=True)
class TopReturn(Selection):
    """Draws uniformly from the transitions of the episodes with the highest return.

    Args:
        fraction: Share of the dataset's transitions that these episodes may hold together (10 % in
            %BC's usual setting); the best episode is always among them.
    """

    fraction: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.fraction <= 1:
            raise BadParameter(f"fraction is {self.fraction}; expected more than 0, at most 1.")

    def rows(self, problem: Problem) -> Tensor:
        """Choose transitions `[N]`.

        Raises:
            BadParameter: The best episodes have fewer.
        """
        dataset = problem.dataset
        best_first = np.argsort(-dataset.episode_returns, kind="stable")
        held = np.cumsum(dataset.lengths[best_first])
        episodes = max(1, int(np.searchsorted(held, self.fraction * len(dataset), side="right")))
        best = np.zeros(len(dataset.lengths), dtype=bool)
        best[best_first[:episodes]] = True
        candidates = torch.from_numpy(np.repeat(best, dataset.lengths)).nonzero()[:, 0]
        if len(candidates) < self.synthetic_size:
            raise BadParameter(
                f"synthetic_size is {self.synthetic_size}, but the best episodes of {dataset.name} "
                f"({episodes} of them, fraction = {self.fraction}) have {len(candidates)} "
                f"transitions. Raise fraction, or lower synthetic_size."
            )
        return draw_rows(problem, self.synthetic_size, candidates)


TOP_RETURN_RELABELLED = TopReturn(labels="teacher")

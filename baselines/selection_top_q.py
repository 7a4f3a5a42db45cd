"""Top action value: the transitions whose actions the teacher values most."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from baselines.selection import WITH_TEACHER, Selection, in_blocks
from benchmark.method import Problem


@dataclass(frozen=True)
class TopQ(Selection):
    """The highest q(s, a) of the data's own actions, whichever label the pairs then carry.

    Nothing in it is random: every seed chooses the same pairs.
    """

    needs: ClassVar[frozenset[str]] = WITH_TEACHER

    def rows(self, problem: Problem) -> Tensor:
        """Chosen transitions `[N]`, the most valued first."""
        observations = torch.from_numpy(problem.dataset.observations)
        values = in_blocks(problem.teacher.q, observations, problem.actions)
        return values.topk(self.synthetic_size).indices

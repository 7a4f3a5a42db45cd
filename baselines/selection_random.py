"""Random states with the teacher's actions: the baseline that SDR is compared with.

Source: Offline Behavioral Data Selection, arXiv 2512.18246.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from baselines.selection import WITH_TEACHER, Labels, Selection, draw_from
from benchmark.method import Problem


@dataclass(frozen=True)
class RandomRelabelled(Selection):
    """Draws transitions uniformly, and labels them by the teacher.

    `baselines.random_selection` is the one that keeps the labels of the data.
    """

    needs: ClassVar[frozenset[str]] = WITH_TEACHER
    labels: Labels = "teacher"

    def rows(self, problem: Problem) -> Tensor:
        """Uniformly without replacement `[N]`."""
        everything = torch.arange(len(problem.dataset))
        return draw_from(everything, self.synthetic_size, problem.generator("selection"))

"""Random selection: real pairs, drawn without replacement (OBD, Table 1, "Random")."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from baselines.selection import require_available
from benchmark.method import Method, Monitor, Problem
from benchmark.synthetic_set import SyntheticSet


@dataclass(frozen=True)
class RandomSelection(Method):
    """Draws `synthetic_size` transitions of the dataset uniformly.

    Args:
        synthetic_size: Pairs to draw.
    """

    synthetic_size: int = 256

    def distill(self, problem: Problem, monitor: Monitor) -> None:
        """One draw, one checkpoint."""
        monitor.checkpoint(0, draw_pairs(problem, self.synthetic_size))


def draw_pairs(problem: Problem, size: int) -> SyntheticSet:
    """`size` real pairs, uniformly without replacement.

    Raises:
        BadParameter: The dataset has fewer transitions.
    """
    require_available(problem, size)
    dataset = problem.dataset
    chosen = torch.randperm(len(dataset), generator=problem.generator("selection"))[:size]
    return SyntheticSet(
        torch.from_numpy(dataset.observations)[chosen], torch.from_numpy(dataset.actions)[chosen]
    )

"""A part of a dataset's transitions, and a problem on it, for methods that distil from a part."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray

from benchmark.datasets.dataset import Dataset
from benchmark.method import BadParameter, Problem


class ProblemOnPart(Problem):
    """A problem on a part of its transitions; everything random is drawn as in the whole one.

    Args:
        whole: The problem.
        needs: Needs of the method that it is for.
        rows: Rows of the transitions to keep, ascending.
    """

    def __init__(self, whole: Problem, needs: frozenset[str], rows: NDArray[np.int64]) -> None:
        loaders = {
            "dataset": lambda: part_of(whole.dataset, rows),
            "teacher": lambda: whole.teacher,
            "log_density": lambda: whole.log_density[torch.from_numpy(rows)],
            "environment": lambda: whole.environment,
        }
        super().__init__(
            needs=needs, student=whole.student, scaling=whole.scaling, axes={}, loaders=loaders,
        )  # fmt: skip
        self._whole = whole

    @property
    def device(self) -> str:
        """The device of the whole problem, which learns of its use."""
        self.uses_device = True
        return self._whole.device

    def generator(self, purpose: str, step: int = 0) -> torch.Generator:
        """The generator of the whole problem."""
        return self._whole.generator(purpose, step)


@dataclass(frozen=True)
class PartOfDataset(Dataset):
    """Transitions of a dataset, each an episode of one step.

    Args:
        kept_timesteps: Position of each transition in the episode that it was taken from `[M]`.
    """

    kept_timesteps: NDArray[np.int64] = field(
        default_factory=lambda: np.empty(0, np.int64), repr=False
    )

    @cached_property
    def timesteps(self) -> NDArray[np.int64]:
        """Position of each transition in the episode that it was taken from `[M]`."""
        return self.kept_timesteps

    @cached_property
    def episode_returns(self) -> NDArray[np.float64]:
        """None: returns of episodes that were cut to pieces are not those of the data."""
        raise self._without_episodes("episode_returns")

    def returns_to_go(self, discount: float) -> NDArray[np.float64]:
        """None, for the same reason."""
        raise self._without_episodes("returns_to_go")

    def _without_episodes(self, what: str) -> BadParameter:
        return BadParameter(
            f"The method asked for {what} of {self.name}, which has transitions, but no whole "
            f"episodes. Distil from it with a method that uses transitions only."
        )


def part_of(dataset: Dataset, rows: NDArray[np.int64]) -> PartOfDataset:
    """The transitions of these rows."""
    ended = dataset.terminations[rows]
    states = np.stack([dataset.observations[rows], dataset.next_observations[rows]], axis=1)
    return PartOfDataset(
        name=f"{dataset.name} (a part: {len(rows)} of {len(dataset)} transitions)",
        env_id=dataset.env_id,
        states=states.reshape(2 * len(rows), -1),
        actions=dataset.actions[rows],
        rewards=dataset.rewards[rows],
        terminations=ended,
        truncations=~ended,
        lengths=np.ones(len(rows), dtype=np.int64),
        reference=dataset.reference,
        provenance=dataset.provenance,
        kept_timesteps=dataset.timesteps[rows],
    )

"""What selection methods share: real pairs, labelled as in the data or by the teacher."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from benchmark.method import BadParameter, Method, Monitor, Problem, require_positive
from benchmark.synthetic_set import SyntheticSet

Labels = Literal["data", "teacher"]
"""Whose actions a pair carries."""

WITH_TEACHER = frozenset({"dataset", "teacher"})
"""The needs of a method whose pairs are labelled by the teacher."""

BLOCK = 1 << 14
"""States that a teacher, or a table of distances, sees at once: some ten MB at width 256."""


@dataclass(frozen=True)
class Selection(Method):
    """Chooses `synthetic_size` transitions of the dataset, once; nothing about them is optimised.

    Args:
        synthetic_size: Pairs to choose.
        labels: "data" keeps the actions of the data. "teacher" replaces those of the chosen
            states by the teacher's; only a method that declares the teacher can.
        teacher_samples: A label of the teacher is the mean of this many draws from it (10 in SDR,
            arXiv 2512.18246).
    """

    synthetic_size: int = 256
    labels: Labels = "data"
    teacher_samples: int = 10

    def __post_init__(self) -> None:
        require_positive(self, "teacher_samples")
        require_declared_teacher(self, self.labels)

    @abstractmethod
    def rows(self, problem: Problem) -> Tensor:
        """The chosen transitions as indices into the dataset `[synthetic_size]`, no two alike."""

    def distill(self, problem: Problem, monitor: Monitor) -> None:
        """One choice, one checkpoint."""
        require_available(problem, self.synthetic_size)
        rows = self.rows(problem)
        observations = torch.from_numpy(problem.dataset.observations)[rows]
        if self.labels == "data":
            actions = torch.from_numpy(problem.dataset.actions)[rows]
        else:
            actions = problem.scaling.actions_out(self._teacher_labels(problem, observations))
        monitor.checkpoint(0, SyntheticSet(observations, actions))

    def _teacher_labels(self, problem: Problem, observations: Tensor) -> Tensor:
        """Mean of draws from the teacher, in the unit box `[N, act_dim]`."""
        generator = problem.generator("teacher labels")
        draws = [
            problem.teacher.sample(observations, generator) for _ in range(self.teacher_samples)
        ]
        return torch.stack(draws).mean(0)


def require_declared_teacher(method: Method, labels: Labels) -> None:
    """Raises BadParameter where labels of the teacher are wanted and the teacher is no need.

    `needs` is what a reader compares methods by, and it belongs to the class: another source of
    labels is therefore another class.
    """
    if labels == "teacher" and "teacher" not in method.needs:
        raise BadParameter(
            f"labels of {type(method).__name__} is 'teacher', but it declares no teacher in "
            f"`needs`. Take the method's variant of that name with _relabelled after it."
        )


def require_available(problem: Problem, size: int) -> None:
    """Raises BadParameter unless the dataset has `size` transitions."""
    dataset = problem.dataset
    if not 1 <= size <= len(dataset):
        raise BadParameter(
            f"synthetic_size is {size}; expected 1 to {len(dataset)}, the transitions of "
            f"{dataset.name}."
        )


def draw_from(candidates: Tensor, size: int, generator: torch.Generator) -> Tensor:
    """`size` of the candidate rows, uniformly without replacement."""
    return candidates[torch.randperm(len(candidates), generator=generator)[:size]]


def in_blocks(function: Callable[..., Tensor], *tensors: Tensor) -> Tensor:
    """`function` of the tensors, block of rows by block: its hidden layers need not fit for all."""
    blocks = zip(*(torch.split(tensor, BLOCK) for tensor in tensors), strict=True)
    return torch.cat([function(*block) for block in blocks])


def distances(points: Tensor, centre: Tensor) -> Tensor:
    """Euclidean distance `[M]` of `[M, D]` points from one centre `[D]`.

    Taken from the differences: that of two equal points is 0, which the expansion of the square
    would miss by rounding.
    """
    mode = "donot_use_mm_for_euclid_dist"
    return torch.cdist(points, centre[None], compute_mode=mode)[:, 0]

"""Selection of real pairs: the parts that its rules share, and the plainest rule, a uniform draw.

Source of the rows "Random" and of the draw with the teacher's labels: OBD (arXiv 2410.22728),
Table 1, and Offline Behavioral Data Selection (arXiv 2512.18246).
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from benchmark.method import BadParameter, Method, Monitor, Problem, require_positive
from benchmark.students.spec import StudentSpec
from benchmark.synthetic_set import SyntheticSet
from benchmark.work import Work

Labels = Literal["data", "teacher"]
"""Whose actions a pair carries."""

WITH_TEACHER = frozenset({"dataset", "teacher"})
"""The needs of a method that uses the teacher."""

BLOCK = 1 << 14
"""States per evaluation of a teacher or a table of distances: about 10 MB at width 256."""


@dataclass(frozen=True)
class Selection(Method):
    """Chooses `synthetic_size` transitions of the dataset, once; nothing about them is optimised.

    Args:
        synthetic_size: Pairs to choose.
        labels: "data" keeps the actions of the data; "teacher" replaces those of the chosen
            states by the teacher's, which adds the teacher to `needs`.
        teacher_samples: Draws from the teacher whose mean is its label (10 in SDR,
            arXiv 2512.18246); without effect on the labels of the data.
    """

    synthetic_size: int = 256
    labels: Labels = "data"
    teacher_samples: int = 10

    def __post_init__(self) -> None:
        require_positive(self, "synthetic_size", "teacher_samples")

    @property
    def needs(self) -> frozenset[str]:  # type: ignore[override]
        """The dataset, and the teacher where it gives the labels."""
        return needs_of_labels(self.labels)

    @abstractmethod
    def rows(self, problem: Problem) -> Tensor:
        """Choose transitions: distinct indices into the dataset `[synthetic_size]`."""

    def distill(self, problem: Problem, monitor: Monitor) -> None:
        """Choose and label the pairs; the run has this one checkpoint."""
        require_available(problem, self.synthetic_size)
        monitor.checkpoint(0, self.labelled(problem, self.rows(problem)))

    def labelled(self, problem: Problem, rows: Tensor) -> SyntheticSet:
        """The chosen transitions as pairs, with the actions that `labels` asks for."""
        observations = torch.from_numpy(problem.dataset.observations)[rows]
        if self.labels == "data":
            actions = torch.from_numpy(problem.dataset.actions)[rows]
        else:
            actions = problem.scaling.actions_out(self._teacher_labels(problem, observations))
        return SyntheticSet(observations, actions)

    def _teacher_labels(self, problem: Problem, observations: Tensor) -> Tensor:
        """Mean of draws from the teacher, in the unit box `[N, act_dim]`."""
        generator = problem.generator("teacher labels")
        draws = [
            problem.teacher.sample(observations, generator) for _ in range(self.teacher_samples)
        ]
        return torch.stack(draws).mean(0)


@dataclass(frozen=True)
class RandomSelection(Selection):
    """Draws transitions uniformly."""

    def work(self, observation_dim: int, action_dim: int, student: StudentSpec) -> Work | None:
        """Nothing worth counting."""
        return Work(0.0)

    def rows(self, problem: Problem) -> Tensor:
        """Draw rows uniformly without replacement `[N]`."""
        return draw_rows(problem, self.synthetic_size)


RANDOM_RELABELLED = RandomSelection(labels="teacher")
"""The baseline that SDR is compared with."""


def needs_of_labels(labels: Labels) -> frozenset[str]:
    """Needs of a method that uses transitions with these labels."""
    return WITH_TEACHER if labels == "teacher" else frozenset({"dataset"})


def draw_pairs(problem: Problem, size: int) -> SyntheticSet:
    """Draw `size` real pairs uniformly: those of `RandomSelection`, where other methods begin.

    Raises:
        BadParameter: The dataset has fewer transitions.
    """
    require_available(problem, size)
    rows, dataset = draw_rows(problem, size), problem.dataset
    return SyntheticSet(
        torch.from_numpy(dataset.observations)[rows], torch.from_numpy(dataset.actions)[rows]
    )


def draw_rows(problem: Problem, size: int, candidates: Tensor | None = None) -> Tensor:
    """Draw `size` rows `[size]` uniformly without replacement.

    Args:
        problem: Gives the generator.
        size: Rows to draw.
        candidates: Rows to draw from; all of the dataset's where it is left out.
    """
    count = len(problem.dataset) if candidates is None else len(candidates)
    drawn = torch.randperm(count, generator=problem.generator("selection"))[:size]
    return drawn if candidates is None else candidates[drawn]


def require_available(problem: Problem, size: int) -> None:
    """Raise BadParameter unless the dataset has `size` transitions."""
    dataset = problem.dataset
    if not 1 <= size <= len(dataset):
        raise BadParameter(
            f"synthetic_size is {size}; expected 1 to {len(dataset)}, the transitions of "
            f"{dataset.name}."
        )


def in_blocks(function: Callable[..., Tensor], *tensors: Tensor) -> Tensor:
    """Apply a function to blocks of rows, so that its hidden layers never hold all rows at once."""
    blocks = zip(*(torch.split(tensor, BLOCK) for tensor in tensors), strict=True)
    return torch.cat([function(*block) for block in blocks])

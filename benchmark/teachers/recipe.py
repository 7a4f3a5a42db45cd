"""What a teacher recipe of the registry is: an offline RL algorithm with its settings."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from benchmark.datasets.dataset import Dataset
from benchmark.registry import Registry
from benchmark.teachers.teacher import NetworkTeacher

TrainingProgress = Callable[[int, int, dict[str, float], float | None], None]
"""Called with (step, of how many, losses by name, normalized return or None)."""


@dataclass(frozen=True)
class TeacherRecipe(ABC):
    """Offline RL from a dataset to a teacher. Subclasses are frozen dataclasses of settings.

    Args:
        report_every: Steps between saved states, progress reports and evaluations.
    """

    report_every: int = 5_000

    @abstractmethod
    def train(
        self,
        dataset: Dataset,
        seed: int,
        *,
        state: Path | None = None,
        progress: TrainingProgress | None = None,
        evaluate: Callable[[NetworkTeacher], float] | None = None,
        device: str = "cpu",
    ) -> NetworkTeacher:
        """Trains a teacher; the same dataset content, settings and seed give the same teacher.

        Args:
            dataset: What to learn from; nothing else is seen.
            seed: Of initialisation and minibatches.
            state: File that the training state is kept in: a killed training goes on from there.
            progress: Called at every report.
            evaluate: Gives a teacher's normalized return, for the reports.
            device: A torch device.
        """


TEACHERS: Registry[type[TeacherRecipe]] = Registry(
    "teacher recipe",
    "obdbench.teachers",
    TeacherRecipe,  # type: ignore[arg-type]
)

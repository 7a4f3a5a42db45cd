"""Finding a dataset's teacher: in the local cache, or among those that the suite ships."""

from __future__ import annotations

import os
from importlib import resources
from pathlib import Path

from benchmark.datasets.dataset import Dataset
from benchmark.teachers.teacher import NetworkTeacher, TeacherProblem, load_teacher


def teacher_cache() -> Path:
    """Folder of locally trained and imported teachers; `OBDBENCH_CACHE` moves it."""
    root = os.environ.get("OBDBENCH_CACHE")
    return (Path(root) if root else Path.home() / ".cache" / "obdbench") / "teachers"


def cached_path(dataset: Dataset, recipe: str, seed: int = 0) -> Path:
    """Where a teacher of exactly this data, recipe and seed is kept."""
    return teacher_cache() / f"{dataset.sha256[:16]}.{recipe}.seed{seed}.safetensors"


def shipped_path(dataset_name: str, recipe: str) -> Path:
    """Where a shipped teacher of this dataset would be; the size of the dataset does not matter."""
    stem = dataset_name.partition("@")[0].replace("/", "-")
    shipped = resources.files("benchmark.teachers") / "shipped"
    return Path(str(shipped)) / f"{stem}.{recipe}.safetensors"


def shipped_teachers() -> list[Path]:
    """Every teacher file that the suite ships."""
    folder = Path(str(resources.files("benchmark.teachers") / "shipped"))
    return sorted(folder.glob("*.safetensors"))


def find_teacher(dataset: Dataset, recipe: str) -> NetworkTeacher:
    """The teacher of a dataset: the local one of exactly this data, else the shipped one.

    Raises:
        TeacherProblem: There is neither, or its dimensions do not fit the dataset.
    """
    candidates = [cached_path(dataset, recipe), shipped_path(dataset.name, recipe)]
    found = next((path for path in candidates if path.is_file()), None)
    if found is None:
        raise TeacherProblem(
            f"There is no {recipe} teacher for {dataset.name}: none in {teacher_cache()} for its "
            f"content {dataset.sha256[:16]}, none shipped. Train one with "
            f"`obdbench teacher train {dataset.name} --recipe {recipe}`."
        )
    teacher = load_teacher(found)
    check_fit(teacher, dataset, found)
    return teacher


def check_fit(teacher: NetworkTeacher, dataset: Dataset, path: Path) -> None:
    """Raises TeacherProblem where a teacher's dimensions are not the dataset's."""
    found = (teacher.observation_dim, teacher.action_dim)
    expected = (dataset.observation_dim, dataset.action_dim)
    if found != expected:
        raise TeacherProblem(
            f"The teacher {path} takes {found[0]} observations and gives {found[1]} actions; "
            f"{dataset.name} has {expected[0]} and {expected[1]}. Train or import one for it."
        )

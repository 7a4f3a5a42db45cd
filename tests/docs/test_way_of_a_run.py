"""The page of a run's way shows the frames that a run really takes, and they stay few."""

from __future__ import annotations

from pathlib import Path

from benchmark.teachers.teacher import NetworkTeacher
from tests.trace_run import report, trace

PAGE = Path(__file__).parents[2] / "docs" / "way_of_a_run.md"
MOST_FRAMES = 8
MOST_FILES = 9


def test_the_page_shows_the_frames_of_a_run(
    small_dataset_name: str, tiny_teacher: NetworkTeacher
) -> None:
    found = trace()
    shown = PAGE.read_text().split("```\n")[1].strip()
    assert report(found).split("\n\n", 1)[1].strip() == shown
    assert len(found["the meta-gradient"]) <= MOST_FRAMES
    assert len({file for frames in found.values() for file, _ in frames}) <= MOST_FILES


def test_the_page_names_nine_files_at_most_and_all_exist() -> None:
    named = [line.split("](../")[1].split(")")[0] for line in PAGE.read_text().splitlines()
             if line.startswith("| [`")]  # fmt: skip
    assert 0 < len(named) <= MOST_FILES
    assert all((PAGE.parents[1] / file).is_file() for file in named)

"""A scheduler that only remembers: to see what SLURM is told, and at sizes it is not run at."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from slurm.answers import Answer, JobKey, JobState
from slurm.scheduler import Scheduler, Unreachable

FAKE_SBATCH = """#!/bin/sh
# Takes every array: notes its name and size, and answers with a number.
number=$(($(wc -l < "{journal}") + 1))
name=$(sed -n 's/^#SBATCH --job-name=//p' "$1")
array=$(sed -n 's/^#SBATCH --array=0-\\([0-9]*\\).*/\\1/p' "$1")
echo "$name ${{array:-0}}" >> "{journal}"
echo "Submitted batch job $number"
"""


@dataclass
class FakeScheduler(Scheduler):
    """Knows the jobs in `jobs`, for as long as it `answers`."""

    jobs: dict[JobKey, JobState] = field(default_factory=dict)
    past: dict[JobKey, JobState] = field(default_factory=dict)
    answers: bool = True
    array_size: int = 1001
    asked: int = 0
    ended: list[str] = field(default_factory=list)

    def queue(self, names: Sequence[str], cluster: str = "") -> Answer:
        self.asked += 1
        if not self.answers:
            raise Unreachable("`squeue` failed: no controller")
        return Answer({key: state for key, state in self.jobs.items() if key.name in names})

    def history(self, names: Sequence[str], cluster: str = "") -> Answer:
        return Answer({key: state for key, state in self.past.items() if key.name in names})

    def cancel(self, names: Sequence[str], cluster: str = "") -> None:
        for key in self.jobs:
            if key.name in names:
                self.jobs[key] = JobState("CANCELLED")

    def end(self, numbers: Sequence[str], cluster: str = "") -> None:
        self.ended += numbers

    def max_array_size(self) -> int:
        return self.array_size


def fake_sbatch(folder: Path, patch: pytest.MonkeyPatch) -> Path:
    """Puts an `sbatch` (and an `srun`) on the path that take everything.

    Returns:
        Its journal: a line "name last-place" for each array.
    """
    folder.mkdir(parents=True, exist_ok=True)
    journal = folder / "journal"
    journal.touch()
    for name, text in (("sbatch", FAKE_SBATCH.format(journal=journal)), ("srun", "#!/bin/sh\n")):
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    patch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    return journal


def taken(journal: Path, state: str = "PENDING") -> dict[JobKey, JobState]:
    """The jobs of a journal, all in one state."""
    lines = (re.fullmatch(r"(\S+) (\d+)", line) for line in journal.read_text().splitlines())
    return {
        JobKey(line.group(1), place): JobState(state, "Priority")
        for line in lines
        if line
        for place in range(int(line.group(2)) + 1)
    }

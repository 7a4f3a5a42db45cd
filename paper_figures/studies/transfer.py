"""HaDES's generalisation study: sets scored with students they were not evolved for.

Behaviour Distillation (arXiv 2406.15042), "generalisation to other architectures and
hyper-parameters": students of other widths and depths, then of other learning rates and numbers of
gradient steps, are trained on the same sets.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

from benchmark.evaluation import score
from benchmark.protocol import Protocol
from paper_figures.studies.study import (
    NothingToStudy,
    Row,
    Study,
    finished_runs,
    finished_set,
    source_of,
)


@dataclass(frozen=True)
class Transfer(Study):
    """Returns of students over two grids: depth and width, learning rate and gradient steps.

    Args:
        sweeps: Sweeps whose HaDES sets are scored.
        largest: Number of pairs above which sets are left out.
        depths, widths: Axes of the first grid.
        learning_rates, steps: Axes of the second grid.
        students: Number of students per set, each with its own initialisation.
        episodes: Number of episodes that each student plays.
    """

    shows: ClassVar[str] = (
        "HaDES's sets under other architectures and hyper-parameters (arXiv 2406.15042)."
    )
    version: ClassVar[int] = 2
    sweeps: tuple[str, ...] = ("hades_cartpole", "hades_hopper")
    largest: int = 4
    depths: tuple[int, ...] = (2, 3, 4, 5)
    widths: tuple[int, ...] = (16, 32, 64, 128, 256)
    learning_rates: tuple[float, ...] = (0.01, 0.03, 0.1, 0.3)
    steps: tuple[int, ...] = (12, 25, 50, 100, 200)
    students: int = 10
    episodes: int = 2

    def items(self, store: Path) -> Mapping[str, Mapping[str, Any]]:
        """List one item per set of HaDES."""
        found = {
            record.run_id: source_of(record)
            for sweep in self.sweeps
            for record in finished_runs(store, sweep)
            if record.spec.method == "hades" and record.parameters["synthetic_size"] <= self.largest
        }
        if not found:
            raise NothingToStudy(
                f"{', '.join(self.sweeps)} in {store} have no HaDES set of up to {self.largest} "
                f"pairs."
            )
        return found

    def measure(self, item: str, source: Mapping[str, Any], store: Path) -> list[Row]:
        """Measure the mean return over students and episodes of every student of both grids."""
        found = finished_set(store, source)
        protocol = Protocol("transfer", self.students, self.episodes, checkpoint_every=1, last=1)
        rows: list[Row] = []
        for grid, changes in self._students():
            student = replace(found.student, **changes)
            episodes = score(
                found.pairs,
                protocol=protocol,
                student=student,
                scaling=found.scaling,
                environment=found.environment,
                # The same initialisations and episodes for every student: cells are compared.
                axes={"study": "transfer", "run": item},
            )
            values = {name: getattr(student, name) for name in AXES}
            home = student == found.student
            mean = float(episodes.returns.mean())
            rows.append(
                {"environment": found.environment, "pairs": len(found.pairs), "grid": grid,
                 "home": home, **values, "return": mean}
            )  # fmt: skip
        return rows

    def _students(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """Yield the grid and the changed settings of each student."""
        for depth in self.depths:
            for width in self.widths:
                yield "architecture", {"depth": depth, "width": width}
        for rate in self.learning_rates:
            for count in self.steps:
                yield "training", {"learning_rate": rate, "steps": count}


AXES = ("depth", "width", "learning_rate", "steps")

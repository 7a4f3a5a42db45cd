"""The table and the figure that every sweep has, whatever it is about."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from benchmark.beside import beside
from benchmark.record import Summary
from benchmark.sweep import Sweep
from paper_figures.curves import convergence
from paper_figures.figure import write_formats
from paper_figures.main_table import main_table
from paper_figures.table import Table
from results import cell_table, curves_frame, runs_frame
from results.record_index import no_garbage
from results.record_store import readable_records


@dataclass(frozen=True)
class SweepTable:
    """Table of a sweep, with what its figure is drawn from.

    Args:
        sweep: Sweep that the table is about.
        records: Its records that can be read.
        damaged: What is wrong with each of the others; its run counts as missing.
    """

    sweep: Sweep
    records: Sequence[Summary]
    damaged: list[str]

    @cached_property
    def table(self) -> Table:
        """The main table."""
        return main_table(cell_table(runs_frame(self.records, self.sweep.runs)))

    @no_garbage()
    def write(
        self, folder: Path, show: Callable[[Table], object] = lambda table: None
    ) -> list[Path]:
        """Write the table, and the figure where a run is complete.

        Args:
            folder: Folder to write to.
            show: Function that is given the table before it is written, while the figure is drawn.

        Returns:
            Paths of the files.
        """
        with beside(lambda: self._write_figure(folder)) as figure:
            show(self.table)
            files = self.table.write(folder, "table")
        return files + figure.value

    def _write_figure(self, folder: Path) -> list[Path]:
        if not any(record.status == "complete" for record in self.records):
            return []
        curves = curves_frame(self.records, self.sweep.runs)
        return write_formats(convergence(curves), folder, "convergence")


def sweep_table(store: Path, sweep: Sweep) -> SweepTable:
    """Draw up the table of a sweep, in spite of damaged records."""
    records, damaged = readable_records(store, sweep)
    return SweepTable(sweep, records, damaged)

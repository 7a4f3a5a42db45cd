"""The table and the figure that every sweep has, whatever it is about."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from benchmark.sweep import Sweep
from paper_figures.curves import convergence
from paper_figures.figure import write_formats
from paper_figures.main_table import main_table
from paper_figures.table import Table
from results import cell_table, curves_frame, runs_frame
from results.record_store import readable_records


@dataclass(frozen=True)
class SweepTable:
    """Table of a sweep, with what its figure is drawn from.

    Args:
        table: The main table.
        curves: One row per checkpoint.
        damaged: What is wrong with each record that cannot be read; its run counts as missing.
    """

    table: Table
    curves: pd.DataFrame
    damaged: list[str]

    def write(self, folder: Path) -> list[Path]:
        """Write the table, and the figure where a run is complete; return their paths."""
        files = self.table.write(folder, "table")
        if (self.curves["status"] == "complete").any():
            files.extend(write_formats(convergence(self.curves), folder, "convergence"))
        return files


def sweep_table(store: Path, sweep: Sweep) -> SweepTable:
    """Draw up the table of a sweep, in spite of damaged records."""
    records, damaged = readable_records(store, sweep)
    table = main_table(cell_table(runs_frame(records, sweep.runs)))
    return SweepTable(table, curves_frame(records), damaged)

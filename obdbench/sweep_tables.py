"""Files of a sweep: its table as Markdown, CSV and LaTeX and its figure, only from records."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from benchmark.sweep import Sweep
from paper_figures import Table, convergence, main_table, write_both
from results import cell_table, curves_frame, runs_frame
from results.record_store import sweep_records


@dataclass(frozen=True)
class SweepTables:
    """Table of a sweep, and the files that were written."""

    table: Table
    files: list[Path]


def write_tables(store: Path, sweep: Sweep) -> SweepTables:
    """Write `<store>/reports/<sweep>/` from the sweep's records, over what is there.

    Returns:
        The table and the paths of its files.
    """
    records = sweep_records(store, sweep)
    table = main_table(cell_table(runs_frame(records, sweep.runs)))
    folder = store / "reports" / sweep.name
    files = table.write(folder, "table")
    curves = curves_frame(records)
    if (curves["status"] == "complete").any():
        files.extend(write_both(convergence(curves), folder, "convergence"))
    return SweepTables(table, files)

"""Tables and figures, each made only from records."""

from paper_figures.curves import convergence
from paper_figures.figure import FigureError, write_figure, write_formats
from paper_figures.main_table import main_table
from paper_figures.table import Cell, Table, escape_latex

__all__ = [
    "Cell",
    "FigureError",
    "Table",
    "convergence",
    "escape_latex",
    "main_table",
    "write_figure",
    "write_formats",
]

"""How every figure is written: the same content gives the same bytes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib as mpl
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from benchmark.errors import ObdBenchError

DOTS_PER_INCH = 200

# No dates, no versions, fonts embedded as TrueType.
SETTINGS: dict[Any, Any] = {
    "pdf.fonttype": 42,
    "savefig.bbox": None,
    "font.size": 8.0,
    "axes.linewidth": 0.6,
}
_METADATA: dict[str, dict[str, str | None]] = {
    ".pdf": {"CreationDate": None, "ModDate": None, "Creator": "OBD-Bench", "Producer": None},
    ".png": {"Software": None},
}


class FigureError(ObdBenchError):
    """Something from which no figure can be drawn."""


def canvas(width: float, height: float) -> Figure:
    """An empty figure of a size in inches, which is drawn without a screen."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def quiet(axes: Axes) -> None:
    """A faint grid, and no frame above and to the right."""
    axes.grid(visible=True, linewidth=0.3, alpha=0.6)
    sns.despine(ax=axes)


def write_both(figure: Figure, folder: Path, name: str) -> tuple[Path, Path]:
    """Writes ``<name>.pdf`` and ``<name>.png`` into a folder, made if absent; their paths."""
    pdf, png = folder / f"{name}.pdf", folder / f"{name}.png"
    for path in (pdf, png):
        write_figure(figure, path)
    return pdf, png


def write_figure(figure: Figure, path: Path) -> None:
    """Writes a figure as PDF or PNG, by the ending; the folder is made if it is absent."""
    if path.suffix not in _METADATA:
        raise FigureError(f"A figure cannot be written as {path.name!r}; expected .pdf or .png.")
    path.parent.mkdir(parents=True, exist_ok=True)
    with mpl.rc_context(SETTINGS):
        figure.savefig(path, metadata=_METADATA[path.suffix], dpi=DOTS_PER_INCH)

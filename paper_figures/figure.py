"""What every figure shares: canvas, bands of intervals, files whose bytes follow the content."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray

from benchmark.errors import ObdBenchError
from benchmark.files import write_atomic
from results.statistics import Estimate

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
    """The results given do not suffice for a figure or table."""


def canvas(width: float, height: float) -> Figure:
    """Make an empty figure of a size in inches, which is drawn without a screen."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def quiet(axes: Axes) -> None:
    """Give axes a faint grid, and no frame above and to the right."""
    axes.grid(visible=True, linewidth=0.3, alpha=0.6)
    sns.despine(ax=axes)


def band(
    axes: Axes, x: Sequence[float], found: Sequence[Estimate], color: Any, **line: Any
) -> None:
    """Draw a line through estimates at `x`, with the band of their intervals."""
    axes.plot(x, [e.value for e in found], color=color, **{"linewidth": 1.2, **line})
    low, high = [e.low for e in found], [e.high for e in found]
    axes.fill_between(x, low, high, color=color, alpha=0.15, linewidth=0)


def density_cloud(
    axes: Axes,
    points: NDArray[Any],
    log_density: NDArray[Any],
    limits: tuple[float, float],
    *,
    size: float,
    label: str,
) -> None:
    """Draw states in a plane, coloured by log density, the dense ones last.

    Args:
        axes: Panel to draw in.
        points: Places `[N, 2]`.
        log_density: Log density of each `[N]`, in nats.
        limits: Log densities at the two ends of the colour scale.
        size: Area of a dot in square points.
        label: Title of the colour bar.
    """
    order = np.argsort(log_density, kind="stable")
    x, y = points[order].T
    dots = axes.scatter(
        x, y, c=log_density[order], s=size, cmap="viridis", vmin=limits[0], vmax=limits[1],
        linewidths=0, rasterized=True,
    )  # fmt: skip
    axes.figure.colorbar(dots, ax=axes, extend="both").set_label(label)


def require_rows(measured: pd.DataFrame, study: str) -> None:
    """Refuse a study without results.

    Raises:
        FigureError: The study has no rows.
    """
    if measured.empty:
        raise FigureError(f"The study {study} has no rows. Measure them: obdbench study {study}")


def write_both(figure: Figure, folder: Path, name: str) -> tuple[Path, Path]:
    """Write ``<name>.pdf`` and ``<name>.png`` into a folder, made if absent; return their paths."""
    pdf, png = folder / f"{name}.pdf", folder / f"{name}.png"
    for path in (pdf, png):
        write_figure(figure, path)
    return pdf, png


def write_figure(figure: Figure, path: Path) -> None:
    """Write a figure as PDF or PNG, by the ending; the folder is made if it is absent."""
    if path.suffix not in _METADATA:
        raise FigureError(f"A figure cannot be written as {path.name!r}; expected .pdf or .png.")
    buffer = io.BytesIO()  # a full disk is then an error of the disk, not one of matplotlib's
    with mpl.rc_context(SETTINGS):
        figure.savefig(
            buffer, format=path.suffix[1:], metadata=_METADATA[path.suffix], dpi=DOTS_PER_INCH
        )
    write_atomic(path, buffer.getvalue())

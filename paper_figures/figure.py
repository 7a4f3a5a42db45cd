"""What every figure shares: canvas, title and caption, bands of intervals, files and SVG.

The same content gives the same bytes. PDF and PNG are on white; an SVG inside a page takes
its ground and the colour of text and axes from the page.
"""

from __future__ import annotations

import contextlib
import hashlib
import html
import io
import itertools
import re
import textwrap
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import PolyCollection
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter
from numpy.typing import NDArray

from benchmark.beside import beside
from benchmark.errors import ObdBenchError
from benchmark.files import write_atomic
from paper_figures.palette import INK, NEUTRAL
from results.statistics import Estimate

DOTS_PER_INCH = 200

# No dates, no versions, fonts embedded as TrueType; names may hold a "$", which is not mathematics.
SETTINGS: dict[Any, Any] = {
    "pdf.fonttype": 42,
    "savefig.bbox": None,
    "font.size": 8.0,
    "axes.linewidth": 0.6,
    "axes.axisbelow": True,
    "legend.frameon": False,
    "axes.titlesize": 8.5,
    "text.parse_math": False,
    "svg.fonttype": "none",
    "svg.hashsalt": "obdbench",
}
TITLE_POINTS, CAPTION_POINTS = 9.5, 6.5
LINE = 1.3 / 72
"""Inches per point of a line of text."""
MARGIN_INCHES = 0.06
XML = '<?xml version="1.0" encoding="utf-8"?>\n'
STANDALONE = (
    "<style>svg{color:#1b1f24;background:#fff;font-family:system-ui,sans-serif}"
    "@media (prefers-color-scheme:dark){svg{color:#e6eaee;background:#14181d}}</style>"
)
_METADATA: dict[str, dict[str, str | None]] = {
    ".pdf": {"CreationDate": None, "ModDate": None, "Creator": "OBD-Bench", "Producer": None},
    ".png": {"Software": None},
    ".svg": {"Creator": None, "Date": None, "Format": None, "Type": None},
}


# Without viridis' ends, of which one is hard to see on a dark page and the other on a light one.
CLOUD = ListedColormap(mpl.colormaps["viridis"](np.linspace(0.25, 0.92, 256)))


class FigureError(ObdBenchError):
    """The results given do not suffice for a figure or table."""


def check_one_cell(cells: Iterable[str], of: str) -> None:
    """Refuse runs of several cells where their mean is to be drawn or printed.

    Args:
        cells: Id of every run's cell.
        of: What the runs have in common, for the message.

    Raises:
        FigureError: They are of several cells, a mean over which would be of none.
    """
    found = sorted(set(cells))
    if len(found) > 1:
        raise FigureError(
            f"{of} has {len(found)} cells, such as {found[0]} and {found[1]}, which differ in "
            f"other settings; a mean over them would be of none. Give it a sweep of one size, "
            f"student and protocol."
        )


def canvas(width: float, height: float) -> Figure:
    """Make an empty figure of a size in inches, which is drawn without a screen."""
    figure = Figure(figsize=(width, height), dpi=DOTS_PER_INCH, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def quiet(axes: Axes) -> None:
    """Give axes a faint grid, and no frame above and to the right."""
    axes.grid(visible=True, linewidth=0.3, color=NEUTRAL, alpha=0.5)
    open_frame(axes)


def open_frame(axes: Axes) -> None:
    """Leave out the frame above and to the right."""
    axes.spines[["top", "right"]].set_visible(False)


def band(
    axes: Axes, x: Sequence[float], found: Sequence[Estimate], color: Any, **line: Any
) -> None:
    """Draw a line through estimates at `x`, with the band of their intervals."""
    axes.plot(x, [e.value for e in found], color=color, **{"linewidth": 1.2, **line})
    fill_bands(axes, [(x, found, color)])


def fill_bands(
    axes: Axes, curves: Iterable[tuple[Sequence[float], Sequence[Estimate], Any]]
) -> None:
    """Fill the bands of all curves of a panel, below every line.

    They are one collection: one for each band took a sixth of the time of large figures.

    Args:
        axes: Panel to draw in.
        curves: Places, estimates and colour of each.
    """
    polygons, colors = [], []
    for x, found, color in curves:
        points = zip(x, found, strict=True)
        for known, part in itertools.groupby(points, lambda point: point[1].has_interval):
            if known:
                low, high = zip(*(((at, e.low), (at, e.high)) for at, e in part), strict=True)
                polygons.append([*low, *reversed(high)])
                colors.append(color)
    if polygons:
        axes.add_collection(PolyCollection(polygons, facecolors=colors, alpha=0.12, linewidths=0))


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
        x, y, c=log_density[order], s=size, cmap=CLOUD, vmin=limits[0], vmax=limits[1],
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


def finish(figure: Figure, title: str, caption: str) -> Figure:
    """Put a title above the drawing and a caption below, and lay everything out.

    The figure grows by the height of the two. It is laid out once, not again for every format.

    Args:
        figure: Figure that holds all else.
        title: What is shown.
        caption: Protocol, seeds and intervals; what was left out.
    """
    width, height = figure.get_size_inches()
    title = _wrapped(title, width, 0.62 * TITLE_POINTS)
    caption = _wrapped(caption, width, 0.54 * CAPTION_POINTS)
    caption_inches = _strip_inches(caption, CAPTION_POINTS)
    total = height + _strip_inches(title, TITLE_POINTS) + caption_inches
    figure.set_size_inches(width, total)
    engine = figure.get_layout_engine()
    assert engine is not None
    engine.set(rect=(0, caption_inches / total, 1, height / total))  # type: ignore[call-arg]
    x, y = MARGIN_INCHES / width, MARGIN_INCHES / total
    figure.suptitle(
        title, x=x, y=1 - y, ha="left", va="top", size=TITLE_POINTS, weight="bold", linespacing=1.2,
        gid="title",
    ).set_in_layout(False)  # fmt: skip
    below = figure.text(
        x, y, caption, ha="left", va="bottom", size=CAPTION_POINTS, linespacing=1.2, gid="caption"
    )
    below.set_in_layout(False)
    engine.execute(figure)
    figure.set_layout_engine(None)
    return figure


def _wrapped(text: str, width: float, character: float) -> str:
    """Break text for a figure of a width in inches.

    Args:
        text: Text in one line.
        width: Width of the figure in inches.
        character: Width of a character in points, a little above the mean.
    """
    return "\n".join(textwrap.wrap(text, int((width - 2 * MARGIN_INCHES) * 72 / character)))


def _strip_inches(text: str, points: float) -> float:
    """Height of the strip that a title or caption takes."""
    return len(text.splitlines()) * points * LINE + 2 * MARGIN_INCHES


def words(figure: Figure) -> tuple[str, str]:
    """Title and caption of a finished figure, each in one line."""
    return _words(figure, "title"), _words(figure, "caption")


def _words(figure: Figure, which: str) -> str:
    found = [text.get_text() for text in figure.texts if text.get_gid() == which]
    return " ".join(" ".join(found).split())


def plain_numbers(axes: Axes) -> None:
    """Write the ticks of logarithmic axes as plain numbers, and none between them."""
    for axis in (axes.xaxis, axes.yaxis):
        if axis.get_scale() == "log":
            axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
            axis.set_minor_formatter(NullFormatter())


def page_svg(figure: Figure) -> str:
    """Encode a finished figure as an SVG element for a page.

    It takes the page's width, font and colour of text. Title and caption are its accessible name
    and description and are not drawn: a page shows them, `words`, as text. Two figures share no id.
    """
    title, caption = words(figure)
    strips = [text for text in figure.texts if text.get_gid() in ("title", "caption")]
    for text in strips:
        text.set_visible(False)
    drawing = _encoded(figure, ".svg").decode()
    for text in strips:
        text.set_visible(True)
    # The strips of title and caption are cut away. SVG counts downwards from the top.
    above = 72 * _strip_inches(strips[0].get_text(), TITLE_POINTS)
    below = 72 * _strip_inches(strips[1].get_text(), CAPTION_POINTS)
    width, height = 72 * figure.get_size_inches()
    box = f"0 {above:.2f} {width:.2f} {height - above - below:.2f}"
    name = f"figure-{hashlib.sha256(drawing.encode()).hexdigest()[:12]}"
    return _following_the_page(drawing, name, box, title, caption)


def _following_the_page(drawing: str, name: str, box: str, title: str, caption: str) -> str:
    """Put matplotlib's drawing into an SVG element without a size, of the page's colour and font.

    Args:
        drawing: SVG by matplotlib. It writes the colour black of lines, not of areas and text.
        name: Prefix of all ids.
        box: What is shown of the drawing: left, top, width and height.
        title: Accessible name.
        caption: Accessible description.
    """
    body = drawing[drawing.index("<svg") :].partition(">")[2]
    body = re.sub(r"\s*<defs>\s*<style.*?</style>\s*</defs>", "", body, flags=re.DOTALL)
    body = body.replace(f"stroke: {INK}", "stroke: currentColor")
    body = re.sub(r" font-family: [^;\"]*;", "", body)
    body = re.sub(r'(\bid="|href="#|url\(#)', rf"\1{name}-", body)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        f'viewBox="{box}" width="100%" role="img" aria-labelledby="{name}-name {name}-text" '
        f'fill="currentColor" stroke-linejoin="round" stroke-linecap="butt">\n'
        f'<title id="{name}-name">{html.escape(title)}</title>\n'
        f'<desc id="{name}-text">{html.escape(caption)}</desc>{body}'
    )


def write_formats(figure: Figure, folder: Path, name: str) -> list[Path]:
    """Write ``<name>.pdf``, ``.png`` and ``.svg`` into a folder, made if absent, at once."""
    paths = [folder / f"{name}{ending}" for ending in _METADATA]
    with contextlib.ExitStack() as others:
        for path in paths[1:]:
            others.enter_context(beside(partial(write_figure, figure, path)))
        write_figure(figure, paths[0])
    return paths


def write_figure(figure: Figure, path: Path) -> None:
    """Write a figure as PDF, PNG or SVG, by the ending; the folder is made if it is absent.

    An SVG file is light or dark as its reader is, with a ground of its own: a browser's is white in
    the dark too.
    """
    if path.suffix not in _METADATA:
        expected = ", ".join(_METADATA)
        raise FigureError(f"A figure cannot be written as {path.name!r}; expected {expected}.")
    if path.suffix != ".svg":
        write_atomic(path, _encoded(figure, path.suffix))
        return
    width, height = 72 * figure.get_size_inches()
    box = f"0 0 {width:.2f} {height:.2f}"
    drawing = _encoded(figure, ".svg").decode()
    svg = _following_the_page(drawing, "figure", box, *words(figure))
    head, rest = svg.split("\n", 1)
    write_atomic(path, f"{head.replace('<svg', XML + '<svg', 1)}\n{STANDALONE}\n{rest}")


def _encoded(figure: Figure, ending: str) -> bytes:
    buffer = io.BytesIO()
    with mpl.rc_context(SETTINGS):
        figure.savefig(
            buffer, format=ending[1:], metadata=_METADATA[ending], dpi=DOTS_PER_INCH,
            transparent=ending == ".svg",
        )  # fmt: skip
    return buffer.getvalue()

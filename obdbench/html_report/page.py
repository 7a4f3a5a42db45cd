"""Page of the report: content, figures, style and script in one file."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Sequence
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

import jinja2
import matplotlib as mpl
import pandas as pd
from markupsafe import Markup
from matplotlib.figure import Figure

from benchmark.files import write_atomic
from benchmark.record import Record
from benchmark.sweep import Sweep
from obdbench.html_report.content import content
from obdbench.sweep_status import sweep_status
from paper_figures import convergence, over_datasets
from paper_figures.figure import SETTINGS, FigureError
from results import cell_table, curves_frame, runs_frame
from results.record_store import readable_records

FIGURES: dict[str, Callable[[pd.DataFrame, pd.DataFrame], Figure]] = {
    "Normalized return against outer step": lambda runs, curves: convergence(curves),
    "Interquartile mean and mean over datasets": lambda runs, curves: over_datasets.aggregate(runs),
    "Performance profiles": lambda runs, curves: over_datasets.profiles(runs),
    "Probability of improvement": lambda runs, curves: over_datasets.improvement(runs),
    "Stability of ranks when seeds are drawn again": lambda runs, curves: over_datasets.ranks(runs),
    "Score against cost": lambda runs, curves: over_datasets.cost(runs),
}


NO_METADATA = {"Creator": None, "Date": None, "Format": None, "Type": None}


def write_html_report(store: Path, sweep: Sweep, path: Path) -> None:
    """Write the report of a sweep; it opens from a file address.

    Args:
        store: Folder of records.
        sweep: Sweep that was started there.
        path: HTML file to write.
    """
    records, damaged = readable_records(store, sweep)
    runs = runs_frame(records)
    table = cell_table(runs_frame(records, sweep.runs))
    states = sweep_status(store, sweep)
    values = content(store, sweep, records, states, table)
    folder = resources.files("obdbench.html_report")
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    template = environment.from_string((folder / "report.html.template").read_text("utf-8"))
    page = template.render(
        name=sweep.name,
        description=sweep.description,
        style=_trusted(folder / "report.css"),
        script=_trusted(folder / "report.js"),
        bibtex=(folder / "papers.bib").read_text("utf-8"),
        unknown=states.unknown,
        damaged=damaged,
        csv=table.drop(columns="scores").to_csv(index=False),
        figures=_figures(records, runs),
        altered=values["altered"],
        data=_json(values),
    )
    write_atomic(path, page)


def _trusted(file: Traversable) -> Markup:
    """Read a file of the suite, which is not escaped."""
    return Markup(file.read_text("utf-8"))


def _json(values: Any) -> Markup:
    """Encode JSON for a script element: nothing in it can end the element."""
    text = json.dumps(values, allow_nan=False, separators=(",", ":"))
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return Markup(text)


def _figures(records: Sequence[Record], runs: pd.DataFrame) -> list[tuple[str, Markup]]:
    """Draw every figure that these records suffice for; title and SVG."""
    found = []
    curves = curves_frame(records)
    for title, draw in FIGURES.items():
        try:
            found.append((title, _svg(draw(runs, curves))))
        except FigureError:
            continue
    return found


def _svg(figure: Figure) -> Markup:
    """Encode a figure as an SVG element; the same figure gives the same text."""
    buffer = io.StringIO()
    with mpl.rc_context({**SETTINGS, "svg.hashsalt": "obdbench", "svg.fonttype": "none"}):
        figure.savefig(buffer, format="svg", metadata=NO_METADATA)
    text = buffer.getvalue()
    return Markup(text[text.index("<svg") :])

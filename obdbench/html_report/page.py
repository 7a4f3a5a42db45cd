"""Page of the report: content, figures, style and script in one file."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd
from markupsafe import Markup
from matplotlib.figure import Figure

from benchmark.beside import beside
from benchmark.files import write_atomic
from benchmark.record import Summary
from benchmark.sweep import Sweep
from obdbench.html_report.content import content, facts, headline, over_datasets
from obdbench.sweep_status import sweep_status
from paper_figures import convergence
from paper_figures.figure import FigureError, page_svg, words
from paper_figures.over_datasets import aggregate, cost, improvement, profiles, ranks
from paper_figures.table import csv_text
from results import cell_table, curves_frame, runs_frame
from results.record_index import no_garbage
from results.record_store import readable_records

FIGURES: dict[str, Callable[[pd.DataFrame, Sequence[Summary], Sweep], Figure]] = {
    "curves": lambda runs, records, sweep: convergence(curves_frame(records, sweep.runs)),
    "means": lambda runs, records, sweep: aggregate(runs),
    "profiles": lambda runs, records, sweep: profiles(runs),
    "improvement": lambda runs, records, sweep: improvement(runs),
    "ranks": lambda runs, records, sweep: ranks(runs),
    "cost": lambda runs, records, sweep: cost(runs),
}
WIDE_INCHES = 6.6
"""Width from which a figure takes the page's whole width; others stand two in a row."""


@dataclass(frozen=True)
class PageFigure:
    """A figure as the page shows it.

    Args:
        name: Key in `FIGURES`.
        title: What it shows.
        caption: Protocol, seeds and intervals; what was left out.
        svg: Element that takes the page's width and colours.
        pixels: Width at which its text has the size that it was drawn for.
        wide: Whether it takes a row of its own.
    """

    name: str
    title: str
    caption: str
    svg: Markup
    pixels: int
    wide: bool


@no_garbage()
def write_html_report(store: Path, sweep: Sweep, path: Path) -> None:
    """Write the report of a sweep; it opens from a file address.

    Args:
        store: Folder of records.
        sweep: Sweep that was started there.
        path: HTML file to write.
    """
    records, damaged = readable_records(store, sweep)
    runs = runs_frame(records, sweep.runs)
    with contextlib.ExitStack() as others:
        drawn = [
            others.enter_context(beside(partial(_figure, name, runs, records, sweep)))
            for name in FIGURES
        ]
        table = cell_table(runs)
        overall = over_datasets(runs, table)
        states = sweep_status(store, sweep)
        values = content(store, sweep, records, states, table, overall)
        data = _json(values)
    figures = [later.value for later in drawn if later.value]
    landing = "means" if len(overall) else "curves"
    folder = resources.files("obdbench.html_report")
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    template = environment.from_string((folder / "report.html.template").read_text("utf-8"))
    script = (folder / "report.js").read_text("utf-8")
    page = template.render(
        name=sweep.name,
        description=sweep.description,
        style=Markup((folder / "report.css").read_text("utf-8")),
        script=Markup(script),
        script_sha256=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        bibtex=(folder / "papers.bib").read_text("utf-8"),
        unknown=states.unknown,
        damaged=damaged,
        facts=facts(sweep, records, runs[runs["status"] != "missing"]),
        headline=headline(overall if len(overall) else table),
        csv=csv_text(table.drop(columns=["scores", "returns", "seeds"])),
        landing=[figure for figure in figures if figure.name == landing],
        figures=[figure for figure in figures if figure.name != landing],
        altered=values["altered"],
        data=data,
    )
    write_atomic(path, page)


def _json(values: Any) -> Markup:
    """Encode JSON for a script element: nothing in it can end the element."""
    text = json.dumps(values, allow_nan=False, separators=(",", ":"))
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return Markup(text)


def _figure(
    name: str, runs: pd.DataFrame, records: Sequence[Summary], sweep: Sweep
) -> PageFigure | None:
    """Draw a figure; None where these records do not suffice for it."""
    try:
        figure = FIGURES[name](runs, records, sweep)
    except FigureError:
        return None
    inches, svg = figure.get_figwidth(), Markup(page_svg(figure))
    return PageFigure(name, *words(figure), svg, round(96 * inches), inches >= WIDE_INCHES)

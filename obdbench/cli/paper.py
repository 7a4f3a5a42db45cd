"""`obdbench paper | study`: the papers' tables and figures, and the measurements behind some."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from benchmark.errors import ObdBenchError, did_you_mean
from obdbench.cli.console import err, out, progress_bar
from obdbench.cli.options import DEFAULT_STORE, Store, store_option

# What a command works with is imported when it works, so that --help is quick.


def paper(
    names: Annotated[
        list[str] | None, typer.Argument(help="Names of tables and figures; all by default.")
    ] = None,
    store: Annotated[
        Path | None, typer.Option(help="Folder of records; the suite's own by default.")
    ] = None,
    to: Annotated[Path, typer.Option(help="Folder to write to.")] = Path("paper"),
) -> None:
    """Write the papers' tables and figures from whatever records there are.

    Without --store they come from the records that the suite ships, at once and without a run.
    """
    from paper_figures.exhibits import EXHIBITS, NoRecords, write
    from paper_figures.figure import FigureError
    from results.record_store import SHIPPED
    from results.study_results import NoStudy

    known = {exhibit.name: exhibit for exhibit in EXHIBITS}
    if unknown := sorted(set(names or ()) - known.keys()):
        raise ObdBenchError(
            f"No table or figure is called {unknown[0]!r}. "
            f"{did_you_mean(unknown[0], known, 'obdbench list')}"
        )
    left_out: set[str] = set()
    broken = False
    for exhibit in EXHIBITS:
        if names and exhibit.name not in names:
            continue
        try:
            paths = write(exhibit, store or SHIPPED, to)
        except ObdBenchError as error:
            err.print(f"{exhibit.name}: left out: {error}")
            left_out.add(exhibit.name)
            broken |= not isinstance(error, (NoRecords, NoStudy, FigureError))
            continue
        out.print(f"{exhibit.name}: {exhibit.shows}")
        for path in paths:
            out.print(f"  {path}")
    if broken or left_out & set(names or ()):
        raise typer.Exit(1)


def study(
    name: Annotated[str, typer.Argument(help="Name of a study; obdbench list has them.")],
    store: Store = DEFAULT_STORE,
) -> None:
    """Measure what `obdbench paper` shows next to the runs' scores.

    Every item is stored as soon as it is measured: a study that was killed goes on from there.
    Items whose sets or datasets have changed are measured again.
    """
    from paper_figures.studies.study import STUDIES, perform  # which drawing does without

    STUDIES[name]
    with progress_bar(f"study {name}", "items", None) as bar:
        measured, count = perform(
            name, store, lambda done, total, item: bar.update(done, item, total=total)
        )
    out.print(
        f"{name}: {measured} items measured now, {count} in all. "
        f"Tables and figures: obdbench paper{store_option(store)}",
    )

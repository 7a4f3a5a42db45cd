"""`obdbench study`: what the papers measure on finished runs and on datasets."""

from __future__ import annotations

from typing import Annotated

import typer

from obdbench.cli.console import out, progress_bar
from obdbench.cli.stores import DEFAULT_STORE, Store, store_option
from paper_figures.studies.study import STUDIES, perform


def study(
    name: Annotated[str, typer.Argument(help="Of a study; obdbench list names them.")],
    store: Store = DEFAULT_STORE,
) -> None:
    """Measure what `obdbench paper` shows beside the runs' scores.

    Every item is kept as soon as it is measured: a study that is killed goes on from there. Items
    whose sets or datasets have changed are measured again.
    """
    STUDIES[name]
    with progress_bar(f"study {name}", "items", None) as bar:
        measured, count = perform(
            name, store, lambda done, total, item: bar.update(done, item, total=total)
        )
    out.print(
        f"{name}: {measured} items measured now, {count} in all. "
        f"Tables and figures: obdbench paper{store_option(store)}",
        highlight=False,
    )

"""Which store of records is meant where none is named, and what names another one in a command."""

from __future__ import annotations

from pathlib import Path

DEFAULT_STORE = Path("obdbench-runs")
"""Folder of records where no other is given."""
SHIPPED = Path(__file__).with_name("shipped")
"""The store that the suite ships; `obdbench table NAME --store` reads it like any other."""


def store_option(store: Path) -> str:
    """What a command for the same store needs at its end.

    "" for the default one, and for the shipped one, in which no runs are made.
    """
    known = (DEFAULT_STORE.resolve(), SHIPPED.resolve())
    return "" if store.resolve() in known else f" --store {store}"

"""The store of records as commands name it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from obdbench.face import DEFAULT_STORE
from obdbench.sweeps import find_sweep

__all__ = ["DEFAULT_STORE", "Store", "find_sweep", "store_option"]

Store = Annotated[
    Path,
    typer.Option(envvar="OBDBENCH_STORE", help="Folder of records."),
]


def store_option(store: Path) -> str:
    """What a command for the same store needs at its end; "" for the default one."""
    return "" if store.resolve() == DEFAULT_STORE.resolve() else f" --store {store}"

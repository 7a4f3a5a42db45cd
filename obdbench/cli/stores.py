"""The store of records as commands name it, and the sweeps that they find in it."""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import Annotated

import typer

from benchmark.config import BadConfiguration
from benchmark.errors import did_you_mean
from benchmark.sweep import Sweep, read_sweep
from results.record_store import load_sweep, started_sweeps

Store = Annotated[
    Path,
    typer.Option(envvar="OBDBENCH_STORE", help="Folder of records."),
]
DEFAULT_STORE = Path("obdbench-runs")


def store_option(store: Path) -> str:
    """What a command for the same store needs at its end; "" for the default one."""
    return "" if store.resolve() == DEFAULT_STORE.resolve() else f" --store {store}"


def find_sweep(name: str, store: Path) -> Sweep:
    """A sweep from a TOML file, a shipped one by name, or one that was started in the store."""
    path = Path(name)
    if path.suffix == ".toml":
        return read_sweep(path)
    shipped = {
        entry.name.removesuffix(".toml"): entry
        for entry in resources.files("obdbench.sweeps").iterdir()
        if entry.name.endswith(".toml")
    }
    if name in shipped:
        return read_sweep(Path(str(shipped[name])))
    started = started_sweeps(store)
    if name not in started:
        raise BadConfiguration(
            f"No sweep is called {name!r}, neither shipped nor started in {store} (a file ends in "
            f".toml). {did_you_mean(name, {*shipped, *started})}"
        )
    return load_sweep(store, name)

"""The sweeps that the suite ships, one TOML file each, and how a sweep is found by its name."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from benchmark.sweep import Sweep


def shipped_sweeps() -> dict[str, Path]:
    """Every shipped sweep by name."""
    return {path.stem: path for path in sorted(Path(__file__).parent.glob("*.toml"))}


def find_sweep(name: str, store: Path) -> Sweep:
    """A sweep from a TOML file, a shipped one by name, or one that was started in the store.

    Raises:
        BadConfiguration: There is none; with the nearest names.
    """
    from benchmark.config import BadConfiguration
    from benchmark.errors import did_you_mean
    from benchmark.sweep import read_sweep
    from results.record_store import load_sweep, started_sweeps

    shipped = shipped_sweeps()
    if name.endswith(".toml"):
        stem = Path(name).stem
        if stem in shipped and not Path(name).exists():
            raise BadConfiguration(
                f"The sweep file {name} does not exist. {stem!r} is shipped, and named without "
                f".toml: obdbench sweep {stem}"
            )
        return read_sweep(Path(name))
    if name in shipped:
        return read_sweep(shipped[name])
    started = started_sweeps(store)
    if name not in started:
        lists = f"obdbench list, and ls {store / 'sweeps'} for those that were started"
        raise BadConfiguration(
            f"No sweep is called {name!r}, neither shipped nor started in {store} (a file ends in "
            f".toml). {did_you_mean(name, {*shipped, *started}, lists)}"
        )
    return load_sweep(store, name)

"""The record store: which runs of a sweep are done, running, failed or missing.

A store is a folder: `<cell id>/seed<k>/record.json` with the run's synthetic sets beside it, and
`sweeps/<name>.json`, the list of runs that a sweep asked for. One file a run, renamed into place,
is safe on a shared file system and needs no server.
"""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from benchmark.errors import ObdBenchError, did_you_mean
from benchmark.files import write_atomic
from benchmark.record import FILE, Record, read_record
from benchmark.run import ALIVE, run_folder
from benchmark.spec import RunSpec
from benchmark.sweep import Sweep

STALE_SECONDS = 120.0
"""A run of another host that has not said it is alive for this long counts as stopped."""

RunState = Literal["done", "running", "failed", "stopped", "missing"]


@dataclass(frozen=True)
class Progress:
    """Where a run is.

    Args:
        state: `stopped` is a run that began and whose process is gone without a record.
        fraction: Of its outer steps, as of its last sign of life; 1 for a run with a record.
        error: Type of the error, for a failed run.
    """

    state: RunState
    fraction: float = 0.0
    error: str | None = None


def save_sweep(store: Path, sweep: Sweep) -> None:
    """Keeps what a sweep asked for, so that `status` and tables know what is missing."""
    values = {
        "name": sweep.name,
        "description": sweep.description,
        "runs": [run.as_dict() for run in sweep.runs],
    }
    write_atomic(_sweep_path(store, sweep.name), json.dumps(values, indent=1) + "\n")


def load_sweep(store: Path, name: str) -> Sweep:
    """A sweep that was started in this store.

    Raises:
        ObdBenchError: None of that name was; with the nearest names.
    """
    path = _sweep_path(store, name)
    if not path.is_file():
        known = [p.stem for p in (store / "sweeps").glob("*.json")]
        raise ObdBenchError(f"No sweep {name!r} was started in {store}. {did_you_mean(name, known)}")
    values = json.loads(path.read_text())
    runs = tuple(RunSpec.from_dict(run) for run in values["runs"])
    return Sweep(values["name"], values["description"], runs)


def sweep_records(store: Path, sweep: Sweep) -> list[Record]:
    """The records of a sweep's runs, in the sweep's order; runs without one are left out."""
    paths = (run_folder(store, run) / FILE for run in sweep.runs)
    return [read_record(path) for path in paths if path.exists()]


def all_records(store: Path) -> Iterator[Record]:
    """Every record of a store, in the order of its path."""
    for path in sorted(store.glob(f"*/seed*/{FILE}")):
        yield read_record(path)


def progress(store: Path, run: RunSpec) -> Progress:
    """Where a run is, from its record or its last sign of life."""
    folder = run_folder(store, run)
    if (folder / FILE).exists():
        record = read_record(folder / FILE)
        if record["status"] == "complete":
            return Progress("done", 1.0)
        if not _alive(folder):
            return Progress("failed", 1.0, record["error"]["type"])
    sign = _last_sign(folder)
    if sign is None:
        return Progress("stopped" if (folder / "state.safetensors").exists() else "missing")
    fraction = sign["step"] / sign["total"] if sign["total"] else 0.0
    return Progress("running" if _alive(folder) else "stopped", fraction)


def _last_sign(folder: Path) -> dict[str, Any] | None:
    try:
        sign: dict[str, Any] = json.loads((folder / ALIVE).read_text())
    except (FileNotFoundError, json.JSONDecodeError):
        return None
    return sign


def _alive(folder: Path) -> bool:
    """Whether the process that last worked on a run is still there."""
    sign = _last_sign(folder)
    if sign is None:
        return False
    if sign["host"] == platform.node():
        return _process_exists(sign["pid"])
    try:
        return time.time() - (folder / ALIVE).stat().st_mtime < STALE_SECONDS
    except FileNotFoundError:
        return False


def _process_exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _sweep_path(store: Path, name: str) -> Path:
    return store / "sweeps" / f"{name}.json"

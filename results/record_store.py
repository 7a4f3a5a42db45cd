"""The store of records: which runs of a sweep are done, running, failed or missing.

A store is a folder: `<cell id>/seed<k>/record.json` next to the run's synthetic sets, and
`sweeps/<name>.json`, the list of runs that a sweep asked for. One file per run, renamed into place,
is safe on a shared file system and needs no server.
"""

from __future__ import annotations

import contextlib
import json
import platform
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
import psutil
from msgspec import Meta

from benchmark.errors import ObdBenchError, did_you_mean
from benchmark.files import MOST_OF_RUNS, json_sha256, read_small, write_atomic
from benchmark.heartbeat import ALIVE, Sign, last_sign
from benchmark.names import check_inside, check_name
from benchmark.record import FILE, BadRecord, Record, Summary, read_record, record_folder
from benchmark.spec import RunSpec
from benchmark.sweep import Sweep
from results.record_index import Entry, Found, indexed_records, no_garbage
from results.stores import SHIPPED as SHIPPED

SWEEPS = "sweeps"
"""Folder of the sweeps that were started in a store."""
STALE_SECONDS = 120.0
"""A run on another host counts as stopped after this long without a sign of life."""

RunState = Literal["done", "running", "failed", "stopped", "queued", "missing"]


@dataclass(frozen=True)
class RunStatus:
    """State of a run and how far it is.

    Args:
        state: `stopped`: it began, and its process ended without leaving a record. `queued`: the
            cluster's scheduler holds it.
        fraction: Share of its outer steps at the last sign of life; 1 for a run with a record.
        error: Type of the error of a failed run.
        message: What that error says, in one line. A run whose record cannot be read counts as
            failed, and this names its file.
    """

    state: RunState
    fraction: float = 0.0
    error: str | None = None
    message: str = field(default="", compare=False)


DONE = RunStatus("done", 1.0)


def save_sweep(store: Path, sweep: Sweep) -> str:
    """Store the runs that a sweep asks for, so that `status` and tables know what is missing.

    Nothing is written where that is there already: the store of a sweep that is done may be one
    that can only be read.

    Returns:
        What a user must know where the list that is replaced had other runs, else "".
    """
    lost = 0
    with contextlib.suppress(ObdBenchError):  # none, or a damaged one
        before = load_sweep(store, sweep.name)
        if before == sweep:
            return ""
        lost = len({run.run_id for run in before.runs} - {run.run_id for run in sweep.runs})
    values = {
        "name": sweep.name,
        "description": sweep.description,
        "runs": [run.as_dict() for run in sweep.runs],
    }
    text = json.dumps(values | {"sha256": json_sha256(values)}, indent=1) + "\n"
    write_atomic(check_inside(store, _sweep_path(store, sweep.name)), text)
    if not lost:
        return ""
    return (
        f"{sweep.name} asked for {lost} other runs before; their records stay, its list and table "
        f"are written anew. Give one of the two sweeps another name to keep both."
    )


@no_garbage()
def load_sweep(store: Path, name: str) -> Sweep:
    """Read a sweep that was started in this store.

    Raises:
        ObdBenchError: No sweep of that name was started (the message has the nearest names), or its
            file was damaged.
    """
    path = _sweep_path(store, name)
    if not path.exists():
        known = started_sweeps(store)
        raise ObdBenchError(
            f"No sweep {name!r} was started in {store}. "
            f"{did_you_mean(name, known, f'ls {path.parent}')}"
        )
    try:
        stored = msgspec.json.decode(read_small(path, MOST_OF_RUNS), type=_StoredSweep)
        stored.check(name)
        runs = RunSpec.from_dicts(stored.runs)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, ObdBenchError) as error:
        raise ObdBenchError(
            f"{path} is not the list of a sweep's runs ({error}). Start the sweep again from its "
            f"file, which writes it anew: obdbench sweep FILE"
        ) from error
    return Sweep(stored.name, stored.description, runs)


class _StoredSweep(msgspec.Struct, forbid_unknown_fields=True):
    """What the file of a started sweep holds.

    Args:
        name: Name of the sweep and of the file.
        description: Its description.
        runs: Its runs, as `RunSpec.as_dict`.
        sha256: Digest of the rest; None in files that older versions wrote.
    """

    name: str
    description: str
    runs: Annotated[list[dict[str, Any]], Meta(min_length=1)]
    sha256: str | None = None

    def check(self, name: str) -> None:
        """Hold the content against the name of its file and against its digest.

        Raises:
            ObdBenchError: It was altered, or copied from another name.
        """
        if self.name != name:
            raise ObdBenchError(f"it is that of {self.name!r}")
        values = {"name": name, "description": self.description, "runs": self.runs}
        if self.sha256 not in (None, json_sha256(values)):
            raise ObdBenchError("it was altered: its content has another sha256 than it says")


def started_sweeps(store: Path) -> list[str]:
    """Names of the sweeps that were started in a store."""
    return sorted(path.stem for path in (store / SWEEPS).glob("*.json"))


def sweep_records(store: Path, sweep: Sweep) -> list[Summary]:
    """Summarise the records of a sweep's runs, in its order; runs without one are left out.

    Raises:
        BadRecord: A record cannot be read.
    """
    found = indexed_records(store, sweep)
    for one in found.values():
        if isinstance(one, BadRecord):
            raise one
    return _summaries(found)


def readable_records(store: Path, sweep: Sweep) -> tuple[list[Summary], list[str]]:
    """Summarise the records of a sweep's runs, in its order, in spite of damaged ones.

    Returns:
        The summaries, and for each record that cannot be read a message with its file and what is
        wrong.
    """
    found = indexed_records(store, sweep)
    return _summaries(found), [str(one) for one in found.values() if isinstance(one, BadRecord)]


@no_garbage()
def _summaries(found: Found) -> list[Summary]:
    return [one.summary for one in found.values() if not isinstance(one, BadRecord)]


def all_records(store: Path, on_bad: Callable[[BadRecord], None] | None = None) -> Iterator[Record]:
    """Read every record of a store, in the order of the paths.

    Args:
        store: The store.
        on_bad: Called with what is wrong with one that cannot be read, which is left out.

    Raises:
        BadRecord: One cannot be read, and nothing is to be called.
    """
    for path in sorted(store.glob(f"*/seed*/{FILE}")):
        try:
            yield read_record(path)
        except BadRecord as error:
            if on_bad is None:
                raise
            on_bad(error)


def run_statuses(store: Path, sweep: Sweep) -> dict[str, RunStatus]:
    """Derive the status of every run of a sweep, by run id."""
    found = indexed_records(store, sweep)
    return {run.run_id: _status(store, run.run_id, found.get(run.run_id)) for run in sweep.runs}


def run_status(store: Path, run: RunSpec) -> RunStatus:
    """Derive a run's status from its record or its last sign of life."""
    return run_statuses(store, Sweep("one", "", (run,)))[run.run_id]


def _status(store: Path, run_id: str, found: Entry | BadRecord | None) -> RunStatus:
    if isinstance(found, BadRecord):
        return RunStatus("failed", 1.0, type(found).__name__, str(found))
    if found is not None and found.error is None:
        return DONE
    folder = store / record_folder(run_id)
    if found is not None and found.error is not None and not _alive(folder):
        kind, message = found.error
        return RunStatus("failed", 1.0, kind, next(iter(message.splitlines()), ""))
    sign = last_sign(folder)
    if sign is None:
        return RunStatus("stopped" if (folder / "state.safetensors").exists() else "missing")
    return RunStatus("running" if _alive(folder) else "stopped", sign.fraction)


def _alive(folder: Path) -> bool:
    """Whether the process that last worked on a run still exists."""
    sign = last_sign(folder)
    if sign is None or sign.pid is None:
        return False
    if sign.host == platform.node():
        return _same_process(sign)
    try:
        return time.time() - (folder / ALIVE).stat().st_mtime < STALE_SECONDS
    except OSError:
        return False


def _same_process(sign: Sign) -> bool:
    """Whether the process lives and is not a later one with the same id."""
    try:
        process = psutil.Process(sign.pid)
        return (
            process.status() != psutil.STATUS_ZOMBIE
            and abs(process.create_time() - sign.process_started) < 1.0
        )
    except psutil.NoSuchProcess:
        return False


def reports_folder(store: Path, sweep: Sweep) -> Path:
    """Folder of a sweep's table, figure and report."""
    return check_inside(store, store / "reports" / sweep.name)


def _sweep_path(store: Path, name: str) -> Path:
    return store / SWEEPS / f"{check_name('The name of a sweep', name)}.json"

"""Index of a sweep's records: what tables take of them, so that not every file is read each time.

The records stay the truth. An entry of `sweeps/<name>.index` counts only while its record's file
has the size, times and inode that it had when it was read and checked; any other record is read and
checked anew. An index that is damaged, or of another version of the suite, is not used, and one
that cannot be written is left out: nothing but time depends on it.

The change time (ctime) is set by the system at every write and every rename, and no program sets it
back with the modification time: a record that was altered by hand is found whatever its size and
times say. What is not found is what changes a file and leaves no trace in its status, as damage
below the file system does. `obdbench verify` and `obdbench paper` of every record read the files.
"""

from __future__ import annotations

import contextlib
import errno
import gc
import hashlib
import os
import time
from collections.abc import Iterator, Mapping
from functools import cache
from importlib.metadata import version
from pathlib import Path

import msgspec

import benchmark.record
from benchmark.errors import ObdBenchError
from benchmark.files import file_sha256, read_small, write_atomic
from benchmark.names import check_inside
from benchmark.record import FILE, BadRecord, Summary, read_record, record_folder
from benchmark.sweep import Sweep

FEWEST = 500
"""Runs of a sweep below which no index is written: reading them takes a fraction of a second."""
OUTDATED = 0.02
"""Share of the records that are read again each time before the index is written anew."""
SETTLED_NANOSECONDS = 2 * 10**9
"""Age from which a file's times would change with its content; clocks of file systems tick."""
MOST_BYTES = 2**33
SHA256_BYTES = 32
ABSENT = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP)

Stamp = tuple[int, int, int, int]
"""Size, modification time, change time (nanoseconds) and inode of a file."""


class Entry(msgspec.Struct, frozen=True, array_like=True):
    """What the index holds of one record.

    Args:
        stamp: Status of its file when it was read.
        error: Type and message of a failed run's error; None for a complete one.
        packed: Its summary, in MessagePack.
    """

    stamp: Stamp
    error: tuple[str, str] | None
    packed: msgspec.Raw

    @property
    def summary(self) -> Summary:
        """The summary of the record."""
        return _SUMMARY.decode(self.packed)


@contextlib.contextmanager
def no_garbage() -> Iterator[None]:
    """Look for no circular garbage: millions of values are made here, and none is in a circle."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


_SUMMARY = msgspec.msgpack.Decoder(Summary)
_ENTRIES = msgspec.msgpack.Decoder(dict[str, Entry])

Found = Mapping[str, Entry | BadRecord]
"""Run id -> entry of its record, or what is wrong with that; without runs that have no record."""


@no_garbage()
def indexed_records(store: Path, sweep: Sweep) -> Found:
    """Look at the record of every run of a sweep, and read those that the index does not know."""
    path = store / "sweeps" / f"{sweep.name}.index"
    known = _load(path) if len(sweep.runs) >= FEWEST else {}
    found: dict[str, Entry | BadRecord] = {}
    settled = time.time_ns() - SETTLED_NANOSECONDS
    entries, fresh = {}, 0
    for run in sweep.runs:
        run_id = run.run_id
        file = f"{store}/{record_folder(run_id)}/{FILE}"
        if (stamp := _stamp(file)) is None:
            continue
        entry = known.get(run_id)
        if entry is None or entry.stamp != stamp:
            try:
                entry = _read(Path(file), stamp)
            except BadRecord as error:
                found[run_id] = error
                continue
            fresh += 1
        found[run_id] = entry
        if max(stamp[1:3]) < settled:
            entries[run_id] = entry
    if len(sweep.runs) >= FEWEST and fresh > OUTDATED * len(sweep.runs):
        _save(store, path, entries)
    return found


def _stamp(file: str) -> Stamp | None:
    """The status of a file; None where there is none."""
    try:
        status = os.stat(file)  # noqa: PTH116  a path for each takes longer than the call
    except OSError as error:
        if error.errno in ABSENT:
            return None
        raise
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino


def _read(path: Path, stamp: Stamp) -> Entry:
    record = read_record(path)
    summary = msgspec.convert(record, Summary, from_attributes=True)
    error = None if record.error is None else (record.error.type, record.error.message)
    return Entry(stamp, error, msgspec.Raw(msgspec.msgpack.encode(summary)))


def _load(path: Path) -> dict[str, Entry]:
    """Entries of an index; none where it is absent, damaged or of another version."""
    try:
        content = read_small(path, MOST_BYTES)
        head, body = content[: 2 * SHA256_BYTES], memoryview(content)[2 * SHA256_BYTES :]
        if head == _version() + hashlib.sha256(body).digest():
            return _ENTRIES.decode(body)
    except (OSError, ObdBenchError, msgspec.MsgspecError):
        pass
    return {}


def _save(store: Path, path: Path, entries: Mapping[str, Entry]) -> None:
    body = msgspec.msgpack.encode(entries)
    content = _version() + hashlib.sha256(body).digest() + body
    with contextlib.suppress(OSError, ObdBenchError):  # a full disk, a store that is only read
        write_atomic(check_inside(store, path), content)


@cache
def _version() -> bytes:
    """Digest of what the entries depend on besides the files: the suite and its rules."""
    rules = file_sha256(Path(benchmark.record.__file__)), file_sha256(Path(__file__))
    return hashlib.sha256(repr((version("obdbench"), *rules)).encode()).digest()

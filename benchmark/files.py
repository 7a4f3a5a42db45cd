"""Files: written so that a reader, or a crash, never sees half of one, and told apart by digest."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import stat
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from benchmark.errors import ObdBenchError

MOST_BYTES = 2**26
"""Bytes that a record, a card or another file of text may have."""
MOST_OF_RUNS = 2**30
"""Bytes that a list of runs may have: about a million of them."""


@contextlib.contextmanager
def atomic_path(target: Path) -> Iterator[Path]:
    """A temporary path in the target's folder, renamed to the target when the block succeeds.

    The content is flushed to disk before the rename, so that a machine that dies at any moment
    leaves either the old file or the new one. On an error the temporary file is removed.

    Raises:
        OSError: The disk is full, read-only or the like; it names the target.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    with system_errors_name(target):
        handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.", suffix=".tmp")
        os.close(handle)
        temporary = Path(name)
        try:
            yield temporary
            with temporary.open("rb") as stream:
                os.fsync(stream.fileno())
            umask = os.umask(0)
            os.umask(umask)
            temporary.chmod(0o666 & ~umask)
            temporary.replace(target)
        finally:
            temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def system_errors_name(path: Path) -> Iterator[None]:
    """Raise errors of the system as an `OSError` of this path while it is written.

    A full disk is an `OSError` without a name for Python and HDF5, and no `OSError` at all for
    safetensors.
    """
    try:
        yield
    except (OSError, SafetensorError) as error:
        found = re.search(r"\(os error (\d+)\)", str(error))
        number = error.errno if isinstance(error, OSError) else found and int(found[1])
        if number is None:
            raise
        raise OSError(number, os.strerror(number), str(path)) from error


def write_atomic(target: Path, content: str | bytes) -> None:
    """Write a small file in one piece."""
    with atomic_path(target) as temporary:
        temporary.write_bytes(content.encode() if isinstance(content, str) else content)


class UnfitFile(ObdBenchError):
    """Something else than a file of a size that a file of its kind can have."""


def read_small(path: Path, most: int = MOST_BYTES) -> bytes:
    """Read a file whole, once it is known that it ends and fits into memory.

    Args:
        path: A record, card, list or the like; from others, it may be a link to a device.
        most: Bytes that it may have.

    Raises:
        OSError: There is none, or it cannot be read.
        UnfitFile: It is something else than a file, or too large.
    """
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        raise UnfitFile(f"{path} is a folder, a pipe or a device; expected a file. Move it away.")
    if status.st_size > most:
        raise UnfitFile(
            f"{path} has {status.st_size:,} bytes; expected at most {most:,}. Move it away."
        )
    return path.read_bytes()


def file_sha256(path: Path) -> str:
    """The sha256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def json_sha256(values: Mapping[str, Any]) -> str:
    """The sha256 of JSON values in canonical form, in hexadecimal."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True)
class Fingerprint:
    """Size and sha256 of a file."""

    bytes: int
    sha256: str

    @classmethod
    def of(cls, path: Path) -> Fingerprint:
        """Measure a file on disk."""
        return cls(path.stat().st_size, file_sha256(path))

    def facts(self) -> dict[str, int | str]:
        """Entries for the provenance of what was made from the file."""
        return {"file_bytes": self.bytes, "file_sha256": self.sha256}


def cache_folder() -> Path:
    """`OBDBENCH_CACHE` where it is set, else `~/.cache/obdbench`."""
    root = os.environ.get("OBDBENCH_CACHE")
    return Path(root) if root else Path.home() / ".cache" / "obdbench"

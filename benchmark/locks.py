"""File locks, which the system releases when their process dies: nothing is left of them."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import filelock

from benchmark.errors import ObdBenchError

ABSENT = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)
"""What a disk without locks answers."""


class NoLocks(ObdBenchError):
    """A disk that has no file locks."""


class FileLock(filelock.FileLock):
    """A lock of the system's on a file.

    filelock itself turns to files that are locks by being there, where the disk has no locks: one
    of a killed process would stay, and be waited for without end.

    Args:
        path: File of the lock, which stays when it is released.
        timeout: Seconds to wait for it; negative to wait without end.
    """

    def __init__(self, path: str | os.PathLike[str], timeout: float = -1) -> None:
        super().__init__(path, timeout, fallback_to_soft=False)

    def acquire(self, *args: Any, **options: Any) -> filelock.AcquireReturnProxy[Any]:
        """Wait for the lock, and take it.

        Raises:
            Timeout: Another process holds it.
            NoLocks: The disk has none.
        """
        try:
            return super().acquire(*args, **options)
        except OSError as error:
            if error.errno not in ABSENT:
                raise
            raise NoLocks(
                f"{Path(self.lock_file).parent} is on a disk without file locks "
                f"({os.strerror(error.errno)}), which keep two processes from the same work. Use a "
                f"folder on a disk that has them (NFS 4, GPFS, Lustre mounted with `flock`), or "
                f"have this one mounted with them."
            ) from error

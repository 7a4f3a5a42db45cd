"""Locks are the system's or none: a disk that has none is named, and nothing is left of them."""

from __future__ import annotations

import errno
import os
import re
import warnings
from pathlib import Path

import pytest
from filelock import Timeout

from benchmark.locks import FileLock, NoLocks


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_disk_without_locks_is_named_and_no_file_becomes_a_lock(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(descriptor: int, operation: int) -> None:
        raise OSError(number, os.strerror(number))

    path = tmp_path / "run.lock"
    with monkeypatch.context() as patch:
        patch.setattr("fcntl.flock", refuse)
        said = f"{tmp_path} is on a disk without file locks ({os.strerror(number)})"
        with pytest.raises(NoLocks, match=re.escape(said)):
            FileLock(path).acquire()
    with warnings.catch_warnings(action="error"), FileLock(path, timeout=0):
        pass


def test_other_errors_stay_what_they_are(tmp_path: Path) -> None:
    path = tmp_path / "run.lock"
    with FileLock(path), pytest.raises(Timeout):
        FileLock(path, timeout=0).acquire()
    with pytest.raises(IsADirectoryError):
        FileLock(tmp_path).acquire()

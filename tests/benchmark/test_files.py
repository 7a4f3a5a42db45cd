"""A reader never sees half a file: it is the old one or the new one, even after kill -9."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmark.files import atomic_path, file_sha256, write_atomic

ROOT = Path(__file__).parents[2]


def test_content_arrives_and_nothing_else_is_left(tmp_path: Path) -> None:
    target = tmp_path / "new" / "folder" / "record.json"
    write_atomic(target, "größer")
    assert target.read_text(encoding="utf-8") == "größer"

    write_atomic(target, b"\x00\xff")
    assert target.read_bytes() == b"\x00\xff"
    assert list(target.parent.iterdir()) == [target]


def test_target_keeps_its_old_content_until_the_block_ends(tmp_path: Path) -> None:
    target = tmp_path / "record.json"
    target.write_text("old")

    with atomic_path(target) as temporary:
        temporary.write_text("new")
        assert target.read_text() == "old"
        assert temporary.parent == target.parent  # a rename across file systems is not atomic
    assert target.read_text() == "new"


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_error_inside_leaves_the_old_file_and_no_temporary_one(
    tmp_path: Path, error: type[BaseException]
) -> None:
    target = tmp_path / "record.json"
    target.write_text("old")

    with pytest.raises(error), atomic_path(target) as temporary:
        temporary.write_text("half of the ne")
        raise error

    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_content_is_on_disk_before_it_gets_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "record.json"
    seen: list[tuple[bool, int]] = []
    monkeypatch.setattr(
        os, "fsync", lambda handle: seen.append((target.exists(), os.fstat(handle).st_size))
    )

    write_atomic(target, "content")

    assert seen == [(False, len("content"))]


def test_file_is_readable_by_whom_the_umask_says(tmp_path: Path) -> None:
    previous = os.umask(0o027)
    try:
        write_atomic(tmp_path / "shared.json", "x")
    finally:
        os.umask(previous)
    assert (tmp_path / "shared.json").stat().st_mode & 0o777 == 0o640


HALF = """
import sys, time
from pathlib import Path
from benchmark.files import atomic_path

with atomic_path(Path(sys.argv[1])) as temporary:
    with temporary.open("w") as stream:
        stream.write('{"half": ')
        stream.flush()
        print("ready", flush=True)
        time.sleep(60)
"""

FOREVER = """
import json, sys
from pathlib import Path
from benchmark.files import write_atomic

number = 0
while True:
    number += 1
    write_atomic(Path(sys.argv[1]), json.dumps({"number": number, "body": [number] * 20000}))
    if number == 1:
        print("ready", flush=True)
"""


def _kill_while_writing(code: str, target: Path, after: float) -> None:
    writer = subprocess.Popen(
        [sys.executable, "-c", code, str(target)],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert writer.stdout is not None
    with writer.stdout:
        assert writer.stdout.readline() == b"ready\n"
        time.sleep(after)
        writer.kill()
        writer.wait()


def test_kill_9_in_the_middle_of_writing_leaves_the_old_file(tmp_path: Path) -> None:
    target = tmp_path / "record.json"
    target.write_text("old")

    _kill_while_writing(HALF, target, after=0.0)

    assert target.read_text() == "old"
    write_atomic(target, "new")  # what the dead writer left is in nobody's way
    assert target.read_text() == "new"


@pytest.mark.parametrize("after", [0.01, 0.023, 0.037, 0.051])
def test_kill_9_at_any_moment_leaves_a_whole_file(tmp_path: Path, after: float) -> None:
    target = tmp_path / "record.json"

    _kill_while_writing(FOREVER, target, after)

    content = json.loads(target.read_text())
    assert content["body"] == [content["number"]] * 20000


def test_file_sha256_is_that_of_the_bytes(tmp_path: Path) -> None:
    path = tmp_path / "blob"
    path.write_bytes(bytes(range(256)) * 5000)

    assert file_sha256(path) == hashlib.sha256(path.read_bytes()).hexdigest()

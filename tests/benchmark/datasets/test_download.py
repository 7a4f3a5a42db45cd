"""A download ends whole and checked, or in one clear sentence with nothing half-made left."""

from __future__ import annotations

import hashlib
import threading
from pathlib import Path

import pytest
from filelock import FileLock

from benchmark.datasets.download import (
    DownloadProblem,
    Patience,
    download,
    remote_size,
    set_aside_altered,
)
from benchmark.files import Fingerprint
from tests.file_server import FileServer

BLOCK = 1 << 16  # what is written at a time
CONTENT = bytes(range(256)) * 1600
OTHER = CONTENT[::-1]
QUICK = Patience(stall=0.2, attempts=3)
ADVICE = "Try another address."


def fingerprint(content: bytes) -> Fingerprint:
    return Fingerprint(len(content), hashlib.sha256(content).hexdigest())


def left_in(folder: Path) -> set[str]:
    """Every file but the locks."""
    return {path.name for path in folder.iterdir() if path.suffix != ".lock"}


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "downloads" / "file.hdf5"


@pytest.fixture(autouse=True)
def content(server: FileServer) -> None:
    server.content = CONTENT


def get(server: FileServer, target: Path, expected: Fingerprint | None = None) -> None:
    download(f"{server.url}/file", target, expected=expected, advice=ADVICE, patience=QUICK)


def problem(server: FileServer, target: Path, expected: Fingerprint | None = None) -> str:
    """The message of a download that fails."""
    with pytest.raises(DownloadProblem) as error:
        get(server, target, expected)
    message = str(error.value)
    assert f"{server.url}/file" in message and message.endswith(ADVICE)
    assert not target.exists()
    return message


# --- what works ----------------------------------------------------------------------------------
@pytest.mark.parametrize("expected", [None, fingerprint(CONTENT)])
def test_a_file_arrives_whole_and_alone(
    server: FileServer, target: Path, expected: Fingerprint | None
) -> None:
    seen: list[tuple[int, int]] = []
    download(f"{server.url}/file", target, expected=expected, progress=lambda *at: seen.append(at))
    assert target.read_bytes() == CONTENT
    assert left_in(target.parent) == {target.name}
    assert seen[-1] == (len(CONTENT), len(CONTENT))


def test_a_file_that_is_there_is_left_alone(server: FileServer, target: Path) -> None:
    target.parent.mkdir()
    target.write_bytes(b"mine")
    get(server, target)
    assert target.read_bytes() == b"mine"
    assert server.requests == []


def test_two_who_want_it_at_once_fetch_it_once(server: FileServer, target: Path) -> None:
    others = [threading.Thread(target=get, args=(server, target)) for _ in range(3)]
    for other in others:
        other.start()
    for other in others:
        other.join()
    assert target.read_bytes() == CONTENT
    assert len(server.requests) == 1


def test_an_altered_file_is_set_aside_unless_another_process_repaired_it(target: Path) -> None:
    expected = fingerprint(CONTENT)
    target.parent.mkdir()
    target.write_bytes(CONTENT)
    set_aside_altered(target, expected)
    assert [path.name for path in target.parent.iterdir()] == [target.name], "not even a lock"

    target.write_bytes(OTHER)
    with FileLock(f"{target}.lock"):
        waiting = threading.Thread(target=set_aside_altered, args=(target, expected))
        waiting.start()
        waiting.join(0.3)
        assert waiting.is_alive() and target.exists()
        target.write_bytes(CONTENT)
    waiting.join()
    assert target.read_bytes() == CONTENT

    target.write_bytes(OTHER)
    set_aside_altered(target, expected)
    assert not target.exists()
    assert target.with_name(f"{target.name}.other").read_bytes() == OTHER


# --- interruptions -------------------------------------------------------------------------------
@pytest.mark.parametrize("kind", ["truncate", "stall"])
def test_an_interrupted_transfer_goes_on_where_it_broke_off(
    server: FileServer, target: Path, kind: str
) -> None:
    server.plan = [(kind, BLOCK), (kind, 2 * BLOCK)]
    get(server, target)
    assert target.read_bytes() == CONTENT
    asked = [request.get("Range") for request in server.requests]
    assert asked == [None, f"bytes={BLOCK}-", f"bytes={3 * BLOCK}-"]
    assert server.requests[1]["If-Range"] == '"first"'
    assert left_in(target.parent) == {target.name}


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("truncate", "the server ended the transfer early"),
        ("stall", "nothing came for 0.2 seconds"),
    ],
)
def test_a_server_that_never_ends_leaves_what_the_next_call_goes_on_from(
    server: FileServer, target: Path, kind: str, reason: str
) -> None:
    server.plan = [(kind, BLOCK)] * 3
    message = problem(server, target)
    assert f"broke off after {3 * BLOCK:,} of {len(CONTENT):,} bytes, in 3 attempts" in message
    assert reason in message and "The same command goes on from there" in message
    assert left_in(target.parent) == {"file.hdf5.part", "file.hdf5.part.json"}

    get(server, target)
    assert server.requests[-1]["Range"] == f"bytes={3 * BLOCK}-"
    assert target.read_bytes() == CONTENT
    assert left_in(target.parent) == {target.name}


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_passing_trouble_of_the_server_is_waited_out(
    server: FileServer, target: Path, status: int
) -> None:
    server.plan = [("truncate", BLOCK), status]
    get(server, target)
    assert target.read_bytes() == CONTENT
    assert server.requests[-1]["Range"] == f"bytes={BLOCK}-"


def test_a_server_that_cannot_resume_is_asked_for_the_whole(
    server: FileServer, target: Path
) -> None:
    server.honours_range = False
    server.plan = [("truncate", BLOCK)]
    get(server, target)
    assert target.read_bytes() == CONTENT


@pytest.mark.parametrize("honours_if_range", [True, False])
def test_a_file_that_changed_in_between_is_begun_anew(
    server: FileServer, target: Path, honours_if_range: bool
) -> None:
    server.plan = [("truncate", BLOCK)] * 3
    problem(server, target)
    server.content, server.tag = OTHER, '"second"'
    server.honours_if_range = honours_if_range
    get(server, target)
    assert target.read_bytes() == OTHER


def test_bytes_of_an_unknown_version_are_not_gone_on_from(server: FileServer, target: Path) -> None:
    server.tag = None
    server.plan = [("truncate", BLOCK)] * 3
    problem(server, target)
    server.content = OTHER
    get(server, target)
    assert [request.get("Range") for request in server.requests] == [None] * 4
    assert target.read_bytes() == OTHER


def test_a_known_digest_tells_whether_such_bytes_were_the_right_ones(
    server: FileServer, target: Path
) -> None:
    server.tag, server.content = None, OTHER
    server.plan = [("truncate", BLOCK)] * 3
    problem(server, target, fingerprint(CONTENT))
    server.content = CONTENT
    get(server, target, fingerprint(CONTENT))
    assert [request.get("Range") for request in server.requests[-2:]] == [
        f"bytes={3 * BLOCK}-",
        None,
    ]
    assert target.read_bytes() == CONTENT


def test_a_part_that_is_longer_than_the_file_is_begun_anew(
    server: FileServer, target: Path
) -> None:
    server.plan = [("truncate", BLOCK)] * 3
    problem(server, target)
    server.content = CONTENT[:BLOCK]
    get(server, target)
    assert target.read_bytes() == CONTENT[:BLOCK]


def test_a_part_that_was_whole_when_the_process_died_is_not_fetched_again(
    server: FileServer, target: Path
) -> None:
    target.parent.mkdir()
    target.with_name("file.hdf5.part").write_bytes(CONTENT)
    get(server, target, fingerprint(CONTENT))
    assert server.requests == []
    assert target.read_bytes() == CONTENT


# --- refusals ------------------------------------------------------------------------------------
@pytest.mark.parametrize(("status", "words"), [(403, "403 Forbidden"), (404, "404 Not Found")])
@pytest.mark.parametrize("begun", [False, True])
def test_a_refusal_is_final_and_leaves_nothing(
    server: FileServer, target: Path, status: int, words: str, begun: bool
) -> None:
    server.plan = [*([("truncate", BLOCK)] if begun else []), status]
    message = problem(server, target)
    assert f"was answered with {words}" in message
    assert len(server.requests) == 1 + begun
    assert left_in(target.parent) == set()


@pytest.mark.parametrize("other", [OTHER, CONTENT[:-1]])
def test_another_file_is_not_kept(server: FileServer, target: Path, other: bytes) -> None:
    expected = fingerprint(CONTENT)
    server.content = other
    message = problem(server, target, expected)
    assert f"gives {len(other):,} bytes" in message
    assert f"expected {len(CONTENT):,} bytes with sha256 {expected.sha256}" in message
    assert left_in(target.parent) == set()


def test_nobody_there(server: FileServer, target: Path) -> None:
    with pytest.raises(DownloadProblem, match=r"http://127.0.0.1:9/file cannot be reached: .*"):
        download("http://127.0.0.1:9/file", target)


@pytest.mark.parametrize("url", ["file:///etc/hosts", "ftp://there/file", "there/file"])
def test_only_web_addresses_are_downloaded_from(target: Path, url: str) -> None:
    with pytest.raises(DownloadProblem, match="expected http:// or https://"):
        download(url, target)


def test_a_disk_that_takes_no_bytes(server: FileServer, target: Path) -> None:
    target.with_name("file.hdf5.part").mkdir(parents=True)
    with pytest.raises(DownloadProblem, match=r"file\.hdf5\.part cannot be written"):
        get(server, target)


# --- asked for, not taken -------------------------------------------------------------------------
def test_a_size_is_asked_for_without_the_file(server: FileServer) -> None:
    assert remote_size(f"{server.url}/file", ADVICE) == len(CONTENT)


def test_a_file_that_cannot_be_had_is_said_before_it_is_fetched(server: FileServer) -> None:
    server.plan = [403]
    with pytest.raises(DownloadProblem, match=rf"/file was answered with 403 .*{ADVICE}"):
        remote_size(f"{server.url}/file", ADVICE)
    with pytest.raises(DownloadProblem, match=rf"/file cannot be reached .*{ADVICE}"):
        remote_size("http://127.0.0.1:9/file", ADVICE)
    with pytest.raises(DownloadProblem, match=rf"cannot be reached .*{ADVICE}"):
        remote_size("/a/folder", ADVICE)

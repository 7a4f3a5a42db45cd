"""Downloading a large file: resumed where it broke off, checked, and whole or not there at all.

pooch asks for the file, streams it, asks again and moves it to its place. Added here is what it
lacks for files of gigabytes: going on from the bytes that an earlier attempt or an earlier process
left (pooch begins anew), telling a refusal, which is final, from an interruption, and trust on
first use (pooch takes any file where no digest is known).
"""

from __future__ import annotations

import contextlib
import json
import logging
import re
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from http import HTTPStatus
from pathlib import Path
from types import SimpleNamespace
from typing import Any, BinaryIO

from benchmark.datasets.dataset import OnProgress
from benchmark.errors import ObdBenchError
from benchmark.files import Fingerprint, UnfitFile, read_small, write_atomic
from benchmark.locks import FileLock

_CHUNK = 1 << 16  # bytes written at a time: an interruption loses less than this
_WORTH_ANOTHER_TRY = {HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_MANY_REQUESTS}  # and every 5xx


class DownloadProblem(ObdBenchError):
    """A file that could not be had, or is not the one that was expected."""


@dataclass(frozen=True)
class Patience:
    """How long to wait for a server.

    Args:
        stall: Seconds without a byte after which an attempt is given up.
        attempts: How often to ask, each time going on where the previous attempt broke off. pooch
            waits 1, 2, 3, ... seconds in between.
    """

    stall: float = 30.0
    attempts: int = 5


def download(
    url: str,
    target: Path,
    *,
    expected: Fingerprint | None = None,
    expected_by: str = "",
    advice: str = "",
    patience: Patience | None = None,
    progress: OnProgress | None = None,
) -> bool:
    """Download a file; one that is there already is left as it is. Processes wait for each other.

    What arrived before an interruption stays next to the target as `.part`, and the next call goes
    on from there. After a refusal, or where the content is not the expected one, nothing stays.

    Args:
        url: `http://` or `https://`.
        target: Where the file appears once it is whole and checked.
        expected: Size and digest that the file must have, where they are known.
        expected_by: A sentence on where these come from, for the message that refuses others.
        advice: A sentence for the end of every message: where else to get the file.
        patience: How long and how often to wait for the server.
        progress: Called with (bytes so far, bytes in all; 0 if the server does not say).

    Returns:
        Whether this call downloaded it; False where it was there, or another process was faster.

    Raises:
        DownloadProblem: The message names the address and the reason.
    """
    if not url.startswith(("http://", "https://")):
        raise DownloadProblem(
            f"{url!r} is not an address to download from; expected http:// or https://. {advice}"
        )
    if target.exists():  # without a lock, which a read-only folder could not hold
        return False
    target.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{target}.lock"):
        if target.exists():
            return False
        patience = patience or Patience()
        transfer = _Transfer(url, target, expected, expected_by, patience.stall, progress)
        _let_pooch_fetch(transfer, patience, advice)
        return True


def set_aside_altered(target: Path, expected: Fingerprint) -> None:
    """Rename a file that is not the expected one, so that this is fetched; a warning says so.

    It is not deleted: whoever put it there may have no other copy.
    """
    if not target.exists() or Fingerprint.of(target) == expected:
        return
    with FileLock(f"{target}.lock"):
        # Looked at again: meanwhile another process may have put the expected one there.
        if target.exists() and (found := Fingerprint.of(target)) != expected:
            aside = target.with_name(f"{target.name}.other")
            target.replace(aside)
            logging.getLogger(__name__).warning(
                "%s has sha256 %s, expected %s: it is now %s, and the expected file is fetched.",
                *(target, found.sha256[:16], expected.sha256[:16], aside),
            )


def remote_size(url: str, advice: str, stall: float = 10.0) -> int | None:
    """Ask a server for a file without taking it.

    Returns:
        Its bytes; None where the server does not say.

    Raises:
        DownloadProblem: The server does not give the file, or does not answer within `stall`
            seconds.
    """
    import requests

    try:
        headers = {"Accept-Encoding": "identity", "User-Agent": "obdbench"}
        with requests.get(url, stream=True, timeout=stall, headers=headers) as answer:
            if not answer.ok:
                status = f"{answer.status_code} {answer.reason}"
                raise DownloadProblem(f"{url} was answered with {status}. {advice}")
            length = answer.headers.get("Content-Length", "")
            return int(length) if length.isdigit() else None
    except requests.RequestException as error:
        raise DownloadProblem(
            f"{url} cannot be reached ({type(error).__name__}). {advice}"
        ) from error


class TrustedFiles:
    """Trust on first use: a file without a published digest must stay what it first was.

    Args:
        path: JSON file of fingerprints by file name. To trust a changed file, delete its entry.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def fingerprint(self, name: str) -> Fingerprint | None:
        """Fingerprint of a file when it was first used; None before that.

        Raises:
            DownloadProblem: The file of fingerprints is damaged.
        """
        entry = self._entries().get(name)
        if entry is None:
            return None
        try:
            return Fingerprint(int(entry["bytes"]), str(entry["sha256"]))
        except (KeyError, TypeError, ValueError) as error:
            raise self._damaged(f"the entry {name!r} lacks bytes and sha256") from error

    def trust(self, name: str, fingerprint: Fingerprint, url: str) -> None:
        """Store the fingerprint of a file unless one is recorded already."""
        if name in self._entries():
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{self.path}.lock"):
            entries = self._entries()
            if name in entries:
                return
            first_used = datetime.now(UTC).isoformat(timespec="seconds")
            entries[name] = {**asdict(fingerprint), "url": url, "first_used": first_used}
            write_atomic(self.path, json.dumps(entries, indent=1) + "\n")

    def _entries(self) -> dict[str, Any]:
        if not self.path.exists():
            return {}
        try:
            entries = json.loads(read_small(self.path))
        except json.JSONDecodeError as error:
            raise self._damaged(f"line {error.lineno}: {error.msg}") from error
        except (UnfitFile, ValueError, RecursionError) as error:
            raise self._damaged(str(error)) from error
        if not isinstance(entries, dict):
            raise self._damaged(f"it is of type {type(entries).__name__}, expected entries by file")
        return entries

    def _damaged(self, found: str) -> DownloadProblem:
        return DownloadProblem(
            f"{self.path} cannot be read ({found}). Correct it, or delete it: then each file is "
            f"trusted anew at its next use."
        )


class _PassingFailure(ValueError):
    """A failed attempt after which another may succeed; pooch asks again after a ValueError."""


class _FinalFailure(Exception):
    """A failure that another attempt would repeat."""


def _let_pooch_fetch(transfer: _Transfer, patience: Patience, advice: str) -> None:
    """Let pooch ask until the file is there; raise DownloadProblem if it cannot be had."""
    import pooch  # not above: only a download should wait the tenth of a second that these take
    import requests

    url, target = transfer.url, transfer.target
    pooch.get_logger().setLevel("WARNING")  # our messages name the file and the address
    registry = pooch.create(
        path=target.parent,
        base_url="",
        urls={target.name: url},
        registry={target.name: None},  # after another digest than this, pooch would ask again
        retry_if_failed=patience.attempts - 1,
    )
    try:
        registry.fetch(target.name, downloader=transfer)
    except (requests.RequestException, _PassingFailure) as error:
        total = f" of {transfer.total:,}" if transfer.total else ""
        raise DownloadProblem(
            f"The download of {url} broke off after {transfer.arrived:,}{total} bytes, in "
            f"{patience.attempts} attempts, the last because {_reason(error, patience.stall)}. The "
            f"same command goes on from there. {advice}"
        ) from error
    except _FinalFailure as error:
        raise DownloadProblem(f"{url} {error} {advice}") from error
    except OSError as error:
        raise DownloadProblem(
            f"{transfer.part} cannot be written ({error}). Make room, or move the cache with "
            f"OBDBENCH_CACHE."
        ) from error


@dataclass
class _Transfer:
    """A downloader for pooch: the bytes so far in `.part`, the version they are of in a note."""

    url: str
    target: Path
    expected: Fingerprint | None
    expected_by: str
    stall: float
    progress: OnProgress | None
    total: int | None = None

    def __post_init__(self) -> None:
        self.part = self.target.with_name(f"{self.target.name}.part")
        self.note = self.target.with_name(f"{self.target.name}.part.json")
        if self.expected:
            self.total = self.expected.bytes

    @property
    def arrived(self) -> int:
        """Bytes so far."""
        return self.part.stat().st_size if self.part.exists() else 0

    def __call__(self, url: str, output_file: str, pooch: object) -> None:
        """Make one attempt; afterwards the file is at `output_file`, checked."""
        start, version = self._resume_at()
        if not start or start != self.total:
            self._receive(start, version)
        if self.total is not None and self.arrived < self.total:
            raise _PassingFailure("the server ended the transfer early")
        if self.expected and (found := Fingerprint.of(self.part)) != self.expected:
            if start and version is None:
                self._discard()
                raise _PassingFailure("the bytes of an earlier attempt were of another file")
            self._refuse_content(f"{found.bytes:,} bytes with sha256 {found.sha256}")
        self.part.replace(output_file)
        self._discard()

    def _resume_at(self) -> tuple[int, str | None]:
        """The first byte to ask for, and the version that the bytes before it are of, if known.

        Bytes of an unknown version are gone on from only where the digest will tell.
        """
        note = json.loads(self.note.read_text("utf-8")) if self.note.exists() else {}
        version = note["version"] if note.get("url") == self.url else None
        start = self.arrived
        too_long = self.total is not None and start > self.total
        if too_long or (version is None and self.expected is None):
            self._discard()
            return 0, None
        return start, version

    def _receive(self, start: int, version: str | None) -> None:
        """Append what the server sends from byte `start` on."""
        import requests
        from pooch import HTTPDownloader
        from urllib3.exceptions import NewConnectionError

        headers = {"Accept-Encoding": "identity", "User-Agent": "obdbench"}
        if start:
            headers["Range"] = f"bytes={start}-"
            if version is not None:  # the whole file, if it is no longer of this version
                headers["If-Range"] = version
        with self.part.open("ab") as stream, contextlib.ExitStack() as answers:

            def check(response: Any, **_: Any) -> None:
                answers.callback(response.close)
                if not response.is_redirect:
                    self._check(response, start, version, stream)

            def report(_: int) -> None:  # pooch counts whole chunks, of this attempt only
                if self.progress:
                    self.progress(self.arrived, self.total or 0)

            bar = SimpleNamespace(total=0, update=report, reset=lambda: None, close=lambda: None)
            fetch = HTTPDownloader(
                progressbar=bar,
                chunk_size=_CHUNK,
                timeout=self.stall,
                headers=headers,
                hooks={"response": check},
            )
            try:
                fetch(self.url, stream, None)
            except requests.ConnectionError as error:
                reason = getattr(error.args[0], "reason", None)
                if isinstance(reason, NewConnectionError):  # refused, or an unknown host
                    raise _FinalFailure(f"cannot be reached: {reason}.") from error
                raise

    def _check(self, response: Any, start: int, version: str | None, stream: BinaryIO) -> None:
        """Look at an answer before its body is read: may it follow the bytes before `start`?"""
        status, headers = response.status_code, response.headers
        if status == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            self._discard()
            raise _PassingFailure("the file is shorter than what arrived of it before")
        if status >= HTTPStatus.INTERNAL_SERVER_ERROR or status in _WORTH_ANOTHER_TRY:
            raise _PassingFailure(f"the server answered {status} {response.reason}")
        if status >= HTTPStatus.BAD_REQUEST:
            self._discard()
            raise _FinalFailure(
                f"was answered with {status} {response.reason}: the server does not give the file."
            )
        given = _version(headers)
        if status == HTTPStatus.PARTIAL_CONTENT:
            # A server may ignore what `If-Range` asked, or send another range.
            sent = re.match(r"bytes (\d+)-", headers.get("Content-Range", ""))
            if sent is None or int(sent[1]) != start or (version and given not in (None, version)):
                self._discard()
                raise _PassingFailure("the file changed on the server, so it is begun anew")
        else:  # the whole file: it changed, or the server does not resume
            start = stream.truncate(0)
            self.note.unlink(missing_ok=True)
            if given is not None:
                write_atomic(self.note, json.dumps({"url": self.url, "version": given}))
        if "Content-Length" in headers:
            total = start + int(headers["Content-Length"])
            if self.expected and total != self.expected.bytes:
                self._refuse_content(f"{total:,} bytes")
            self.total = total

    def _refuse_content(self, found: str) -> None:
        assert self.expected is not None
        self._discard()
        raise _FinalFailure(
            f"gives {found}, expected {self.expected.bytes:,} bytes with sha256 "
            f"{self.expected.sha256}: it is another file, and was not kept."
            f"{self.expected_by and ' '}{self.expected_by}"
        )

    def _discard(self) -> None:
        self.part.unlink(missing_ok=True)
        self.note.unlink(missing_ok=True)


def _version(headers: Any) -> str | None:
    """What `If-Range` can name: a strong ETag, else the date of the last change."""
    tag: str | None = headers.get("ETag")
    if tag is not None and not tag.startswith("W/"):
        return tag
    date: str | None = headers.get("Last-Modified")
    return date


def _reason(error: Exception, stall: float) -> str:
    """Why an attempt failed, as the end of a sentence."""
    import requests

    if isinstance(error, _PassingFailure):
        return str(error)
    if "timed out" in str(error):
        return f"nothing came for {stall:g} seconds"
    if isinstance(error, requests.exceptions.ChunkedEncodingError):
        return "the server ended the transfer early"
    return f"the connection failed ({type(error).__name__}: {error})"

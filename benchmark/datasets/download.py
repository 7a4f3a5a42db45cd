"""Downloading a large file: resumed where it broke off, checked, and whole or not there at all."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import socket
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from http import HTTPStatus
from pathlib import Path
from typing import Any

from filelock import FileLock

from benchmark.errors import ObdBenchError
from benchmark.files import file_sha256, write_atomic

BLOCK = 1 << 20
_LONGEST_PAUSE = 30.0
_WORTH_ANOTHER_TRY = {HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_MANY_REQUESTS}
"""Beside every 5xx."""

Progress = Callable[[int, int], None]


class DownloadProblem(ObdBenchError):
    """A file that could not be had, or is not the one that was expected."""


@dataclass(frozen=True)
class Fingerprint:
    """Size and digest of a file."""

    bytes: int
    sha256: str

    @classmethod
    def of(cls, path: Path) -> Fingerprint:
        """That of a file on disk."""
        return cls(path.stat().st_size, file_sha256(path))

    def facts(self) -> dict[str, int | str]:
        """As it stands in the provenance of what was made from the file."""
        return {"file_bytes": self.bytes, "file_sha256": self.sha256}


@dataclass(frozen=True)
class Patience:
    """How long to wait for a server.

    Args:
        stall: Seconds without a byte after which an attempt is given up.
        attempts: How often to ask, each going on where the one before broke off.
        pause: Seconds before the second attempt, doubled before each later one.
    """

    stall: float = 30.0
    attempts: int = 5
    pause: float = 1.0


def download(
    url: str,
    target: Path,
    *,
    expected: Fingerprint | None = None,
    advice: str = "",
    patience: Patience | None = None,
    progress: Progress | None = None,
) -> None:
    """Downloads a file; one that is there already is left alone. Processes wait for each other.

    What came in before an interruption stays beside the target as `.part`, and the next call goes
    on from there. After a refusal, or where the content is not the expected one, nothing stays.

    Args:
        url: `http://` or `https://`.
        target: Where the file appears once it is whole and checked.
        expected: What it must be, where that is known.
        advice: A sentence for the end of every message: where else to get the file.
        patience: With the server.
        progress: Called with (bytes so far, of how many; 0 if the server does not say).

    Raises:
        DownloadProblem: In one sentence or two, with the address and the reason.
    """
    if not url.startswith(("http://", "https://")):
        raise DownloadProblem(
            f"{url!r} is not an address to download from; expected http:// or https://. {advice}"
        )
    target.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{target}.lock"):
        if not target.exists():
            _Download(url, target, expected, advice, patience or Patience(), progress).run()


class TrustedFiles:
    """Fingerprints of files by name, in a JSON file beside them.

    Args:
        path: The JSON file. Whoever trusts a changed file takes its entry out.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def fingerprint(self, name: str) -> Fingerprint | None:
        """What the file was when it was first used; None before that."""
        entry = self._entries().get(name)
        return Fingerprint(entry["bytes"], entry["sha256"]) if entry else None

    def trust(self, name: str, fingerprint: Fingerprint, url: str) -> None:
        """Keeps a file's fingerprint; one that is kept already stays."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{self.path}.lock"):
            entries = self._entries()
            if name in entries:
                return
            first_used = datetime.now(UTC).isoformat(timespec="seconds")
            entries[name] = {**asdict(fingerprint), "url": url, "first_used": first_used}
            write_atomic(self.path, json.dumps(entries, indent=1) + "\n")

    def _entries(self) -> dict[str, Any]:
        entries: dict[str, Any] = json.loads(self.path.read_text()) if self.path.exists() else {}
        return entries


class _Interrupted(Exception):
    """An attempt that ended early, though the next may do better."""


class _Unreachable(Exception):
    """No server answers at that address."""


class _Part:
    """The bytes so far, and a note of which version of which address they are."""

    def __init__(self, target: Path) -> None:
        self.path = target.with_name(f"{target.name}.part")
        self.note = target.with_name(f"{target.name}.part.json")

    def __len__(self) -> int:
        return self.path.stat().st_size if self.path.exists() else 0

    def version(self, url: str) -> str | None:
        """What the server called the version that these bytes are of, if it is that address."""
        with contextlib.suppress(FileNotFoundError, json.JSONDecodeError):
            note = json.loads(self.note.read_text())
            if note["url"] == url:
                return str(note["version"])
        return None

    def begin(self, url: str, version: str | None) -> None:
        """Forgets the bytes; those to come are of this version."""
        self.discard()
        self.path.touch()
        if version is not None:
            write_atomic(self.note, json.dumps({"url": url, "version": version}))

    def discard(self) -> None:
        """Leaves nothing."""
        self.path.unlink(missing_ok=True)
        self.note.unlink(missing_ok=True)


class _Download:
    """One file on its way."""

    def __init__(
        self,
        url: str,
        target: Path,
        expected: Fingerprint | None,
        advice: str,
        patience: Patience,
        progress: Progress | None,
    ) -> None:
        self.url, self.target, self.expected, self.advice = url, target, expected, advice
        self.patience, self.progress = patience, progress
        self.part = _Part(target)
        self.total: int | None = expected.bytes if expected else None
        self.resumed_blindly = False

    def run(self) -> None:
        try:
            self._receive()
            if not self._is_as_expected() and self.resumed_blindly:
                self.part.discard()  # the beginning may have been another version's: once more
                self._receive()
            self._finish()
        except OSError as error:  # those of the network were caught before
            raise DownloadProblem(
                f"{self.part.path} cannot be written ({error}). Make room, or move the cache with "
                f"OBDBENCH_CACHE."
            ) from error

    def _receive(self) -> None:
        """Attempts until the part is whole."""
        pause, reason = self.patience.pause, ""
        for attempt in range(self.patience.attempts):
            if attempt:
                time.sleep(pause)
                pause = min(2 * pause, _LONGEST_PAUSE)
            try:
                self._attempt()
                return
            except _Interrupted as error:
                reason = str(error)
            except _Unreachable as error:
                raise DownloadProblem(
                    f"{self.url} cannot be reached: {error}. {self.advice}"
                ) from None
        total = f" of {self.total:,}" if self.total else ""
        raise DownloadProblem(
            f"The download of {self.url} broke off after {len(self.part):,}{total} bytes, in "
            f"{self.patience.attempts} attempts, the last because {reason}. The same command goes "
            f"on from there. {self.advice}"
        )

    def _attempt(self) -> None:
        start, version = self._resume_at()
        if start and start == self.total:
            return
        with self._open(start, version) as response:
            if response.status == HTTPStatus.PARTIAL_CONTENT:
                self._check_continues(response, start, version)
            else:  # the whole file: it changed, or the server does not resume
                start = 0
                self.part.begin(self.url, _version(response))
            self.resumed_blindly = bool(start) and version is None
            self._note_total(response, start)
            self._append(response)
        if self.total is not None and len(self.part) < self.total:
            raise _Interrupted("the server ended the transfer early")

    def _resume_at(self) -> tuple[int, str | None]:
        """First byte to ask for, and the version that the bytes before it are of, if known.

        Bytes of an unknown version are gone on from only where the digest will tell.
        """
        version, start = self.part.version(self.url), len(self.part)
        too_long = self.total is not None and start > self.total
        if too_long or (version is None and self.expected is None):
            self.part.discard()
            return 0, None
        return start, version

    def _open(self, start: int, version: str | None) -> http.client.HTTPResponse:
        headers = {"Accept-Encoding": "identity", "User-Agent": "obdbench"}
        if start:
            headers["Range"] = f"bytes={start}-"
            if version is not None:
                headers["If-Range"] = version
        request = urllib.request.Request(self.url, headers=headers)
        try:
            response: http.client.HTTPResponse = urllib.request.urlopen(
                request, timeout=self.patience.stall
            )
        except urllib.error.HTTPError as error:
            with error:
                self._refused(error)
        except (OSError, http.client.HTTPException) as error:
            reason = getattr(error, "reason", error)
            if isinstance(reason, socket.gaierror | ConnectionRefusedError):
                raise _Unreachable(reason) from error
            raise _Interrupted(_reason(reason, self.patience.stall)) from error
        return response

    def _refused(self, error: urllib.error.HTTPError) -> None:
        if error.code == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            self.part.discard()
            raise _Interrupted("the file is shorter than what came in of it before")
        if error.code in _WORTH_ANOTHER_TRY or error.code >= HTTPStatus.INTERNAL_SERVER_ERROR:
            raise _Interrupted(f"the server answered {error.code} {error.reason}")
        self.part.discard()
        raise DownloadProblem(
            f"{self.url} was answered with {error.code} {error.reason}: the server does not give "
            f"the file. {self.advice}"
        )

    def _check_continues(
        self, response: http.client.HTTPResponse, start: int, version: str | None
    ) -> None:
        """A server may ignore what `If-Range` asked, or send another range."""
        given = re.match(r"bytes (\d+)-", response.headers.get("Content-Range", ""))
        same = version is None or _version(response) in (None, version)
        if given is None or int(given[1]) != start or not same:
            self.part.discard()
            raise _Interrupted("the file changed on the server, so it is begun anew")

    def _note_total(self, response: http.client.HTTPResponse, start: int) -> None:
        length = response.headers.get("Content-Length")
        if length is None:
            return
        total = start + int(length)
        if self.expected is not None and total != self.expected.bytes:
            self._altered(f"{total:,} bytes")
        self.total = total

    def _append(self, response: http.client.HTTPResponse) -> None:
        with self.part.path.open("ab") as stream:
            done = len(self.part)
            while block := self._read(response):
                stream.write(block)
                done += len(block)
                if self.progress:
                    self.progress(done, self.total or 0)
            stream.flush()
            os.fsync(stream.fileno())

    def _read(self, response: http.client.HTTPResponse) -> bytes:
        try:
            return response.read1(BLOCK)
        except (OSError, http.client.HTTPException) as error:
            raise _Interrupted(_reason(error, self.patience.stall)) from error

    def _is_as_expected(self) -> bool:
        return self.expected is None or Fingerprint.of(self.part.path) == self.expected

    def _finish(self) -> None:
        if not self._is_as_expected():
            found = Fingerprint.of(self.part.path)
            self._altered(f"{found.bytes:,} bytes with sha256 {found.sha256}")
        self.part.path.replace(self.target)
        self.part.discard()

    def _altered(self, found: str) -> None:
        assert self.expected is not None
        self.part.discard()
        raise DownloadProblem(
            f"{self.url} gives {found}, expected {self.expected.bytes:,} bytes with sha256 "
            f"{self.expected.sha256}: it is another file, and was not kept. {self.advice}"
        )


def _version(response: Any) -> str | None:
    """What `If-Range` can name: a strong ETag, else the date of the last change."""
    tag: str | None = response.headers.get("ETag")
    if tag is not None and not tag.startswith("W/"):
        return tag
    date: str | None = response.headers.get("Last-Modified")
    return date


def _reason(error: object, stall: float) -> str:
    if isinstance(error, TimeoutError):
        return f"nothing came for {stall:g} seconds"
    return f"the connection failed ({type(error).__name__}: {error})"

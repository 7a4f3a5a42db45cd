"""A local HTTP server of one file that misbehaves on demand."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class FileServer:
    """What the next requests get; each answer in `plan` serves one request, then all is well.

    An answer is a status code to refuse with, ("truncate", n) to hang up after n bytes, or
    ("stall", n) to send nothing after n bytes until the server is closed.
    """

    content: bytes = b""
    tag: str | None = '"first"'
    honours_range: bool = True
    honours_if_range: bool = True
    plan: list[Any] = field(default_factory=list)
    requests: list[dict[str, str]] = field(default_factory=list)
    url: str = ""
    closing: threading.Event = field(default_factory=threading.Event)


@contextmanager
def serve() -> Iterator[FileServer]:
    """The server, at `url`, for the length of the block. Every path below it is the one file."""
    state = FileServer()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            state.requests.append({"path": self.path, **dict(self.headers)})
            answer = state.plan.pop(0) if state.plan else None
            if isinstance(answer, int):
                self.send_error(answer)
                return
            start = self._headers()
            kind, count = answer or ("all", len(state.content))
            self.wfile.write(state.content[start : start + count])
            if kind == "stall":
                state.closing.wait(30)
            self.close_connection = True

        def _headers(self) -> int:
            """Sends them; first byte of what follows."""
            condition = self.headers.get("If-Range")
            same = condition in (None, state.tag) or not state.honours_if_range
            wanted = self.headers.get("Range")
            resumes = wanted is not None and state.honours_range and same
            start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted and resumes else 0
            if start >= len(state.content) > 0:
                self.send_response(416)
                self.send_header("Content-Length", "0")
                self.end_headers()
                return start
            self.send_response(206 if resumes else 200)
            if resumes:
                last, total = len(state.content) - 1, len(state.content)
                self.send_header("Content-Range", f"bytes {start}-{last}/{total}")
            if state.tag is not None:
                self.send_header("ETag", state.tag)
            self.send_header("Content-Length", str(len(state.content) - start))
            self.end_headers()
            return start

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = False  # so that closing waits for them, and none outlives the test
    state.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield state
    finally:
        state.closing.set()
        server.shutdown()
        thread.join()
        server.server_close()

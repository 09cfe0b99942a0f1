"""A local HTTP server that the tests share: serves what they give it, misbehaves when told to."""

from __future__ import annotations

import contextlib
import email.utils
import http.server
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit


@dataclass
class Served:
    """One file of the server and how it misbehaves."""

    body: bytes
    etag: str | None = '"1"'
    modified: float | None = None
    ranges: bool = True
    length: bool = True
    type: str = "application/octet-stream"
    breaks: list[int] = field(default_factory=list)
    statuses: list[int] = field(default_factory=list)
    headers: dict[str, str] = field(default_factory=dict)
    redirect: str | None = None


class Server(http.server.ThreadingHTTPServer):
    """Serves `files`, remembers `requests` as (method, path with query, Range)."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, Served] = {}
        self.requests: list[tuple[str, str, str | None]] = []
        self.authorizations: list[str | None] = []

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/{path}"

    def ranges(self) -> list[str | None]:
        return [wanted for method, _, wanted in self.requests if method == "GET"]

    def handle_error(self, request: Any, address: Any) -> None:
        """Broken connections are what these tests are about."""


class Handler(http.server.BaseHTTPRequestHandler):
    server: Server
    protocol_version = "HTTP/1.1"

    def log_message(self, *arguments: Any) -> None:
        """The suite's output is for results."""

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        self.server.requests.append((self.command, self.path, self.headers.get("Range")))
        self.server.authorizations.append(self.headers.get("Authorization"))
        served = self.server.files.get(urlsplit(self.path).path.lstrip("/"))
        if served is None:
            return self.answer(404, b"", {})
        if served.redirect:
            return self.answer(302, b"", {"Location": served.redirect})
        if served.statuses and (status := served.statuses.pop(0)) != 200:
            return self.answer(status, b"no", served.headers)
        self.serve(served)

    def serve(self, served: Served) -> None:
        headers = {"Content-Type": served.type, **served.headers}
        if served.etag:
            headers["ETag"] = served.etag
        if served.modified:
            headers["Last-Modified"] = email.utils.formatdate(served.modified, usegmt=True)
        start, wanted = 0, self.headers.get("Range")
        condition = self.headers.get("If-Range")
        valid = condition in (None, served.etag, headers.get("Last-Modified"))
        if wanted and served.ranges and valid:
            start = int(wanted.removeprefix("bytes=").rstrip("-"))
            if start >= len(served.body):
                return self.answer(416, b"", {"Content-Range": f"bytes */{len(served.body)}"})
            total = len(served.body)
            headers["Content-Range"] = f"bytes {start}-{total - 1}/{total}"
        self.answer(206 if start else 200, served.body[start:], headers, served)

    def answer(
        self, status: int, body: bytes, headers: dict[str, str], served: Served | None = None
    ) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        if served is None or served.length:
            self.send_header("Content-Length", str(len(body)))
        else:
            self.send_header("Connection", "close")
        self.end_headers()
        if self.command == "HEAD":
            return
        if served and served.breaks:
            self.wfile.write(body[: served.breaks.pop(0)])
            self.wfile.flush()
            self.close_connection = True
            return
        self.wfile.write(body)
        self.close_connection = served is not None and not served.length


@contextlib.contextmanager
def running() -> Iterator[Server]:
    """A server on a free port of this machine, for as long as the block lasts."""
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        yield server
        server.shutdown()

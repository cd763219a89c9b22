"""A real web server on loopback that serves what a test puts on it, and misbehaves on request."""

from __future__ import annotations

import hashlib
import http.server
import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field


@dataclass
class Page:
    """What a path answers. ``script`` is called first, with the request and how many came before it.

    It may answer by itself.
    """

    body: bytes = b""
    content_type: str = "application/octet-stream"
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    etag: bool = True
    ranges: bool = True
    script: Callable[[Handler, int], bool | None] | None = None


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    site: Site

    def do_GET(self) -> None:
        path = self.path.split("?")[0] if self.path not in self.site.pages else self.path
        before = self.site.hits[path]
        self.site.hits[path] += 1
        self.site.requests.append((self.path, dict(self.headers)))
        page = self.site.pages.get(path)
        if page is None:
            return self.answer(404, b"nothing here")
        if page.script and page.script(self, before):
            return None
        return self.answer_page(page)

    def answer_page(self, page: Page) -> None:
        headers = {"Content-Type": page.content_type} | page.headers
        etag = f'"{hashlib.sha256(page.body).hexdigest()[:12]}"'
        if page.etag:
            headers["ETag"] = etag
            if self.headers.get("If-None-Match") == etag:
                return self.answer(304, b"", headers)
        match = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        if match and page.ranges and self.headers.get("If-Range", etag) == etag:
            start = int(match.group(1))
            headers["Content-Range"] = f"bytes {start}-{len(page.body) - 1}/{len(page.body)}"
            return self.answer(206, page.body[start:], headers)
        return self.answer(page.status, page.body, headers)

    def answer(
        self, status: int, body: bytes, headers: dict[str, str] | None = None, *, length: int | None = None
    ) -> None:
        self.send_response(status)
        for key, value in (headers or {}).items():
            self.send_header(key, value)
        if status != 304:
            self.send_header("Content-Length", str(len(body) if length is None else length))
        self.end_headers()
        self.wfile.write(body)
        if length is not None and length != len(body):
            self.close_connection = True

    def handle(self) -> None:
        try:
            super().handle()
        except (ConnectionError, BrokenPipeError):
            self.close_connection = True

    def log_message(self, *_) -> None:
        pass


class Site:
    """Pages by path, and what was asked for."""

    def __init__(self, address: tuple[str, int]):
        self.base_url = f"http://{address[0]}:{address[1]}"
        self.pages: dict[str, Page] = {}
        self.hits: Counter[str] = Counter()
        self.requests: list[tuple[str, dict[str, str]]] = []

    def put(self, path: str, body: bytes | str = b"", content_type: str = "application/octet-stream", **options) -> str:
        """Serve ``body`` at ``path``; its whole address."""
        data = body.encode() if isinstance(body, str) else body
        self.pages[path] = Page(data, content_type, **options)
        return self.base_url + path

    def forget(self) -> None:
        self.hits.clear()
        self.requests.clear()


def drip(handler: Handler, body: bytes, *, interval_s: float) -> None:
    """Send ``body`` byte by byte, as a server that is about to die does."""
    handler.send_response(200)
    handler.send_header("Content-Length", str(len(body)))
    handler.end_headers()
    for byte in body:
        handler.wfile.write(bytes([byte]))
        handler.wfile.flush()
        time.sleep(interval_s)


@contextmanager
def serving() -> Iterator[Site]:
    """A site on a free port for the length of the block."""
    handler = type("SiteHandler", (Handler,), {})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    handler.site = Site(server.server_address)
    handler.site.server = server
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    try:
        yield handler.site
    finally:
        server.shutdown()
        server.server_close()

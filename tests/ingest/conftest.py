"""A real loopback web server that serves what a test puts on it, and misbehaves on request."""

from __future__ import annotations

import hashlib
import http.server
import io
import re
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from xml.sax.saxutils import escape

import av
import numpy as np
import pytest
import soundfile

from triforce.ingest.config import Settings
from triforce.ingest.corpus import Corpus


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


@pytest.fixture
def site():
    handler = type("SiteHandler", (Handler,), {})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    handler.site = Site(server.server_address)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    yield handler.site
    server.shutdown()
    server.server_close()


@pytest.fixture
def corpus(tmp_path) -> Corpus:
    return Corpus(str(tmp_path / "corpus"))


@pytest.fixture
def settings() -> Settings:
    """As on the open web but for the loopback server and a test's impatience."""
    return Settings(
        contact="tests@example.org",
        allow_private_hosts=True,
        backoff_s=0.01,
        requests_per_s=1000,
        tries=3,
        min_duration_s=0.1,
    )


@pytest.fixture(scope="session")
def sound() -> Callable[..., bytes]:
    """``sound(seed, duration_s, format)``: noise that differs by seed, as the bytes of a FLAC, WAV, OGG or MP3 file."""

    def make(seed: int = 0, duration_s: float = 1.0, format: str = "FLAC", rate_hz: int = 16_000) -> bytes:
        noise = np.random.default_rng(seed).normal(0, 0.1, int(duration_s * rate_hz)).astype(np.float32)
        file = io.BytesIO()
        soundfile.write(file, noise, rate_hz, format=format)
        return file.getvalue()

    return make


@pytest.fixture(scope="session")
def webm(sound) -> bytes:
    """Two seconds of Opus in WebM, as a page's player would get."""
    output = io.BytesIO()
    with av.open(io.BytesIO(sound(99, 2.0, "WAV", 48_000))) as source, av.open(output, "w", format="webm") as target:
        stream = target.add_stream("libopus", rate=48_000, layout="mono")
        for frame in source.decode(audio=0):
            frame.pts = None
            target.mux(stream.encode(frame))
        target.mux(stream.encode(None))
    return output.getvalue()


@pytest.fixture(scope="session")
def make_feed() -> Callable[..., str]:
    """``make_feed([(guid, url), ...])``: an RSS 2.0 feed.

    An item may be a dict with ``guid``, ``url`` and extra XML.
    """

    def make(items: list, title: str = "A Talk", extra: str = "") -> str:
        rows = [item if isinstance(item, dict) else {"guid": item[0], "url": item[1]} for item in items]
        body = "".join(
            f"<item><title>Episode {escape(row['guid'])}</title><guid>{escape(row['guid'])}</guid>"
            f'<enclosure url="{escape(row["url"])}" type="{row.get("type", "audio/mpeg")}" length="{row.get("length", 1)}"/>'
            f"{row.get('extra', '')}</item>"
            for row in rows
        )
        return (
            '<?xml version="1.0" encoding="UTF-8"?><rss version="2.0" '
            'xmlns:itunes="http://www.itunes.com/dtds/podcast-1.0.dtd" xmlns:podcast="https://podcastindex.org/namespace/1.0" '
            'xmlns:atom="http://www.w3.org/2005/Atom" xmlns:psc="http://podlove.org/simple-chapters">'
            f"<channel><title>{escape(title)}</title><language>en-GB</language>{extra}{body}</channel></rss>"
        )

    return make


def drip(handler: Handler, body: bytes, *, interval_s: float) -> None:
    """Send ``body`` byte by byte, as a server that is about to die does."""
    handler.send_response(200)
    handler.send_header("Content-Length", str(len(body)))
    handler.end_headers()
    for byte in body:
        handler.wfile.write(bytes([byte]))
        handler.wfile.flush()
        time.sleep(interval_s)

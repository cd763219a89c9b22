"""The demo's sites on loopback: a real HTTP server with ranges, entity tags and 304, in a thread."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from triforce.flows.examples.demo.pages import BASE_URL
from triforce.ingest import storage

HOST = "127.0.0.1"
START_TIMEOUT_S = 20.0


@contextlib.contextmanager
def serve(folder: Path) -> Iterator[str]:
    """Serve the sites in ``folder`` while the block runs; yield the address, without a slash at its end.

    The port is the one of the last time, if it is free, so that the addresses in a corpus stay valid.
    """
    import uvicorn

    with _listening_socket(folder / "port") as listener:
        base_url = f"http://{HOST}:{listener.getsockname()[1]}"
        render_templates(folder, base_url)
        server = uvicorn.Server(uvicorn.Config(make_app(folder), log_level="warning", lifespan="off", access_log=False))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, name="demo-sites", daemon=True)
        thread.start()
        try:
            _wait_until_started(server, thread)
            yield base_url
        finally:
            server.should_exit = True
            thread.join(timeout=10)


def make_app(folder: Path):
    """Return an ASGI application: the LibriVox API's one query, and the files."""
    from starlette.applications import Starlette
    from starlette.routing import Mount, Route
    from starlette.staticfiles import StaticFiles

    async def audiobooks(request):
        return _audiobooks(folder, request.query_params)

    return Starlette(
        routes=[
            Route("/library/api/feed/audiobooks", audiobooks),
            Route("/library/api/feed/audiobooks/", audiobooks),
            Mount("/", StaticFiles(directory=folder, html=True)),
        ]
    )


def _audiobooks(folder: Path, query):
    """Answer with books by ``id``, ``title`` (``^`` anchors), ``limit`` and ``offset``; past the last with 404."""
    from starlette.responses import JSONResponse

    if query.get("format", "xml") != "json":
        return JSONResponse({"error": "this library answers in JSON only: add format=json"}, status_code=400)
    books = json.loads((folder / "library/books.json").read_text())["books"]
    if "id" in query:
        books = [book for book in books if book["id"] == query["id"]]
    if "title" in query:
        books = [book for book in books if query["title"].lstrip("^").lower() in book["title"].lower()]
    offset, limit = (
        int(text) if (text := query.get(key, "")).isdigit() else default
        for key, default in (("offset", 0), ("limit", 50))
    )
    books = books[offset : offset + limit]
    if query.get("extended") != "1":
        books = [
            {key: value for key, value in book.items() if key not in ("sections", "genres", "translators")}
            for book in books
        ]
    if not books:
        return JSONResponse({"error": "Audiobooks could not be found"}, status_code=404)
    return JSONResponse({"books": books})


def render_templates(folder: Path, base_url: str) -> None:
    """Fill in the templates; a file whose text is unchanged is not touched, so its entity tag stays."""
    for template in folder.rglob("*.in"):
        text = template.read_text(encoding="utf-8").replace(BASE_URL, base_url).encode()
        target = template.with_suffix("")
        if not target.exists() or target.read_bytes() != text:
            storage.write_bytes(target, text)


def _listening_socket(remembered: Path) -> socket.socket:
    """Bind to the port written in ``remembered`` if that is free, else to a free one, which is written there."""
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    port = int(text) if remembered.exists() and (text := remembered.read_text().strip()).isdigit() else 0
    try:
        listener.bind((HOST, port))
    except OSError:
        listener.bind((HOST, 0))
    listener.listen(128)
    storage.write_bytes(remembered, f"{listener.getsockname()[1]}\n".encode())
    return listener


def _wait_until_started(server, thread: threading.Thread) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while not server.started:
        if not thread.is_alive() or time.monotonic() > deadline:
            raise RuntimeError(f"the demo's web server did not start within {START_TIMEOUT_S:.0f} s")
        time.sleep(0.02)

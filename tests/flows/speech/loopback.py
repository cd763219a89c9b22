"""A replica of the speech endpoint on loopback, in this process."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import uvicorn

from triforce.flows.speech.serve import SpeechServer


@contextmanager
def running(server: SpeechServer) -> Iterator[str]:
    """Serve a replica; yields its address."""
    app = uvicorn.Server(uvicorn.Config(server.__serve_build_asgi_app__(), port=0, log_level="error"))
    thread = threading.Thread(target=app.run)
    thread.start()
    try:
        while not app.started:
            time.sleep(0.02)
        yield f"http://127.0.0.1:{app.servers[0].sockets[0].getsockname()[1]}"
    finally:
        app.should_exit = True
        thread.join(30)

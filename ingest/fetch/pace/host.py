"""Pace and parallelism of each host that is asked: of this process alone, or together with others on many machines."""

from __future__ import annotations

import contextlib
import functools
import os
import threading
import time
from collections.abc import Iterator
from urllib.parse import urlsplit

from triforce.ingest.config import Settings
from triforce.ingest.fetch.pace.shared import SharedPace


class Host:
    """Pace and parallelism of one host, shared by all threads of this process, and by all processes that have the same
    `Settings.shared_pace`.
    """

    def __init__(self, settings: Settings, shared: SharedPace | None) -> None:
        self._slots = threading.BoundedSemaphore(settings.connections_per_host)
        self._lock, self._next_s, self._interval_s = threading.Lock(), 0.0, 1.0 / settings.requests_per_s
        self._shared = shared

    @contextlib.contextmanager
    def slot(self) -> Iterator[None]:
        """Hold one of the host's connections. Raises `Rejected` where the place of a shared pace cannot be used."""
        with self._slots, self._shared.slot() if self._shared else contextlib.nullcontext():
            yield

    def wait_for_turn(self) -> None:
        """Sleep until the next request to this host may begin. Raises `Rejected` as `slot` does."""
        with self._lock:
            if self._shared:
                begin_s = self._shared.take_turn() - time.time() + time.monotonic()
            else:
                begin_s = max(self._next_s, time.monotonic())
                self._next_s = begin_s + self._interval_s
        if (wait_s := begin_s - time.monotonic()) > 0:
            time.sleep(wait_s)


def host_of(url: str, settings: Settings) -> Host:
    """Return pace and parallelism of the host that ``url`` names."""
    return _host(urlsplit(url).netloc.rpartition("@")[2].lower(), settings, os.getpid())


@functools.lru_cache(maxsize=4096)
def _host(name: str, settings: Settings, _process: int) -> Host:
    if settings.shared_pace is None:
        return Host(settings, None)
    return Host(settings, SharedPace(settings.shared_pace, name, settings))

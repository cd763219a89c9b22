"""Make batches in a thread beside the training step, in the order of a plain loop."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from typing import Generic, TypeVar, cast

T = TypeVar("T")


class Prefetcher(Generic[T]):
    """Runs ``make`` in a thread, ``depth`` results ahead; with depth 0, in place.

    What ``make`` returns should carry the place it read up to: the consumer, not the thread, decides how far training
    has come.
    """

    def __init__(self, make: Callable[[], T], depth: int) -> None:
        self._make, self._depth = make, depth
        self._queue: queue.Queue[tuple[T | None, BaseException | None]] = queue.Queue(max(1, depth))
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def next(self) -> T:
        """Return the next result; raises what ``make`` raised."""
        if not self._depth:
            return self._make()
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="prefetch", daemon=True)
            self._thread.start()
        value, error = self._queue.get()
        if error is not None:
            raise error
        return cast(T, value)

    def close(self) -> None:
        """End the thread; what it has read ahead is dropped."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                item: tuple[T | None, BaseException | None] = (self._make(), None)
            except Exception as error:  # raised again where the batch is asked for
                item = (None, error)
            while not self._stop.is_set():
                try:
                    self._queue.put(item, timeout=0.2)
                    break
                except queue.Full:
                    continue
            if item[1] is not None:
                return

"""Threads that make sound while the engine's own thread draws, each with one core.

A part of a second is too little work for several cores: they wait for each other at every operator, and where other
processes want a core, for as long as these have it (a first part took 35 ms on one core, and 85 to 1400 ms on two that
an installation shared). So each thread computes alone, and parts of several texts are made side by side.
"""

from __future__ import annotations

import itertools
import math
import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future

import numpy as np
import torch

Work = Callable[[], np.ndarray]


class SoundThreads:
    """Makes what it is given: what is urgent first, else in the order in which it came."""

    def __init__(self, num_threads: int) -> None:
        self._work: queue.PriorityQueue[tuple[float, int, Future[np.ndarray], Work | None]] = queue.PriorityQueue()
        self._numbers = itertools.count()
        self._threads = [
            threading.Thread(target=self._run, name=f"speech-sound-{number}", daemon=True)
            for number in range(num_threads)
        ]

    def start(self) -> None:
        """Begin to work."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """End the threads; what was not begun is not made."""
        for _ in self._threads:
            self._work.put((-math.inf, next(self._numbers), Future(), None))
        for thread in self._threads:
            if thread.is_alive():
                thread.join()

    def submit(self, work: Work, *, urgent: bool) -> Future[np.ndarray]:
        """Return what will hold the samples of ``work``, or what it raised."""
        future: Future[np.ndarray] = Future()
        self._work.put((0.0 if urgent else 1.0, next(self._numbers), future, work))
        return future

    def _run(self) -> None:
        torch.set_num_threads(1)  # this thread's alone
        while True:
            _, _, future, work = self._work.get()
            if work is None:
                return
            if future.set_running_or_notify_cancel():
                try:
                    future.set_result(work())
                except BaseException as error:
                    future.set_exception(error)
            del future, work  # a text's state must not stay until the next comes

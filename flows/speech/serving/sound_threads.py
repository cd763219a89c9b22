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

JUMP = 16
"""Works that an urgent one is made before, though they came before it; with no limit those who come again and again
would keep others from being heard. Assumed."""


def use_threads(number: int) -> None:
    """Compute with so many threads in the calling thread, and in those that compute for the first time after it.

    Torch has one number for all threads that have not computed yet: a thread takes it with its first operation, over
    what it had been told before, unless it has asked for it.
    """
    torch.get_num_threads()
    torch.set_num_threads(number)


class SoundThreads:
    """Makes what it is given in the order in which it came, what is urgent up to `JUMP` works earlier."""

    def __init__(self, num_threads: int) -> None:
        self._work: queue.PriorityQueue[tuple[float, int, Future[np.ndarray], Work | None]] = queue.PriorityQueue()
        self._numbers = itertools.count()
        self._ready: queue.SimpleQueue[None] = queue.SimpleQueue()
        self._threads = [
            threading.Thread(target=self._run, name=f"speech-sound-{number}", daemon=True)
            for number in range(num_threads)
        ]

    def start(self) -> None:
        """Begin to work; each thread computes with one core from here on."""
        for thread in self._threads:
            thread.start()
        for _ in self._threads:
            self._ready.get()

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
        number = next(self._numbers)
        self._work.put((number - JUMP * urgent, number, future, work))
        return future

    def _run(self) -> None:
        use_threads(1)
        self._ready.put(None)
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

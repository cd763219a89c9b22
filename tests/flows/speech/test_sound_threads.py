"""Threads that make sound: in which order, with one core each, and what becomes of errors and of what is cancelled."""

from __future__ import annotations

import threading

import numpy as np
import pytest
import torch

from triforce.flows.speech.serving.sound_threads import JUMP, SoundThreads, use_threads


@pytest.fixture
def threads():
    made = SoundThreads(1)
    made.start()
    yield made
    made.stop()


def test_what_is_urgent_is_made_earlier_and_the_rest_as_it_came(threads):
    begun, go_on, order = threading.Event(), threading.Event(), []

    def holds() -> np.ndarray:
        begun.set()
        assert go_on.wait(30)
        return np.zeros(1, np.float32)

    def named(name: str) -> np.ndarray:
        order.append(name)
        return np.zeros(1, np.float32)

    first = threads.submit(holds, urgent=False)
    assert begun.wait(30)
    cancelled = threads.submit(lambda: named("cancelled"), urgent=True)
    later = [threads.submit(lambda name=name: named(name), urgent=name > "b") for name in "abcd"]
    later += [threads.submit(lambda: named("late"), urgent=True) for _ in range(JUMP)]
    assert cancelled.cancel()
    go_on.set()
    for future in (first, *later):
        assert len(future.result(30)) == 1
    others = [name for name in order if name != "late"]
    assert others == ["c", "d", "a", "b"]
    assert order.index("a") == 2 + JUMP - 4  # who comes again and again keeps nobody waiting for ever


def test_an_error_is_told_and_ends_no_thread(threads):
    def fails() -> np.ndarray:
        raise ValueError("no such code")

    with pytest.raises(ValueError, match="no such code"):
        threads.submit(fails, urgent=True).result(30)
    assert threads.submit(lambda: np.ones(3, np.float32), urgent=False).result(30).sum() == 3


def test_each_computes_with_one_thread_and_leaves_others_theirs(threads):
    def count() -> np.ndarray:
        torch.ones(200_000).sum()
        return np.array([torch.get_num_threads()], np.float32)

    before, found = torch.get_num_threads(), []

    def draws() -> None:
        use_threads(3)
        found.extend([count()[0], threads.submit(count, urgent=True).result(30)[0], count()[0]])

    try:
        thread = threading.Thread(target=draws)  # a new one, as the engine's: it has never computed
        thread.start()
        thread.join(30)
        assert found == [3, 1, 3]
        assert torch.get_num_threads() == before
    finally:
        torch.set_num_threads(before)


def test_stopping_makes_no_more_of_what_waits():
    made, begun, go_on = SoundThreads(1), threading.Event(), threading.Event()
    made.start()

    def holds() -> np.ndarray:
        begun.set()
        go_on.wait(30)
        return np.zeros(1, np.float32)

    made.submit(holds, urgent=True)
    assert begun.wait(30)
    waiting = made.submit(lambda: np.zeros(2, np.float32), urgent=True)
    stopping = threading.Thread(target=made.stop)
    stopping.start()
    while made._work.queue[0][3] is not None:  # until the end is at the head of the queue
        pass
    go_on.set()
    stopping.join(30)
    assert not stopping.is_alive()
    assert not waiting.done()

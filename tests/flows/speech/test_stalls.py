"""Clients that stop reading lose their places, slow ones do not: real sockets, and the server as it is started."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import httpx
import numpy as np
import pytest
import tiny_run

from triforce.flows.speech.serve import ServeConfig
from triforce.flows.speech.serving.places import MOST_S, Places
from triforce.flows.speech.serving.start import start
from triforce.flows.speech.speaker import SpeakConfig
from triforce.models.gpt_sampling import SamplingConfig

PLACES, STALL_S = 3, 2.0
TEXT = "One two three. " * 25
"""Its sound is far more than the buffers between a server and a client hold."""
SMALL = [(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16)]


@pytest.fixture(scope="module")
def address(tmp_path_factory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("stalls") / "release"
    release = tiny_run.write_release(folder, stages=("dvae", "gpt", "vocoder"), reads=True)
    speak = SpeakConfig(sampling=SamplingConfig(max_codes_per_word=20))
    config = ServeConfig(
        release=release, port=0, max_chars=10_000, max_waiting=PLACES, max_stall_s=STALL_S, speak=speak
    )
    running = start(config)
    yield running.address
    running.stop()


@contextmanager
def asking(address: str, text: str) -> Iterator[socket.socket]:
    """A client with small buffers that has asked for a text, and has read nothing yet."""
    body = json.dumps({"input": text, "response_format": "pcm"}).encode()
    head = f"POST /v1/audio/speech HTTP/1.1\r\nHost: here\r\nConnection: close\r\nContent-Length: {len(body)}\r\n\r\n"
    with socket.socket() as client:
        client.setsockopt(*SMALL[0])
        client.settimeout(60)
        client.connect(("127.0.0.1", int(address.rpartition(":")[2])))
        client.sendall(head.encode() + body)
        yield client


def ask(address: str) -> httpx.Response:
    return httpx.post(f"{address}/v1/audio/speech", json={"input": "No.", "response_format": "pcm"}, timeout=60)


@pytest.mark.slow
def test_clients_that_take_nothing_lose_their_places(address, caplog):
    with ExitStack() as clients:
        stalled = [clients.enter_context(asking(address, TEXT)) for _ in range(PLACES)]
        assert [client.recv(15) for client in stalled] == [b"HTTP/1.1 200 OK"] * PLACES
        refused, deadline = ask(address), time.monotonic() + 60
        assert (refused.status_code, 1 <= int(refused.headers["retry-after"]) <= MOST_S) == (429, True)
        while ask(address).status_code != 200:
            assert time.monotonic() < deadline, "nobody lost a place"
            time.sleep(0.1)
        port = stalled[0].getsockname()[1]
        while not any(f"port {port}, is ended: it took nothing for 2 s" in line for line in caplog.messages):
            assert time.monotonic() < deadline, caplog.messages
            time.sleep(0.1)
        [told] = [line for line in caplog.messages if f"port {port}," in line]
        assert told.startswith(f"a text of {len(TEXT)} characters as pcm, begun ")
        data = b""
        while part := stalled[0].recv(1 << 16):
            data += part
        assert not data.endswith(b"0\r\n\r\n"), "what is cut looks whole"


@pytest.mark.slow
def test_a_client_that_reads_slowly_gets_everything(address, caplog):
    """It takes 80 kB/s, at which its connection is longer than the limit without being writable."""
    with httpx.Client(transport=httpx.HTTPTransport(socket_options=SMALL), timeout=60) as client:
        fields = {"input": TEXT, "response_format": "pcm"}
        whole = client.post(f"{address}/v1/audio/speech", json=fields).content
        assert len(whole) > 2_500_000
        with client.stream("POST", f"{address}/v1/audio/speech", json=fields) as answer:
            slow, started = b"", time.monotonic()
            for part in answer.iter_raw():
                slow += part
                if time.monotonic() < started + 6 * STALL_S:
                    time.sleep(len(part) / 80_000)
    one, other = (np.frombuffer(sound, "<i2").astype(np.int64) for sound in (whole, slow))
    assert len(one) == len(other)
    assert np.abs(one - other).max() <= 4  # what is drawn beside each other, and so how it is rounded, differs
    assert not [line for line in caplog.messages if "took nothing" in line]


def test_who_is_refused_is_told_when_a_place_should_be_free():
    now_s = 0.0
    places = Places(2, lambda: now_s)
    first, second = places.take(None, 100, "a"), places.take(("127.0.0.1", 5000), 300, "b")
    assert None not in (first, second)
    assert places.take(None, 1, "c") is None
    assert places.of(("127.0.0.1", 5000)) is second
    now_s = 7.0
    assert places.retry_after_s() == 7  # nothing is known: as long again
    now_s = 10.0
    places.give_back(first, done=True)  # 0.1 s a character
    assert (len(places), places.retry_after_s()) == (1, 20)
    now_s = 29.5
    assert places.retry_after_s() == 1
    now_s = 35.0
    assert places.retry_after_s() == 5  # it is late by so much
    now_s = 3000.0
    assert places.retry_after_s() == MOST_S
    places.give_back(second)
    places.give_back(second, done=True)  # free already: it tells nothing about texts
    assert (len(places), places.retry_after_s()) == (0, 1)
    assert places.take(None, 100, "d") is not None
    assert places.retry_after_s() == 10

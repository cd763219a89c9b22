"""Many clients of one replica: side by side, streamed, fair; what befalls one is no other's concern."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import numpy as np
import pytest
import soundfile
import tiny_run
from loopback_app import running

from triforce.flows.speech.engine import Job, SpeechEngine
from triforce.flows.speech.loudness import KNEE, limited
from triforce.flows.speech.serve import ServeConfig, SpeechServer
from triforce.flows.speech.speaker import SpeakConfig
from triforce.models.gpt_sampling import SamplingConfig
from triforce.models.reading.pool import ReadingPool

TEXTS = ("Hello there.", "How many people live here now?", "No.", "We met. Then we left, and nobody said why.")
LONG = "One two three. " * 12
MAX_WAITING = 6


@pytest.fixture(scope="module")
def replica(tmp_path_factory) -> Iterator[SpeechServer]:
    folder = tmp_path_factory.mktemp("engine") / "release"
    release = tiny_run.write_release(folder, stages=("dvae", "gpt", "vocoder"), reads=True, voices=True)
    speak = SpeakConfig(sampling=SamplingConfig(max_codes_per_word=20, guidance=1.5))
    voices = folder.parent / "voices"
    voices.mkdir()
    soundfile.write(voices / "ann.wav", tiny_run.hum(2.0), 24_000)
    config = ServeConfig(release=release, rows=4, max_waiting=MAX_WAITING, speak=speak, voices=str(voices))
    server = SpeechServer(config, None)
    assert server.engine.pool is not None
    assert server.release.streams()
    yield server
    server.engine.stop()


@pytest.fixture(scope="module")
def address(replica):
    with running(replica.__serve_build_asgi_app__()) as address:
        yield f"{address}/v1/audio/speech"


def test_no_client_waits_for_a_voice_to_be_measured(replica, address, monkeypatch):
    assert set(replica.engine.gains) == {"default", "ann"}
    monkeypatch.setattr("triforce.flows.speech.engine.measure_gain", lambda speaker: pytest.fail("measured late"))
    assert not np.array_equal(samples(ask(address, "No.", voice="ann")), samples(ask(address, "No.")))


def ask(address: str, text: str, **fields) -> httpx.Response:
    return httpx.post(address, json={"input": text, "response_format": "pcm"} | fields, timeout=120)


def samples(answer: httpx.Response) -> np.ndarray:
    assert answer.status_code == 200, answer.text
    return np.frombuffer(answer.content, "<i2").astype(np.int64)


def eventually(holds: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + 20
    while not holds() and time.monotonic() < deadline:
        time.sleep(0.02)
    return holds()


def idle(replica: SpeechServer) -> bool:
    engine = replica.engine
    return not (engine.jobs or engine.pool.busy or replica.places)


def test_clients_side_by_side_get_what_each_gets_alone(address):
    alone = [samples(ask(address, text, seed=seed)) for seed, text in enumerate(TEXTS)]
    with ThreadPoolExecutor(len(TEXTS)) as threads:
        together = threads.map(lambda item: samples(ask(address, item[1], seed=item[0])), enumerate(TEXTS))
    for one, other in zip(alone, together, strict=True):
        assert len(one) == len(other) > 4800
        assert np.abs(one - other).max() <= 4
        assert np.abs(one).max() > 300


def heard(replica: SpeechServer, text: str, watch: Callable[[], Any]) -> tuple[list[np.ndarray], list[Any]]:
    """The parts of a text's sound, and what ``watch`` says in the engine's thread when each leaves."""
    parts: queue.SimpleQueue[Any] = queue.SimpleQueue()
    speaker = replica.speaker("default", 1.0)
    replica.engine.submit(speaker, "default", speaker.sentences(text), 0, lambda part: parts.put((part, watch())))
    found = []
    while (item := parts.get(timeout=60))[0] is not None:
        if isinstance(item[0], Exception):
            raise item[0]
        found.append(item)
    return [part for part, _ in found], [seen for _, seen in found]


def test_sound_leaves_while_its_sentence_is_drawn_and_has_no_seam(replica):
    pool = replica.engine.pool
    parts, steps = heard(replica, TEXTS[1], lambda: (pool.steps, len(pool.seats)))
    assert len(parts) >= 4
    assert steps[0][1] == 1  # the row is still at work
    assert steps[0][0] < steps[-1][0] - 20
    rate = replica.release.sample_rate_hz
    assert len(parts[0]) / rate == pytest.approx(0.3, abs=0.06)
    assert len(parts[1]) / rate == pytest.approx(0.3, abs=0.06)
    assert len(parts[2]) > 1.5 * len(parts[1])

    [candidates] = replica.release.draw_all([TEXTS[1]], seeds=[0], sampling=replica.config.speak.sampling)
    whole = limited(replica.engine.gains["default"] * replica.release.render(candidates[0].codes, seed=0)[0])
    sound = np.concatenate(parts)
    assert len(sound) == len(whole) + round(0.3 * rate)
    inner = slice(200, len(whole) - 200)  # the ends fade
    assert np.abs(sound[: len(whole)] - whole)[inner].max() < 1e-4
    assert abs(sound[0]) < 0.01 * np.abs(sound).max()


@pytest.mark.parametrize("listens", [True, False])
def test_a_client_that_goes_frees_its_rows_at_once(replica, address, monkeypatch, listens):
    """While it listens, and before it has heard anything: most of its text is never spoken."""
    jobs: list[Job] = []
    submit, step, go_on = replica.engine.submit, ReadingPool.step, threading.Event()
    monkeypatch.setattr(replica.engine, "submit", lambda *args: jobs.append(submit(*args)) or jobs[-1])
    if listens:
        go_on.set()
    monkeypatch.setattr(ReadingPool, "step", lambda pool: (go_on.wait(30), step(pool))[1])
    body = {"input": LONG * 8, "response_format": "pcm"}
    with httpx.Client(timeout=60 if listens else 1.0) as client:
        if listens:
            with client.stream("POST", address, json=body) as answer:
                next(answer.iter_raw())
        else:
            with pytest.raises(httpx.ReadTimeout):
                client.post(address, json=body)
    assert eventually(lambda: not replica.places)
    go_on.set()
    assert eventually(lambda: idle(replica))
    assert len(jobs[0].sentences) > 20
    assert len(samples(ask(address, TEXTS[2]))) > 0


def test_too_many_are_told_to_come_again(replica, address):
    with httpx.Client(timeout=60) as client:
        streams = [
            client.stream("POST", address, json={"input": LONG, "response_format": "pcm"}) for _ in range(MAX_WAITING)
        ]
        answers = [stream.__enter__() for stream in streams]
        assert {answer.status_code for answer in answers} == {200}
        refused = ask(address, TEXTS[0])
        assert refused.status_code == 429
        assert int(refused.headers["retry-after"]) >= 1
        assert "max_waiting" in refused.json()["error"]["message"]
        assert ask(address, "...").status_code == 429, "a text was read for which there is no place"
        for stream in streams:
            stream.__exit__(None, None, None)
    assert eventually(lambda: idle(replica))
    assert ask(address, TEXTS[0]).status_code == 200


def test_a_long_text_delays_no_other_for_long(replica, address):
    ended: list[str] = []

    def listen(text: str) -> None:
        ask(address, text)
        ended.append(text)

    threads = [threading.Thread(target=listen, args=(text,)) for text in (LONG, LONG + "End.", "No.", "Yes.")]
    for thread in threads[:2]:
        thread.start()
    assert eventually(lambda: sum(job.begun for job in replica.engine.jobs) == 2)
    for thread in threads[2:]:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(ended[:2]) == {"No.", "Yes."}


def test_an_error_of_one_ends_no_other(replica, address, monkeypatch):
    words = type(replica.release).words

    def fails_for_no(self, text: str) -> list[np.ndarray]:
        if text == "No.":
            raise RuntimeError("a fault of ours")
        if text == "So.":
            raise ValueError("a text of 900 pieces leaves no room")
        return words(self, text)

    monkeypatch.setattr(type(replica.release), "words", fails_for_no)
    with ThreadPoolExecutor(3) as threads:
        other = threads.submit(ask, address, LONG)
        assert eventually(lambda: bool(replica.engine.jobs))
        assert ask(address, "No.").status_code == 500
        refused = ask(address, "So.")
        assert (refused.status_code, "no room" in refused.text) == (400, True)
        assert len(samples(other.result())) > 24_000

    step = ReadingPool.step

    def fails_once(self) -> list:
        monkeypatch.setattr(ReadingPool, "step", step)
        raise RuntimeError("the memory is full")

    monkeypatch.setattr(ReadingPool, "step", fails_once)
    assert ask(address, TEXTS[0]).status_code == 500
    assert len(samples(ask(address, TEXTS[0]))) > 4800
    assert eventually(lambda: idle(replica))


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_where_the_thread_ends_all_are_told(replica, address, monkeypatch):
    """Those at work, those who come later, and who asks for its health: nobody waits for a thread that is no more."""
    engine = SpeechEngine(replica.release, num_rows=2, pooled=True)
    parts: queue.SimpleQueue[Any] = queue.SimpleQueue()

    def fails(*_: object, **__: object) -> None:
        raise MemoryError("no memory")

    monkeypatch.setattr(replica.release, "pool", fails)
    monkeypatch.setattr(engine.pool, "step", fails)
    speaker = replica.speaker("default", 1.0)
    for _ in range(2):
        engine.submit(speaker, "default", ["No."], 0, parts.put)
    engine.start()
    assert {type(parts.get(timeout=60)) for _ in range(2)} == {MemoryError}
    assert eventually(lambda: not engine.runs)
    engine.submit(speaker, "default", ["No."], 0, parts.put)
    assert "start the server again" in str(parts.get(timeout=60))

    health = address.replace("/v1/audio/speech", "/health")
    assert httpx.get(health, timeout=60).status_code == 200
    monkeypatch.setattr(replica, "engine", engine)
    answer = httpx.get(health, timeout=60)
    assert (answer.status_code, "start the server again" in answer.json()["error"]["message"]) == (503, True)
    assert ask(address, "No.").status_code == 500


def test_a_stop_tells_those_who_wait(replica):
    engine = SpeechEngine(replica.release, num_rows=2, pooled=True)
    parts: queue.SimpleQueue[Any] = queue.SimpleQueue()
    speaker = replica.speaker("default", 1.0)
    engine.start()
    engine.submit(speaker, "default", speaker.sentences(LONG * 8), 0, parts.put)
    assert isinstance(parts.get(timeout=60), np.ndarray)
    engine.stop()
    while isinstance(last := parts.get(timeout=5), np.ndarray):
        pass
    assert isinstance(last, RuntimeError)


def test_a_listener_who_is_slow_does_not_fill_the_memory(replica, monkeypatch):
    monkeypatch.setattr("triforce.flows.speech.engine.BUFFER_S", 1.0)
    parts: queue.SimpleQueue[Any] = queue.SimpleQueue()
    speaker = replica.speaker("default", 1.0)
    job = replica.engine.submit(speaker, "default", speaker.sentences(LONG), 0, parts.put)
    assert eventually(lambda: job.num_sent > 0 and not job.readings)
    waits = len(job.sentences)
    time.sleep(0.2)
    assert len(job.sentences) == waits > 0
    while (part := parts.get(timeout=60)) is not None:
        replica.engine.took(job, len(part))
    assert not job.sentences


def test_peaks_of_a_stream_are_bent_and_not_cut():
    wave = np.linspace(-3, 3, 601).astype(np.float32)
    bent = limited(wave)
    assert np.abs(bent).max() <= 1
    assert (np.diff(bent) >= 0).all()
    small = np.abs(wave) <= KNEE
    np.testing.assert_array_equal(bent[small], wave[small])
    np.testing.assert_array_equal(np.concatenate([limited(wave[:100]), limited(wave[100:])]), bent)

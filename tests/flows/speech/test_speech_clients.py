"""The speech endpoint as clients written for OpenAI use it: the official package, and what others are known to send."""

from __future__ import annotations

import base64
import io
import json
import logging
import socket

import av
import httpx
import openai
import pytest
import soundfile
import tiny_run
from loopback_app import running

from triforce.flows.speech.serve import ServeConfig, SpeechServer
from triforce.flows.speech.speaker import SpeakConfig
from triforce.models.gpt_sampling import SamplingConfig

MAX_CHARS = 20_000


@pytest.fixture(scope="module")
def replica(tmp_path_factory) -> SpeechServer:
    release = tiny_run.write_release(tmp_path_factory.mktemp("serve") / "release")
    speak = SpeakConfig(sampling=SamplingConfig(max_codes=8))
    return SpeechServer(ServeConfig(release=release, max_chars=MAX_CHARS, speak=speak), None)


@pytest.fixture(scope="module")
def address(replica):
    with running(replica.__serve_build_asgi_app__()) as address:
        yield address


@pytest.fixture(scope="module")
def client(address):
    with openai.OpenAI(base_url=f"{address}/v1", api_key="sk-anything", max_retries=0) as client:
        yield client


@pytest.mark.parametrize("name", ["mp3", "opus", "aac", "flac", "wav", "pcm"])
def test_the_official_client_gets_sound_in_every_format(client, name):
    asked = {"voice": "alloy", "input": "Hi.", "response_format": name}
    data = client.audio.speech.create(model="tts-1", **asked).read()
    with client.audio.speech.with_streaming_response.create(model="gpt-4o-mini-tts-2025-12-15", **asked) as answer:
        streamed = b"".join(answer.iter_bytes())
    assert streamed == data
    if name == "pcm":
        assert len(data) > 4800
        return
    with av.open(io.BytesIO(data)) as container:
        assert sum(frame.samples for frame in container.decode(audio=0)) > 2400


def test_the_default_voice_speaks_for_one_that_is_not_here_and_says_so(client, caplog):
    answer = client.audio.speech.with_raw_response.create(
        model="tts-1", voice="alloy", input="Hi ж 你.", instructions="Whisper.", response_format="pcm"
    )
    warning = answer.headers["x-triforce-warning"]
    assert "voice 'alloy' is not here, 'default' speaks" in warning
    assert "instructions are not followed" in warning
    assert "voice 'alloy' is not here" in caplog.text
    quiet = client.audio.speech.with_raw_response.create(
        model="triforce", voice={"id": "default"}, input="Hi.", response_format="pcm"
    )
    assert "x-triforce-warning" not in quiet.headers
    same = client.audio.speech.create(model="tts-1", voice="alloy", input="Hi.", response_format="pcm")
    assert same.content == quiet.content


def test_what_the_network_never_read_is_skipped_and_said_so(client, replica, monkeypatch):
    monkeypatch.setattr(replica.release, "characters", frozenset("abcdefghijklmnopqrstuvwxyz ."))
    answer = client.audio.speech.with_raw_response.create(model="tts-1", voice="default", input="I love it ❤️ ж 1️⃣.")
    assert answer.headers["x-triforce-warning"] == "skipped '\\u0436' (U+0436), which the network never read"
    with pytest.raises(openai.BadRequestError, match=r"'ж' \(U\+0436\).*what it knows: \.abc") as caught:
        client.audio.speech.create(model="tts-1", voice="default", input="ж")
    assert (caught.value.code, caught.value.param, caught.value.type) == (
        "unreadable_input",
        "input",
        "invalid_request_error",
    )
    with pytest.raises(openai.BadRequestError, match="nothing to say"):
        client.audio.speech.create(model="tts-1", voice="default", input="...")


def test_nulls_are_fields_left_out_and_events_carry_the_sound(client, address):
    fields = {"model": "tts-1", "input": "Hi.", "voice": None, "speed": None, "response_format": None}
    fields |= {"stream_format": None, "instructions": None, "seed": None, "user": "me"}
    answer = httpx.post(f"{address}/v1/audio/speech", json=fields, timeout=60)
    assert (answer.status_code, answer.headers["content-type"]) == (200, "audio/mpeg")
    assert soundfile.read(io.BytesIO(answer.content))[1] == 24_000

    with client.audio.speech.with_streaming_response.create(
        model="gpt-4o-mini-tts", voice="default", input="Hi.", response_format="mp3", stream_format="sse"
    ) as streamed:
        assert streamed.headers["content-type"].startswith("text/event-stream")
        found = [json.loads(line.removeprefix("data: ")) for line in streamed.iter_lines() if line]
    assert {event["type"] for event in found[:-1]} == {"speech.audio.delta"}
    assert b"".join(base64.b64decode(event["audio"]) for event in found[:-1]) == answer.content
    assert found[-1]["type"] == "speech.audio.done"
    assert found[-1]["usage"]["total_tokens"] == 3


def test_errors_are_the_clients_own(client, address):
    with pytest.raises(openai.NotFoundError, match="this server has 'triforce'"):
        client.audio.speech.create(model="gpt-9", voice="alloy", input="Hi.")
    with pytest.raises(openai.BadRequestError, match="speed"):
        client.audio.speech.create(model="tts-1", voice="alloy", input="Hi.", speed=9)
    with pytest.raises(openai.BadRequestError, match="input"):
        client.audio.speech.create(model="tts-1", voice="alloy", input="")
    with pytest.raises(openai.NotFoundError, match="this server has"):
        client.models.retrieve("whisper-1")
    for method, path, status in (("GET", "/v1/audio/speech", 405), ("POST", "/v1/chat/completions", 404)):
        answer = httpx.request(method, f"{address}{path}", timeout=60)
        assert (answer.status_code, set(answer.json()["error"])) == (status, {"message", "type", "param", "code"})


def test_a_client_that_goes_while_it_sends_is_no_fault_of_the_server(replica, address, caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("uvicorn"), "propagate", True)
    host, port = address.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as client:
        client.sendall(b'POST /v1/audio/speech HTTP/1.1\r\nHost: here\r\nContent-Length: 500\r\n\r\n{"input": "Hi')
    assert httpx.post(f"{address}/v1/audio/speech", json={"input": "Hi.", "voice": "x" * 9000}, timeout=60).is_success
    assert not [record for record in caplog.records if record.levelname == "ERROR"]
    assert max(map(len, caplog.messages)) < 300, "what is asked for fills the log"
    assert len(replica.places) == 0


def test_bodies_are_as_long_as_their_inputs_may_be(client, address):
    text = "Hello. " + "😀" * (MAX_CHARS - 10)  # in JSON, an emoji is 12 characters
    body = json.dumps({"model": "tts-1", "input": text})
    assert len(text) < MAX_CHARS < 64 * 1024 < len(body)
    with httpx.stream("POST", f"{address}/v1/audio/speech", content=body, timeout=60) as answer:
        assert answer.status_code == 200
    with pytest.raises(openai.BadRequestError, match=f"{MAX_CHARS} at most"):
        client.audio.speech.create(model="tts-1", voice="default", input="x" * (MAX_CHARS + 1))
    assert httpx.post(f"{address}/v1/audio/speech", content=b" " * 400_000, timeout=60).status_code == 413


def test_lists_are_as_clients_read_them(client, address):
    assert [model.id for model in client.models.list()] == ["triforce", "tts-1", "tts-1-hd", "gpt-4o-mini-tts"]
    assert client.models.retrieve("tts-1").object == "model"
    # Open WebUI, which sends no key; Home Assistant's integrations read the same.
    voices = httpx.get(f"{address}/v1/audio/voices", timeout=60).json()["voices"]
    assert {voice["id"]: voice["name"] for voice in voices} == {"default": "default"}
    assert httpx.get(f"{address}/v1/audio/models", timeout=60).json()["models"][0]["id"] == "triforce"


def test_a_page_of_this_machine_may_use_it_and_no_other_without_a_key(replica, address):
    asked = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization,content-type"}

    def preflight(address: str, origin: str) -> httpx.Response:
        return httpx.options(f"{address}/v1/audio/speech", headers=asked | {"Origin": origin}, timeout=60)

    allowed = preflight(address, "http://localhost:3000")
    assert allowed.status_code == 200
    assert allowed.headers["access-control-allow-origin"] == "http://localhost:3000"
    assert "authorization" in allowed.headers["access-control-allow-headers"].lower()
    for origin in ("https://elsewhere.example", "http://localhost.elsewhere.example"):
        assert "access-control-allow-origin" not in preflight(address, origin).headers
    guarded = object.__new__(SpeechServer)
    guarded.__dict__ |= replica.__dict__ | {"_key_hash": "0" * 64}
    with running(guarded.__serve_build_asgi_app__()) as address:
        assert preflight(address, "https://elsewhere.example").headers["access-control-allow-origin"] == "*"
        with pytest.raises(openai.AuthenticationError, match="wrong or missing key"):
            openai.OpenAI(base_url=f"{address}/v1", api_key="sk-no", max_retries=0).models.list()

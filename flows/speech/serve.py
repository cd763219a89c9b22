"""``triforce serve``: OpenAI's speech endpoint over a release, on Ray Serve, and a page to type and listen.

A sentence is sent as soon as it is spoken. The server listens to this machine alone unless a key is set.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import json
import logging
import os
import secrets
import socket
import threading
import time
from collections.abc import Iterator
from functools import lru_cache
from itertools import chain
from pathlib import Path
from typing import Any, Literal

import numpy as np
from fastapi import FastAPI, Request
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.concurrency import run_in_threadpool
from starlette.responses import HTMLResponse, JSONResponse, Response, StreamingResponse

from triforce.flows.speech.loudness import faded, silence
from triforce.flows.speech.speaker import PAUSE_S, SpeakConfig, Speaker
from triforce.flows.speech.voices import read_voices
from triforce.ingest.media.encode import FORMATS, encode_stream
from triforce.models.voice.bundled import VOICE

logger = logging.getLogger(__name__)

KEY_VARIABLE = "TRIFORCE_API_KEY"
MODEL = "triforce"
ALIASES = (MODEL, "tts-1", "tts-1-hd", "gpt-4o-mini-tts")
"""Model names that clients ask for by default; all mean the one release."""
DEFAULT_VOICE = "default"
MAX_BODY_BYTES = 64 * 1024
PAGE = Path(__file__).with_name("page.html")


class ServeConfig(BaseModel):
    """What is served, and at which address."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    release: str = Field(VOICE, description="URI of the release; voice is the one that comes along.")
    host: str = Field("127.0.0.1", description="Address to listen on.")
    port: int = Field(8123, ge=0, le=65535, description="Port; 0: any that is free.")
    replicas: int = Field(1, ge=1, le=256, description="Copies of the networks.")
    vocoder: str | None = Field(None, description="See `make_vocoder`; None: the release's own.")
    device: str = Field("cpu", description="Where the networks compute: cpu or cuda.")
    voices: str | None = Field(None, description="Folder of recordings; a file's name without its ending is a voice.")
    max_chars: int = Field(
        4096, ge=1, le=100_000, description="Characters of an input at most; OpenAI's limit by default."
    )
    max_waiting: int = Field(16, ge=0, le=10_000, description="Requests that a replica works on or keeps waiting.")
    speak: SpeakConfig = SpeakConfig()


class SpeechRequest(BaseModel):
    """The body of ``/v1/audio/speech``; OpenAI's fields that do not apply here are ignored."""

    model_config = ConfigDict(extra="ignore")

    model: str = MODEL
    input: str = Field(min_length=1)
    voice: str = DEFAULT_VOICE
    response_format: Literal["mp3", "opus", "aac", "flac", "wav", "pcm"] = "mp3"
    speed: float = Field(1.0, ge=0.25, le=4.0)
    seed: int = Field(0, ge=0, lt=2**31)


class RequestError(Exception):
    """An error response instead of sound."""

    def __init__(self, status: int, message: str, code: str, param: str | None = None) -> None:
        super().__init__(message)
        kind = "invalid_request_error" if status < 500 and status != 429 else "server_error"
        self.status = status
        self.body = {"error": {"message": message, "type": kind, "param": param, "code": code}}


async def _answer_error(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestError)
    headers = {"WWW-Authenticate": "Bearer"} if error.status == 401 else {}
    return JSONResponse(error.body, error.status, headers)


class SpeechServer:
    """One replica: the networks, and a voice prompt for each voice."""

    def __init__(self, config: ServeConfig, key_hash: str | None) -> None:
        from triforce.models.memory import reuse_freed_memory
        from triforce.models.release import Release

        reuse_freed_memory()
        self.config, self._key_hash = config, key_hash
        self.release = Release.load(config.release, device=config.device, vocoder=config.vocoder)
        self.voices = {DEFAULT_VOICE: None} | read_voices(config.voices, self.release.sample_rate_hz)
        self.speaker = lru_cache(maxsize=64)(self._speaker)
        self.speaker(DEFAULT_VOICE, 1.0)  # a release that cannot speak fails here
        self._waiting = 0
        self._turn = threading.Lock()

    def __serve_build_asgi_app__(self) -> FastAPI:
        """Ray Serve asks for the routes here, in the replica, where they can be bound to the networks."""
        app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
        app.add_exception_handler(RequestError, _answer_error)
        app.get("/")(self.page)
        app.get("/health")(self.health)
        app.get("/v1/models")(self.models)
        app.post("/v1/audio/speech")(self.speech)
        return app

    def _speaker(self, voice: str, speed: float) -> Speaker:
        config = self.config.speak.model_copy(update={"speed": speed})
        prompt = self.voices[voice]
        return Speaker(self.release, config, voices=[] if prompt is None else [prompt])

    async def page(self) -> Response:
        nonce = secrets.token_urlsafe(16)
        policy = f"default-src 'none'; style-src 'nonce-{nonce}'; script-src 'nonce-{nonce}'; connect-src 'self'; "
        policy += "media-src blob:; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
        text = PAGE.read_text(encoding="utf-8").replace("{{nonce}}", nonce)
        text = text.replace("{{rate}}", str(self.release.sample_rate_hz))
        return HTMLResponse(text, headers={"Content-Security-Policy": policy, "X-Content-Type-Options": "nosniff"})

    async def health(self) -> dict[str, str]:
        return {"status": "ok"}

    async def models(self, request: Request) -> dict[str, Any]:
        self._authorize(request)
        about = {"id": MODEL, "object": "model", "created": 0, "owned_by": "triforce", "voices": sorted(self.voices)}
        return {"object": "list", "data": [about]}

    async def speech(self, request: Request) -> Response:
        self._authorize(request)
        wanted = self._checked(await _body(request))
        if self._waiting >= self.config.max_waiting:
            raise RequestError(429, f"{self._waiting} requests are at work or waiting; try again later", "busy")
        self._waiting += 1
        sound = self._encoded(wanted)
        try:
            # What goes wrong with the text goes wrong before the first bytes, while the status can still say so.
            first = await run_in_threadpool(next, sound, b"")
        except ValueError as error:
            raise RequestError(400, str(error), "unreadable_input", "input") from error
        return StreamingResponse(chain([first], sound), media_type=FORMATS[wanted.response_format].media_type)

    def _authorize(self, request: Request) -> None:
        if self._key_hash is None:
            return
        scheme, _, key = request.headers.get("authorization", "").partition(" ")
        given = hashlib.sha256(key.strip().encode()).hexdigest()
        if scheme.lower() != "bearer" or not hmac.compare_digest(given, self._key_hash):
            raise RequestError(401, "wrong or missing key: send Authorization: Bearer <key>", "invalid_api_key")

    def _checked(self, body: bytes) -> SpeechRequest:
        try:
            wanted = SpeechRequest.model_validate_json(body)
        except ValidationError as error:
            fault = error.errors()[0]
            name = ".".join(map(str, fault["loc"])) or None
            raise RequestError(400, f"{name or 'body'}: {fault['msg']}", "invalid_value", name) from error
        if wanted.model not in ALIASES:
            raise RequestError(404, f"model {wanted.model!r}: this server has {MODEL!r}", "model_not_found", "model")
        if wanted.voice not in self.voices:
            known = ", ".join(sorted(self.voices))
            raise RequestError(400, f"voice {wanted.voice!r}: this server has {known}", "invalid_value", "voice")
        if len(wanted.input) > self.config.max_chars:
            raise RequestError(
                400, f"input of {len(wanted.input)} characters: {self.config.max_chars} at most", "too_long", "input"
            )
        return wanted

    def _encoded(self, wanted: SpeechRequest) -> Iterator[bytes]:
        try:
            rate = self.release.sample_rate_hz
            yield from encode_stream(self._pieces(wanted, rate), rate, wanted.response_format)
        finally:
            self._waiting -= 1

    def _pieces(self, wanted: SpeechRequest, sample_rate_hz: int) -> Iterator[np.ndarray]:
        """Yield the sound sentence by sentence; requests take turns, so that a long text delays no other for long."""
        utterances = self.speaker(wanted.voice, wanted.speed).read(wanted.input, seed=wanted.seed)
        while True:
            with self._turn:
                utterance = next(utterances, None)
            if utterance is None:
                return
            yield faded(utterance.waveform, sample_rate_hz)
            yield silence(PAUSE_S, sample_rate_hz)


async def _body(request: Request) -> bytes:
    """Read at most `MAX_BODY_BYTES`, whatever the header says."""
    body = b""
    async for part in request.stream():
        body += part
        if len(body) > MAX_BODY_BYTES:
            raise RequestError(413, f"a body over {MAX_BODY_BYTES} bytes", "too_long")
    return body


def is_loopback(host: str) -> bool:
    """Return whether only this machine reaches the address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def start(config: ServeConfig, key: str | None = None) -> str:
    """Start serving until `ray.serve.shutdown`; return the address.

    Raises ValueError where others could reach it without a key.
    """
    try:
        from ray import serve
    except ImportError as error:
        raise ImportError("serving needs Ray Serve: pip install 'triforce[serve]'") from error
    from triforce.ingest import storage
    from triforce.models.release_files import load_card, require_dvae
    from triforce.tokenize.ray_session import connect

    if not key and not is_loopback(config.host):
        raise ValueError(f"--host {config.host}: others can reach it; set {KEY_VARIABLE} to a key, or use 127.0.0.1")
    release = os.path.abspath(config.release) if storage.is_local(config.release) else config.release
    require_dvae(release)
    if load_card(release, "gpt") is None:
        raise FileNotFoundError(f"{release}: no gpt/config.json here; train one with `triforce train gpt`")
    voices = config.voices and os.path.abspath(config.voices)
    config = config.model_copy(update={"release": release, "voices": voices, "port": config.port or _free_port()})
    connect()
    serve.start(http_options={"host": config.host, "port": config.port})
    deployment = serve.deployment(
        name="speech", num_replicas=config.replicas, max_ongoing_requests=config.max_waiting + 16
    )(serve.ingress()(SpeechServer))
    serve.run(deployment.bind(config, key and hashlib.sha256(key.encode()).hexdigest()), name="triforce")
    return f"http://{config.host}:{config.port}"


def serve_forever(config: ServeConfig) -> None:
    """Serve until interrupted; the key comes from the environment, where no list of processes shows it."""
    address = start(config, os.environ.get(KEY_VARIABLE))
    guarded = "with the key" if os.environ.get(KEY_VARIABLE) else "without a key, to this machine alone"
    print(json.dumps({"address": address, "speech": f"{address}/v1/audio/speech"}), flush=True)
    logger.warning("open %s in a browser; served %s; Ctrl-C ends it", address, guarded)
    from ray import serve

    try:
        while True:
            time.sleep(3600)
    finally:
        serve.shutdown()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]

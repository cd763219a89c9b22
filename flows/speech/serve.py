"""One replica of ``triforce serve``: OpenAI's speech endpoint over a release, and a page to type and listen.

An engine's thread draws and renders what all clients ask for, and the handlers wait for samples, encode them and send
them on. `serving/start.py` starts replicas, `serving/places.py` and `serving/stalls.py` say who waits and for how long.
"""

from __future__ import annotations

import asyncio
import logging
import queue
import secrets
from collections.abc import AsyncGenerator, AsyncIterator
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
from fastapi import FastAPI, Request
from pydantic import BaseModel, ConfigDict, Field
from starlette.background import BackgroundTask
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect
from starlette.responses import HTMLResponse, Response, StreamingResponse

from triforce.flows.speech.access import is_key
from triforce.flows.speech.characters import named, spoken
from triforce.flows.speech.engine import ENDED, SpeechEngine
from triforce.flows.speech.sentences import split_spoken
from triforce.flows.speech.serving.places import Client, Place, Places
from triforce.flows.speech.speaker import ROWS, SpeakConfig, Speaker
from triforce.flows.speech.speech_api import (
    ALIASES,
    DEFAULT_VOICE,
    WARNING,
    RequestError,
    SpeechRequest,
    answer_error,
    done_event,
    model_entry,
    parse_request,
    part_event,
    require_model,
    warning_header,
)
from triforce.flows.speech.voices import read_voices
from triforce.ingest.media.encode import FORMATS, StreamEncoder
from triforce.models.decoding.precision import Compiled, Precision
from triforce.models.voice.bundled import VOICE

logger = logging.getLogger(__name__)

BYTES_PER_CHARACTER = 12
"""Bytes of a character in JSON at most: two escapes, as in ``\\ud83d\\ude00``."""
OTHER_BYTES = 64 * 1024
"""Bytes of a body at most beside its input."""
WARM_VOICES = 16
"""Voices that speak once before the server answers: to measure how loud a voice is takes as long as three sentences,
while everybody waits. Those beyond are measured when they are first asked for. Assumed."""
VOICE_CHARS = 80
"""Characters of an unknown voice's name that a warning repeats. Assumed."""
LOOPBACK_ORIGINS = r"https?://(localhost|127\.0\.0\.1|\[::1\])(:\d+)?"
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
    precision: Precision = Field("auto", description="Of the GPT's weights on a CPU; auto: what is fastest there.")
    compiled: Compiled = Field(
        "auto", description="Whether drawing in int8 is compiled on a CPU; auto: where there is a C compiler."
    )
    voices: str | None = Field(None, description="Folder of recordings; a file's name without its ending is a voice.")
    max_chars: int = Field(
        4096, ge=1, le=100_000, description="Characters of an input at most; OpenAI's limit by default."
    )
    max_waiting: int = Field(
        16, ge=1, le=10_000, description="Requests that a replica works on or keeps waiting; others get status 429."
    )
    max_stall_s: float = Field(
        120.0,
        ge=0.1,
        le=86_400,
        description="Seconds for which a client may take nothing of its sound, then its connection is closed and its "
        "place free; one that reads slowly stays. Where one replica is served.",
    )
    rows: int = Field(ROWS, ge=1, le=256, description="Sentences that a replica draws side by side.")
    speak: SpeakConfig = SpeakConfig()


class SpeechServer:
    """One replica: the networks, and a voice prompt for each voice."""

    def __init__(self, config: ServeConfig, key_hash: str | None) -> None:
        from triforce.models.memory import reuse_freed_memory
        from triforce.models.release import Release

        reuse_freed_memory()
        self.config, self._key_hash = config, key_hash
        self.release = Release.load(
            config.release,
            device=config.device,
            vocoder=config.vocoder,
            precision=config.precision,
            compiled=config.compiled,
        )
        self.voices = {DEFAULT_VOICE: None} | read_voices(config.voices, self.release.sample_rate_hz)
        self.speaker = lru_cache(maxsize=64)(self._speaker)
        self.places = Places(config.max_waiting)
        self.engine = self._warm_engine()

    def __serve_build_asgi_app__(self) -> FastAPI:
        """Ray Serve asks for the routes here, in the replica, where they can be bound to the networks."""
        app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
        for kind in (RequestError, HTTPException, Exception):
            app.add_exception_handler(kind, answer_error)
        # Without a key any page that somebody opens could make this machine work: only those of this machine may.
        app.add_middleware(
            CORSMiddleware,
            allow_origins=["*"] if self._key_hash else [],
            allow_origin_regex=None if self._key_hash else LOOPBACK_ORIGINS,
            allow_methods=["GET", "POST"],
            allow_headers=["*"],
            expose_headers=[WARNING],
        )
        app.get("/")(self.page)
        app.get("/health")(self.health)
        app.get("/v1/models")(self.models)
        app.get("/v1/models/{name:path}")(self.model)
        app.get("/v1/audio/models")(self.audio_models)
        app.get("/v1/audio/voices")(self.audio_voices)
        app.post("/v1/audio/speech")(self.speech)
        return app

    def _warm_engine(self) -> SpeechEngine:
        """Start the engine, and let the voices speak once, so that all is there that a first request needs.

        A release that cannot speak fails here, and so does a voice that it cannot speak in.
        """
        pooled = self.release.reads and not self.config.speak.listens
        engine = SpeechEngine(self.release, num_rows=self.config.rows, pooled=pooled)
        engine.start()
        try:
            for voice in list(self.voices)[: WARM_VOICES if pooled else 1]:
                self._speak_once(engine, voice)
        except BaseException:
            engine.stop()
            raise
        return engine

    def _speak_once(self, engine: SpeechEngine, voice: str) -> None:
        speaker = self.speaker(voice, 1.0)
        for part in split_spoken("One.", speaker.language):  # loads what reads texts
            spoken(part, self.release.characters, speaker.language)
        heard: queue.SimpleQueue[Any] = queue.SimpleQueue()
        engine.submit(speaker, voice, ["One."], 0, heard.put)
        while (part := heard.get()) is not None:
            if isinstance(part, Exception):
                raise part

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
        text = text.replace("{{max_chars}}", str(self.config.max_chars))
        return HTMLResponse(text, headers={"Content-Security-Policy": policy, "X-Content-Type-Options": "nosniff"})

    async def health(self) -> dict[str, str]:
        if not self.engine.runs:
            raise RequestError(503, ENDED, "engine_ended")
        return {"status": "ok"}

    async def models(self, request: Request) -> dict[str, Any]:
        self._authorize(request)
        entries = [model_entry(name) for name in ALIASES]
        return {"object": "list", "data": [entries[0] | {"voices": sorted(self.voices)}, *entries[1:]]}

    async def model(self, request: Request, name: str) -> dict[str, Any]:
        self._authorize(request)
        require_model(name)
        return model_entry(name)

    async def audio_models(self, request: Request) -> dict[str, Any]:
        """The list that Open WebUI asks for."""
        self._authorize(request)
        return {"models": [model_entry(name) for name in ALIASES]}

    async def audio_voices(self, request: Request) -> dict[str, Any]:
        """The list that Open WebUI and Home Assistant ask for."""
        self._authorize(request)
        return {"voices": [{"id": name, "name": name} for name in sorted(self.voices)]}

    async def speech(self, request: Request) -> Response:
        self._authorize(request)
        wanted = parse_request(await self._body(request))
        place, sound = self._take_place(request, wanted), None
        try:
            # What goes wrong with the text goes wrong before the first bytes, while the status can still say so.
            wanted, warnings = await run_in_threadpool(self._checked, wanted)
            sound = self._encoded(wanted, place)
            first = await self._first(sound, request)
        except BaseException as error:
            if sound is not None:
                await sound.aclose()
            self.places.give_back(place)
            if isinstance(error, ValueError):
                raise RequestError(400, str(error), "unreadable_input", "input") from error
            raise
        headers = warning_header(warnings)
        media_type = FORMATS[wanted.response_format].media_type
        body = _chained(first, sound)
        if wanted.stream_format == "sse":
            body, media_type = self._events(body, wanted), "text/event-stream"
        return StreamingResponse(body, 200, headers, media_type, BackgroundTask(_closed, body, sound))

    def _take_place(self, request: Request, wanted: SpeechRequest) -> Place:
        """Return a place before any work is done; raises RequestError where there is none."""
        about = f"a text of {len(wanted.input)} characters as {wanted.response_format}"
        place = self.places.take(request.client, len(wanted.input), about)
        if place is None:
            wait_s = self.places.retry_after_s()
            raise RequestError(
                429,
                f"{len(self.places)} texts are being spoken or wait, as many as this server takes at once "
                f"(max_waiting): a place should be free in {wait_s} s",
                "busy",
                retry_after_s=wait_s,
            )
        return place

    def stalled(self, client: Client) -> None:
        """Say that a client's connection is closed because it takes nothing."""
        place = self.places.of(client)
        what = "a connection" if place is None else f"{place.about}, begun {self.places.age_s(place):.0f} s ago"
        logger.warning(
            "%s, of the client at %s port %d, is ended: it took nothing for %g s (max_stall_s)",
            *(what, *client, self.config.max_stall_s),
        )

    async def _first(self, sound: AsyncGenerator[bytes], request: Request) -> bytes:
        """Wait for the first bytes, as long as the client does."""
        ready, gone = asyncio.ensure_future(_next(sound)), asyncio.ensure_future(_disconnected(request))
        try:
            await asyncio.wait([ready, gone], return_when=asyncio.FIRST_COMPLETED)
            if ready.done():
                return ready.result()
            raise RequestError(499, "the client has gone", "client_gone")
        finally:
            gone.cancel()
            if ready.cancel():
                await asyncio.wait([ready])

    async def _events(self, sound: AsyncIterator[bytes], wanted: SpeechRequest) -> AsyncGenerator[bytes]:
        """The sound as events; of what OpenAI counts in tokens, the pieces of the text are known."""
        async for data in sound:
            yield part_event(data)
        pieces = len(self.release.tokenizer.encode(wanted.input))
        yield done_event({"input_tokens": pieces, "output_tokens": 0})

    def _authorize(self, request: Request) -> None:
        """Refuse a wrong key; where no key is set any is welcome, as many clients cannot send none."""
        if self._key_hash is None:
            return
        scheme, _, key = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not is_key(key.strip(), self._key_hash):
            raise RequestError(401, "wrong or missing key: send Authorization: Bearer <key>", "invalid_api_key")

    def _checked(self, wanted: SpeechRequest) -> tuple[SpeechRequest, list[str]]:
        """Return a request with a voice that is here and a text that can be read, and what is not done as asked for."""
        if len(wanted.input) > self.config.max_chars:
            raise RequestError(
                400, f"input of {len(wanted.input)} characters: {self.config.max_chars} at most", "too_long", "input"
            )
        warnings = []
        if wanted.voice not in self.voices:
            known = ", ".join(sorted(self.voices))
            name = wanted.voice[:VOICE_CHARS]
            warnings.append(f"voice {name!r} is not here, {DEFAULT_VOICE!r} speaks: this server has {known}")
            wanted = wanted.model_copy(update={"voice": DEFAULT_VOICE})
        if wanted.instructions:
            warnings.append("instructions are not followed")
        if warnings:
            logger.warning("%s", "; ".join(warnings))
        try:
            found = self.speaker(wanted.voice, wanted.speed).prepare(wanted.input)
        except ValueError as error:
            raise RequestError(400, str(error), "unreadable_input", "input") from error
        if found.skipped:
            warnings.append(f"skipped {named(found.skipped)}, which the network never read")
        return wanted, warnings

    async def _body(self, request: Request) -> bytes:
        """Read no more than an input of ``max_chars`` needs, whatever the header says."""
        most = OTHER_BYTES + BYTES_PER_CHARACTER * self.config.max_chars
        body = b""
        try:
            async for part in request.stream():
                body += part
                if len(body) > most:
                    raise RequestError(413, f"a body over {most} bytes", "too_long")
        except ClientDisconnect as error:
            raise RequestError(499, "the client has gone", "client_gone") from error
        return body

    async def _encoded(self, wanted: SpeechRequest, place: Place) -> AsyncGenerator[bytes]:
        """Yield the bytes of the sound as it is made; a client that goes frees what its text had."""
        encoder = StreamEncoder(self.release.sample_rate_hz, wanted.response_format)
        made: asyncio.Queue[np.ndarray | Exception | None] = asyncio.Queue()
        job = None
        try:
            speaker = self.speaker(wanted.voice, wanted.speed)
            sentences = await run_in_threadpool(speaker.sentences, wanted.input)
            send = partial(asyncio.get_running_loop().call_soon_threadsafe, made.put_nowait)
            job = self.engine.submit(speaker, wanted.voice, sentences, wanted.seed, send)
            while (part := await made.get()) is not None:
                if isinstance(part, Exception):
                    raise part
                self.engine.took(job, len(part))
                if data := encoder.push(part):
                    yield data
            yield encoder.close()
            self.places.give_back(place, done=True)
        finally:
            self.places.give_back(place)
            if job is not None:
                self.engine.cancel(job)
            encoder.close()


async def _next(sound: AsyncGenerator[bytes]) -> bytes:
    return await anext(sound, b"")


async def _disconnected(request: Request) -> None:
    """Return when the client has gone; its body was read."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def _chained(first: bytes, rest: AsyncIterator[bytes]) -> AsyncGenerator[bytes]:
    yield first
    async for data in rest:
        yield data


async def _closed(*generators: AsyncGenerator[bytes]) -> None:
    """Close generators, the outer one first: what was not sent is not made."""
    for generator in generators:
        await generator.aclose()

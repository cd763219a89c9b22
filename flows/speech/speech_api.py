"""What clients of OpenAI's speech endpoint send and expect: requests, lists, events, errors.

Written for the original, they work unchanged here: null is a field left out, OpenAI's models all mean the release, a
voice that is not here is the default one. What is done otherwise than asked for stands in the header `WARNING`.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse

MODEL = "triforce"
ALIASES = (MODEL, "tts-1", "tts-1-hd", "gpt-4o-mini-tts")
"""Model names that clients offer to choose from; these and any other with ``tts`` in it mean the one release."""
DEFAULT_VOICE = "default"
WARNING = "x-triforce-warning"
"""Header that says what was done otherwise than asked for."""
MAX_WARNING_CHARS = 1000


class SpeechRequest(BaseModel):
    """The body of ``/v1/audio/speech``; OpenAI's fields that do not apply here are ignored."""

    model_config = ConfigDict(extra="ignore")

    model: str = MODEL
    input: str = Field(min_length=1)
    voice: str = DEFAULT_VOICE
    response_format: Literal["mp3", "opus", "aac", "flac", "wav", "pcm"] = "mp3"
    stream_format: Literal["audio", "sse"] = "audio"
    speed: float = Field(1.0, ge=0.25, le=4.0)
    instructions: str = ""
    seed: int = Field(0, ge=0, lt=2**31)

    @model_validator(mode="before")
    @classmethod
    def _without_nulls(cls, fields: Any) -> Any:
        return {k: v for k, v in fields.items() if v is not None} if isinstance(fields, dict) else fields

    @field_validator("voice", mode="before")
    @classmethod
    def _name_of_voice(cls, voice: Any) -> Any:
        """A voice of one's own is ``{"id": name}``."""
        return voice.get("id", DEFAULT_VOICE) if isinstance(voice, dict) else voice


class RequestError(Exception):
    """An error response instead of sound."""

    def __init__(
        self, status: int, message: str, code: str, param: str | None = None, retry_after_s: int | None = None
    ) -> None:
        super().__init__(message)
        kind = "invalid_request_error" if status < 500 and status != 429 else "server_error"
        self.status, self.retry_after_s = status, retry_after_s
        self.body = {"error": {"message": message, "type": kind, "param": param, "code": code}}


def parse_request(body: bytes) -> SpeechRequest:
    """Read the body of a request; raises RequestError for one that says no speech or another model."""
    try:
        wanted = SpeechRequest.model_validate_json(body)
    except ValidationError as error:
        fault = error.errors()[0]
        name = ".".join(map(str, fault["loc"])) or None
        raise RequestError(400, f"{name or 'body'}: {fault['msg']}", "invalid_value", name) from error
    require_model(wanted.model)
    return wanted


def require_model(name: str) -> None:
    """Raise RequestError for a model that does not speak; LiteLLM and others write ``openai/tts-1``."""
    if name not in ALIASES and "tts" not in name.rpartition("/")[2].lower():
        raise RequestError(404, f"model {name!r}: this server has {MODEL!r}", "model_not_found", "model")


def model_entry(name: str) -> dict[str, Any]:
    """Return a model as ``/v1/models`` lists it."""
    return {"id": name, "name": name, "object": "model", "created": 0, "owned_by": MODEL}


def part_event(sound: bytes) -> bytes:
    """Return a server-sent event with bytes of the sound, as ``stream_format: sse`` asks for."""
    return _event({"type": "speech.audio.delta", "audio": base64.b64encode(sound).decode("ascii")})


def done_event(usage: dict[str, int]) -> bytes:
    """Return the event behind the last one with sound."""
    return _event({"type": "speech.audio.done", "usage": usage | {"total_tokens": sum(usage.values())}})


def _event(fields: dict[str, Any]) -> bytes:
    return f"data: {json.dumps(fields)}\n\n".encode("ascii")


def warning_header(warnings: Iterable[str]) -> dict[str, str]:
    """Return the header for warnings, none for none; what is not ASCII is escaped."""
    text = "; ".join(warnings).encode("ascii", "backslashreplace").decode("ascii")
    text = "".join(c if c.isprintable() else " " for c in text)
    return {WARNING: text[:MAX_WARNING_CHARS]} if text else {}


async def answer_error(_: Request, error: Exception) -> JSONResponse:
    """Answer an error as OpenAI does; one that nobody foresaw says no more than that."""
    if isinstance(error, HTTPException):  # no such path, no such method
        error = RequestError(error.status_code, str(error.detail), str(error.detail).lower().replace(" ", "_"))
    elif not isinstance(error, RequestError):
        error = RequestError(500, "the server failed; its log says where", "internal_error")
    headers = {"WWW-Authenticate": "Bearer"} if error.status == 401 else {}
    if error.retry_after_s is not None:
        headers["Retry-After"] = str(error.retry_after_s)
    return JSONResponse(error.body, error.status, headers)

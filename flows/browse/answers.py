"""HTTP around the browse server: endpoints of plain methods, errors as a page shows them, parts of sound."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from triforce.flows.browse.clip_view import GoneError
from triforce.flows.browse.guard import error

MAX_BODY_BYTES = 64 * 1024
"""Bytes of a request at most: a query with all its filters has some thousands."""


def file_endpoint(name: str, media_type: str) -> Callable[[Request], Any]:
    """Return an endpoint that sends a file of this folder."""
    data = Path(__file__).with_name(name)

    async def send(request: Request) -> Response:
        return Response(data.read_bytes(), media_type=media_type)

    return send


def endpoint(method: Callable[..., Any], body: type[BaseModel] | None = None) -> Callable[[Request], Any]:
    """Return an endpoint that reads its body, calls a method in a thread, and turns what is wrong into an error."""

    async def answer(request: Request) -> Response:
        try:
            given = [] if body is None else [body.model_validate_json(await _body(request))]
            found = await run_in_threadpool(method, request, *given)
        except ValidationError as fault:
            lines = [f"{'.'.join(map(str, one['loc'])) or 'body'}: {one['msg']}" for one in fault.errors()]
            return error(400, "; ".join(lines))
        except ValueError as fault:
            return error(400, str(fault))
        except (GoneError, FileNotFoundError):
            return error(409, "the corpus has changed since it was read; reload the page")
        return found if isinstance(found, Response) else JSONResponse(_plain(found))

    return answer


async def _body(request: Request) -> bytes:
    """Read no more than any request of the page needs, whatever the header says."""
    body = b""
    async for part in request.stream():
        body += part
        if len(body) > MAX_BODY_BYTES:
            raise HTTPException(413, f"a body over {MAX_BODY_BYTES} bytes")
    return body


def _plain(value: Any) -> Any:
    """What JSON holds: NaN and infinity become null, unknown objects text."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {key: _plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    return value if isinstance(value, str | int | float | bool | None) else str(value)


async def http_error(request: Request, fault: Exception) -> Response:
    """Answer what Starlette, or an endpoint, refuses."""
    assert isinstance(fault, HTTPException)
    return error(fault.status_code, fault.detail)


async def unforeseen(request: Request, fault: Exception) -> Response:
    """Answer an error that nobody foresaw, and say no more than that."""
    return error(500, "the server failed; its log says where")


def ranged(request: Request, data: bytes, media_type: str) -> Response:
    """Return the bytes that a request asks for: all, or one range of them; 416 for a range that is not there."""
    headers = {"Accept-Ranges": "bytes"}
    wanted = re.fullmatch(r"bytes=(\d{0,18})-(\d{0,18})", request.headers.get("range", "").strip())
    if wanted is None or wanted.groups() == ("", ""):  # none, several, or another unit: the whole is a valid answer
        return Response(data, 200, headers, media_type)
    first, last = wanted.groups()
    start = int(first) if first else max(0, len(data) - int(last))
    stop = min(len(data), int(last) + 1) if first and last else len(data)
    if start >= stop:
        return Response(b"", 416, headers | {"Content-Range": f"bytes */{len(data)}"})
    headers["Content-Range"] = f"bytes {start}-{stop - 1}/{len(data)}"
    return Response(data[start:stop], 206, headers, media_type)

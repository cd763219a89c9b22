"""Who may use the browse server: this machine's own page, or whoever has the key.

A page of any site can make a browser send requests to a loopback address, and a host name can be pointed there after it
was opened (DNS rebinding). So without a key the request's Host has to be a name of this machine, and a request that
another page makes is refused in any case.
"""

from __future__ import annotations

import secrets
from urllib.parse import urlsplit

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from triforce.flows.speech.access import hash_key, is_key, is_loopback

COOKIE = "triforce_browse"
OPEN_PATHS = frozenset({"/", "/page.js", "/page.css", "/api/login"})
"""What tells nothing of the corpus, and asks for the key."""
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; "
    "media-src 'self'; img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}
"""Sent with every answer."""


class Guard:
    """ASGI middleware that refuses whoever may not ask."""

    def __init__(self, app: ASGIApp, key: str | None = None) -> None:
        self.app = app
        self._key_hash = hash_key(key) if key else None
        self._session = secrets.token_urlsafe(32)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        request = Request(scope, receive)

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [
                    *message["headers"],
                    *((name.lower().encode(), value.encode()) for name, value in HEADERS.items()),
                ]
            await send(message)

        answer = self._refusal(request)
        if answer is None and request.url.path == "/api/login":
            answer = self._login(await request.body() if _is_short(request) else b"")
        await (answer or self.app)(scope, receive, send_guarded)

    def _refusal(self, request: Request) -> Response | None:
        host = request.headers.get("host", "")
        if self._key_hash is None and not is_loopback(_name_of(host)):
            return error(403, f"host {host!r} is no name of this machine: open it as http://127.0.0.1 or localhost")
        origin = request.headers.get("origin")
        if origin is not None and urlsplit(origin).netloc != host:
            return error(403, f"a page of {origin} may not ask this server")
        if request.headers.get("sec-fetch-site") in ("cross-site", "same-site") and request.url.path != "/":
            return error(403, "a page of another site may not ask this server")
        if self._key_hash is None or request.url.path in OPEN_PATHS or self._has_key(request):
            return None
        return error(401, "wrong or missing key: send Authorization: Bearer <key>, or open the page and give it there")

    def _has_key(self, request: Request) -> bool:
        assert self._key_hash is not None
        if secrets.compare_digest(request.cookies.get(COOKIE, "").encode(), self._session.encode()):
            return True
        scheme, _, key = request.headers.get("authorization", "").partition(" ")
        return scheme.lower() == "bearer" and is_key(key.strip(), self._key_hash)

    def _login(self, key: bytes) -> Response:
        """A right key gets a cookie: what plays sound cannot send a header."""
        if self._key_hash is not None and not is_key(key.decode("utf-8", "replace").strip(), self._key_hash):
            return error(401, "wrong key: give the one that TRIFORCE_API_KEY holds")
        answer = JSONResponse({})
        answer.set_cookie(COOKIE, self._session, httponly=True, samesite="strict")
        return answer


def error(status: int, message: str) -> JSONResponse:
    """Return an error as the page shows it."""
    return JSONResponse({"error": message}, status)


def _is_short(request: Request) -> bool:
    size = request.headers.get("content-length", "")
    return size.isdigit() and int(size) <= 4096


def _name_of(host: str) -> str:
    """The host of a Host header, without its port and without brackets."""
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""

"""Connections whose clients take nothing are closed; those that take a little now and then are not.

While more is to be sent than the connection's buffer holds, it is looked at how much the client has not taken yet: what
waits in this process and, where the kernel tells (Linux), what the client's machine has not acknowledged. A client
that reads makes room, so that this shrinks.
"""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Callable
from typing import cast

from triforce.flows.speech.serving.places import Client

LOOKS = 20
"""Looks at a connection within the limit. Assumed."""


def untaken_bytes(transport: asyncio.Transport) -> int:
    """Return how many bytes the other end has not taken yet."""
    size = transport.get_write_buffer_size()
    try:
        import fcntl
        import termios

        found = fcntl.ioctl(transport.get_extra_info("socket").fileno(), termios.TIOCOUTQ, struct.pack("i", 0))
    except (ImportError, OSError):  # another system: what waits in this process is all that is known
        return size
    return size + struct.unpack("i", found)[0]


class StallWatch(asyncio.Protocol):
    """In front of a protocol of a server's connections: closes one whose client takes nothing for too long."""

    limit_s: float
    on_stall: Callable[[Client], None]
    """Is told whose connection is closed."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.watched = cast(asyncio.Transport, transport)  # uvloop's have the methods, not the class
        self.next_look: asyncio.TimerHandle | None = None
        super().connection_made(transport)

    def pause_writing(self) -> None:
        super().pause_writing()
        self.least, self.since_s = untaken_bytes(self.watched), asyncio.get_running_loop().time()
        self._wait()

    def resume_writing(self) -> None:
        self._rest()
        super().resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        self._rest()
        super().connection_lost(exc)

    def _wait(self) -> None:
        self._rest()
        self.next_look = asyncio.get_running_loop().call_later(self.limit_s / LOOKS, self._look)

    def _rest(self) -> None:
        if self.next_look is not None:
            self.next_look.cancel()
            self.next_look = None

    def _look(self) -> None:
        left, now_s = untaken_bytes(self.watched), asyncio.get_running_loop().time()
        if left < self.least:
            self.least, self.since_s = left, now_s
        if now_s - self.since_s < self.limit_s:
            return self._wait()
        host, port = self.watched.get_extra_info("peername")[:2]
        type(self).on_stall((host, port))
        self.watched.abort()


def stall_limit(limit_s: float, on_stall: Callable[[Client], None]) -> type[asyncio.Protocol]:
    """Return uvicorn's protocol of a connection, with a limit in seconds."""
    from uvicorn.protocols.http.auto import AutoHTTPProtocol

    return type("LimitedProtocol", (StallWatch, AutoHTTPProtocol), {"limit_s": limit_s, "on_stall": on_stall})

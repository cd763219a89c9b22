"""What failures of HTTP mean: a row a status, and a row a class of exception. Our own client and yt-dlp share them."""

from __future__ import annotations

import http.client
import ssl
from typing import NamedTuple

import httpx

from triforce.ingest.corpus.records import RejectReason
from triforce.ingest.errors import Row


class StatusRow(NamedTuple):
    """What the statuses of a range mean."""

    statuses: range
    reason: RejectReason
    meaning: str


STATUSES = (
    StatusRow(range(202, 203), RejectReason.NETWORK, "accepted: the file is being made"),
    StatusRow(range(401, 404), RejectReason.FORBIDDEN, "a login, a payment, or not for us"),
    StatusRow(range(404, 405), RejectReason.NOT_FOUND, "not there"),
    StatusRow(range(407, 408), RejectReason.NETWORK, "the proxy wants a login"),
    StatusRow(range(408, 409), RejectReason.NETWORK, "the server waited too long for us"),
    StatusRow(range(410, 411), RejectReason.NOT_FOUND, "gone for good"),
    StatusRow(range(416, 417), RejectReason.WRONG_LENGTH, "the file is shorter than what was asked for"),
    StatusRow(range(423, 426), RejectReason.NETWORK, "locked, or too early"),
    StatusRow(range(429, 430), RejectReason.BLOCKED, "too many requests"),
    StatusRow(range(451, 452), RejectReason.FORBIDDEN, "for legal reasons"),
    StatusRow(range(500, 600), RejectReason.NETWORK, "the server, or one in front of it, is in trouble"),
)
"""Statuses that are no answer. One without a row, as 400 or 418, is UNKNOWN: servers in trouble send it."""

READABLE = frozenset({200, 203, 206})
"""Statuses whose body is what was asked for; 203 is what a proxy has changed on the way."""

EXCEPTIONS = (
    Row(httpx.TimeoutException, RejectReason.TOO_SLOW, "nothing came in time"),
    Row(httpx.InvalidURL, RejectReason.BAD_REDIRECT, "no address"),
    Row(httpx.UnsupportedProtocol, RejectReason.BAD_REDIRECT, "neither http nor https"),
    Row(httpx.LocalProtocolError, RejectReason.BAD_REDIRECT, "an address with signs that no request may hold"),
    Row(UnicodeError, RejectReason.BAD_REDIRECT, "a host name that cannot be encoded"),
    Row(httpx.TransportError, RejectReason.NETWORK, "no connection, or it broke"),
    Row(TimeoutError, RejectReason.TOO_SLOW, "nothing came in time"),
    Row(ssl.SSLError, RejectReason.NETWORK, "a certificate that is not valid, for now"),
    Row(http.client.HTTPException, RejectReason.NETWORK, "an answer that is not HTTP"),
    Row(ConnectionError, RejectReason.NETWORK, "the connection broke"),
)


def reason_of_status(status: int) -> RejectReason:
    """Return what an HTTP status means, UNKNOWN where no row knows it."""
    return next((row.reason for row in STATUSES if status in row.statuses), RejectReason.UNKNOWN)

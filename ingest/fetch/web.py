"""HTTP requests: checked redirects, named failures, limits on time and size."""

from __future__ import annotations

import contextlib
import time
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

import httpx

from triforce.ingest.config import Settings
from triforce.ingest.corpus.records import RejectReason
from triforce.ingest.errors import Rejected
from triforce.ingest.fetch import addresses
from triforce.ingest.fetch.connections import BLOCK_BYTES, client_of, host_of
from triforce.ingest.fetch.retries import Retry, retry_after_s, with_retries

RETRY_STATUSES = {408, 425, 429, 500, 502, 503, 504, 520, 521, 522, 523, 524}
"""Statuses after which a request is tried again; content networks answer 520 to 524 for a lame origin."""


@contextlib.contextmanager
def open_stream(url: str, settings: Settings, headers: dict[str, str] | None = None) -> Iterator[httpx.Response]:
    """GET ``url``, following redirects one checked hop at a time; yield the response with its body unread.

    Raises `Retry` for what may pass and `Rejected` for what will not. Responses 304 and 416 are yielded, as the caller
    asked for them.
    """
    seen: list[str] = []
    with contextlib.ExitStack() as stack:
        while True:
            addresses.check_url(url)
            if url in seen or len(seen) > settings.max_redirects:
                raise Rejected(
                    RejectReason.BAD_REDIRECT, f"{seen[0]} leads to {len(seen)} redirects; the last is {url}"
                )
            seen.append(url)
            response = _send(url, settings, headers, stack)
            if response.status_code not in (301, 302, 303, 307, 308):
                break
            location = response.headers.get("location")
            stack.close()
            if not location:
                raise Rejected(
                    RejectReason.BAD_REDIRECT, f"{url} answers {response.status_code} without saying where to"
                )
            url = addresses.absolute(url, location)
        _check_status(response, url, settings)
        with _named_failures(url):
            yield response


def _send(url: str, settings: Settings, headers: dict[str, str] | None, stack: contextlib.ExitStack) -> httpx.Response:
    host = host_of(url, settings)
    stack.enter_context(host.slots)
    host.wait_for_turn()
    with _named_failures(url):
        return stack.enter_context(client_of(settings).stream("GET", url, headers=headers))


@contextlib.contextmanager
def _named_failures(url: str) -> Iterator[None]:
    try:
        yield
    except httpx.TimeoutException as error:
        raise Retry(RejectReason.TOO_SLOW, f"{url}: nothing came in time ({type(error).__name__})") from error
    except httpx.ConnectError as error:
        if "CERTIFICATE" in str(error).upper():
            raise Rejected(RejectReason.FORBIDDEN, f"{url}: its certificate is not valid: {error}") from error
        raise Retry(RejectReason.NETWORK, f"{url}: {error}") from error
    except (httpx.InvalidURL, httpx.UnsupportedProtocol, httpx.LocalProtocolError, UnicodeError) as error:
        raise Rejected(RejectReason.BAD_REDIRECT, f"{url[:200]!r}: {error}") from error
    except httpx.TransportError as error:
        if "location header" in str(error):
            raise Rejected(RejectReason.BAD_REDIRECT, f"{url}: {error}") from error
        raise Retry(RejectReason.NETWORK, f"{url}: {type(error).__name__}: {error}") from error


def _check_status(response: httpx.Response, url: str, settings: Settings) -> None:
    status = response.status_code
    if status in (200, 206, 304, 416):
        return
    detail = f"{url}: the server answers {status} {response.reason_phrase}"
    if status in RETRY_STATUSES:
        wait_s = retry_after_s(response.headers.get("retry-after"))
        reason = RejectReason.BLOCKED if status == 429 else RejectReason.NETWORK
        if wait_s is not None and wait_s > settings.max_retry_after_s:
            raise Rejected(RejectReason.BLOCKED, f"{detail} and asks for {wait_s:.0f} s of patience")
        raise Retry(reason, detail, wait_s)
    if status in (401, 402, 403, 407, 451):
        raise Rejected(RejectReason.FORBIDDEN, detail)
    raise Rejected(RejectReason.NOT_FOUND, detail)


def decoded_blocks(response: httpx.Response, limit: int) -> Iterator[bytes]:
    """Yield the body in blocks, unpacked if it came packed.

    `Rejected` past ``limit`` bytes, however few were received packed.
    """
    encoding = response.headers.get("content-encoding", "").strip().lower() or "identity"
    if encoding not in ("identity", "gzip", "x-gzip", "deflate"):
        raise Rejected(RejectReason.BAD_METADATA, f"{response.url}: content encoding {encoding!r} was not asked for")
    blocks = response.iter_raw()
    if encoding != "identity":
        blocks = _unpacked(blocks, str(response.url))
    total = 0
    for block in blocks:
        total += len(block)
        if total > limit:
            raise Rejected(RejectReason.TOO_LARGE, f"{response.url}: more than {limit} bytes")
        yield block


def _unpacked(blocks: Iterator[bytes], url: str) -> Iterator[bytes]:
    """Unpack gzip or zlib, told apart by their headers, with at most a block in memory."""
    unpack = zlib.decompressobj(wbits=47)
    try:
        for packed in blocks:
            while packed:
                yield unpack.decompress(packed, BLOCK_BYTES)
                packed = unpack.unconsumed_tail
        yield unpack.flush()
    except zlib.error as error:
        raise Retry(RejectReason.NETWORK, f"{url}: the packed body is broken: {error}") from error
    if not unpack.eof:
        raise Retry(RejectReason.WRONG_LENGTH, f"{url}: the packed body ends early")


@dataclass(frozen=True)
class Document:
    """A small text fetched whole, with the validators that make the next request for it conditional.

    ``body`` is None for "not modified".
    """

    url: str
    body: bytes | None
    etag: str | None = None
    last_modified: str | None = None


def get_document(
    url: str, settings: Settings, *, etag: str | None = None, last_modified: str | None = None
) -> Document:
    """Fetch a feed or a catalogue page, conditionally if validators are given; `Rejected` when it cannot be had."""
    headers = {"Accept-Encoding": "gzip, deflate"}
    headers |= {"If-None-Match": etag} if etag else {}
    headers |= {"If-Modified-Since": last_modified} if last_modified else {}

    def attempt() -> Document:
        with open_stream(url, settings, headers) as response:
            if response.status_code == 304:
                return Document(url, None, etag, last_modified)
            pace = Pace(url, settings)
            blocks = []
            for block in decoded_blocks(response, settings.max_document_bytes):
                pace.count(len(block))
                blocks.append(block)
            return Document(
                str(response.url), b"".join(blocks), response.headers.get("etag"), response.headers.get("last-modified")
            )

    return with_retries(attempt, settings)


class Pace:
    """Watch over a transfer: one that stays below the least rate for a whole window raises `Rejected`."""

    def __init__(self, url: str, settings: Settings):
        self._url, self._settings = url, settings
        self._begin_s, self._num_bytes = time.monotonic(), 0

    def count(self, num_bytes: int) -> None:
        """Count bytes that were received."""
        self._num_bytes += num_bytes
        elapsed_s = time.monotonic() - self._begin_s
        if elapsed_s < self._settings.slow_window_s:
            return
        if self._num_bytes < self._settings.min_bytes_per_s * elapsed_s:
            rate = self._num_bytes / elapsed_s
            least = self._settings.min_bytes_per_s
            raise Rejected(RejectReason.TOO_SLOW, f"{self._url}: {rate:.0f} bytes a second, the least is {least:.0f}")
        self._begin_s, self._num_bytes = time.monotonic(), 0

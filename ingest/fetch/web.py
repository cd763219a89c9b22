"""HTTP as a guest behaves: checked addresses and redirects, limits on everything, one pace a host, patience."""

from __future__ import annotations

import contextlib
import email.utils
import functools
import os
import random
import ssl
import threading
import time
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from urllib.parse import urlsplit

import httpcore
import httpx

from triforce.ingest.config import Settings
from triforce.ingest.corpus.schema import RejectReason
from triforce.ingest.errors import Rejected
from triforce.ingest.fetch import addresses

RETRY_STATUSES = {408, 425, 429, 500, 502, 503, 504, 520, 521, 522, 523, 524}
"""Statuses that ask for patience; those from 520 are what content networks answer for a lame origin."""

BLOCK_BYTES = 1 << 18

MAX_HEADER_BYTES = 100 << 10
"""What the HTTP library reads of headers before it gives up."""


class Retry(Exception):
    """An attempt failed in a way that may pass. ``wait_s`` is what the server asked for, if it did."""

    def __init__(self, reason: RejectReason, detail: str, wait_s: float | None = None):
        super().__init__(detail)
        self.rejection, self.wait_s = Rejected(reason, detail), wait_s


class _WideStream(httpcore.NetworkStream):
    """A connection read in pieces of up to `BLOCK_BYTES`, where httpcore asks for a quarter: fewer calls a megabyte.

    A server that answers a byte at a time keeps every single read short of its timeout: headers have a time in all.
    """

    def __init__(self, inner: httpcore.NetworkStream, headers_timeout_s: float):
        self._inner, self._headers_timeout_s = inner, headers_timeout_s
        self._asked_s, self._num_bytes = time.monotonic(), 0
        self.close, self.get_extra_info = inner.close, inner.get_extra_info

    def write(self, buffer, timeout=None):
        self._inner.write(buffer, timeout)
        self._asked_s, self._num_bytes = time.monotonic(), 0

    def read(self, max_bytes, timeout=None):
        if self._num_bytes < MAX_HEADER_BYTES and time.monotonic() - self._asked_s > self._headers_timeout_s:
            raise httpcore.ReadTimeout(f"{self._num_bytes} bytes in {self._headers_timeout_s:.0f} s")
        block = self._inner.read(max(max_bytes, BLOCK_BYTES), timeout)
        self._num_bytes += len(block)
        return block

    def start_tls(self, ssl_context, server_hostname=None, timeout=None):
        return _WideStream(self._inner.start_tls(ssl_context, server_hostname, timeout), self._headers_timeout_s)


class _CheckedBackend(httpcore.NetworkBackend):
    """Connects to the address that was checked, not to a name that may resolve to another one a moment later."""

    def __init__(self, settings: Settings):
        self._allow_private, self._inner = settings.allow_private_hosts, httpcore.SyncBackend()
        self._headers_timeout_s = 2 * max(settings.read_timeout_s, settings.slow_window_s)

    def connect_tcp(self, host, port, timeout=None, local_address=None, socket_options=None):
        try:
            rows = addresses.resolve(host, port, allow_private=self._allow_private)
        except OSError as error:
            raise httpcore.ConnectError(f"{host}: {error}") from error
        failure: Exception | None = None
        for address in dict.fromkeys(row[4][0] for row in rows):
            try:
                inner = self._inner.connect_tcp(address, port, timeout, local_address, socket_options)
                return _WideStream(inner, self._headers_timeout_s)
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                failure = error
        raise failure

    def sleep(self, seconds):
        time.sleep(seconds)


@functools.cache
def _tls() -> ssl.SSLContext:
    """Certificates verified against the system's store; reading that takes a second, so it is done once."""
    return ssl.create_default_context()


class _CheckedTransport(httpx.HTTPTransport):
    def __init__(self, settings: Settings):
        super().__init__(verify=_tls())
        self._pool = httpcore.ConnectionPool(
            ssl_context=_tls(),
            max_connections=64,
            max_keepalive_connections=16,
            keepalive_expiry=15.0,
            network_backend=_CheckedBackend(settings),
        )


@functools.lru_cache(maxsize=16)
def _client(settings: Settings, _process: int) -> httpx.Client:
    return httpx.Client(
        transport=_CheckedTransport(settings),
        headers={"User-Agent": settings.user_agent_header, "Accept": "*/*"},
        timeout=httpx.Timeout(settings.read_timeout_s, connect=settings.connect_timeout_s),
        follow_redirects=False,
        trust_env=False,
    )


class _Host:
    """Pace and parallelism of one host, shared by all threads of this process."""

    def __init__(self, settings: Settings):
        self.slots = threading.BoundedSemaphore(settings.connections_per_host)
        self._lock, self._next_s, self._interval_s = threading.Lock(), 0.0, 1.0 / settings.requests_per_s

    def wait_for_turn(self) -> None:
        with self._lock:
            begin_s = max(self._next_s, time.monotonic())
            self._next_s = begin_s + self._interval_s
        if (wait_s := begin_s - time.monotonic()) > 0:
            time.sleep(wait_s)


def host_of(url: str, settings: Settings) -> _Host:
    """Pace and parallelism of the host that ``url`` names."""
    return _host(urlsplit(url).netloc.rpartition("@")[2].lower(), settings)


@functools.lru_cache(maxsize=4096)
def _host(_name: str, settings: Settings) -> _Host:
    return _Host(settings)


@contextlib.contextmanager
def open_stream(url: str, settings: Settings, headers: dict[str, str] | None = None) -> Iterator[httpx.Response]:
    """GET ``url`` with redirects followed one checked hop at a time; yields the response with its body unread.

    Raises `Retry` for what may pass and `Rejected` for what will not. 304 and 416 are given back, as the caller asked
    for them.
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
    client = _client(settings, os.getpid())
    with _named_failures(url):
        return stack.enter_context(client.stream("GET", url, headers=headers))


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


def retry_after_s(value: str | None) -> float | None:
    """Seconds a Retry-After header asks for, as a number or a date (RFC 9110, 10.2.3); None where it says nothing."""
    if not value:
        return None
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    except (TypeError, ValueError, OverflowError):
        return None


def with_retries(attempt, settings: Settings):
    """Call ``attempt()`` until it returns, at most ``settings.tries`` times.

    The last failure becomes its `Rejected`.
    """
    for number in range(settings.tries):
        try:
            return attempt()
        except Retry as retry:
            if number == settings.tries - 1:
                raise Rejected(retry.rejection.reason, f"{retry.rejection.detail}, {number + 1} tries") from retry
            backoff_s = min(settings.backoff_s * 2**number, settings.max_backoff_s)
            # Jitter, so that what failed together does not come back together.
            time.sleep(retry.wait_s if retry.wait_s is not None else random.uniform(0.5, 1.0) * backoff_s)


def decoded_blocks(response: httpx.Response, limit: int) -> Iterator[bytes]:
    """The body in blocks, unpacked if it came packed.

    `Rejected` past ``limit`` bytes, however few came over the wire.
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
    """Gzip or zlib, told apart by their headers, never more than a block at a time in memory."""
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
    """A small text fetched whole, with what makes the next request for it conditional.

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
    """Watches a transfer: one that stays below the least rate for a whole window raises `Rejected`."""

    def __init__(self, url: str, settings: Settings):
        self._url, self._settings = url, settings
        self._begin_s, self._num_bytes = time.monotonic(), 0

    def count(self, num_bytes: int) -> None:
        self._num_bytes += num_bytes
        elapsed_s = time.monotonic() - self._begin_s
        if elapsed_s < self._settings.slow_window_s:
            return
        if self._num_bytes < self._settings.min_bytes_per_s * elapsed_s:
            rate = self._num_bytes / elapsed_s
            least = self._settings.min_bytes_per_s
            raise Rejected(RejectReason.TOO_SLOW, f"{self._url}: {rate:.0f} bytes a second, the least is {least:.0f}")
        self._begin_s, self._num_bytes = time.monotonic(), 0

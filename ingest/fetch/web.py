"""HTTP requests: checked redirects, named failures, limits on time and size."""

from __future__ import annotations

import contextlib
import itertools
import time
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

import httpx

from triforce.ingest.config import Settings
from triforce.ingest.corpus.records import RejectReason
from triforce.ingest.errors import Rejected, reason_of
from triforce.ingest.fetch import addresses
from triforce.ingest.fetch.connections import BLOCK_BYTES, client_of
from triforce.ingest.fetch.http_errors import EXCEPTIONS, READABLE, reason_of_status
from triforce.ingest.fetch.pace.host import host_of
from triforce.ingest.fetch.retries import Retry, retry_after_s, with_retries

PACKINGS = frozenset({"gzip", "x-gzip", "deflate"})
"""Content encodings that are unpacked. Others, as ``UTF-8``, ``none`` or ``aws-chunked``, are mistakes of servers."""


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
            # The second look at an address may find what the first one's cookie opened; a third finds nothing more.
            if seen.count(url) > 1 or len(seen) > settings.max_redirects:
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
    stack.enter_context(host.slot())
    host.wait_for_turn()
    with _named_failures(url):
        return stack.enter_context(client_of(settings, url).stream("GET", url, headers=headers))


@contextlib.contextmanager
def _named_failures(url: str) -> Iterator[None]:
    try:
        yield
    except httpx.ConnectError as error:
        detail = f"{url}: {error}"
        if "CERTIFICATE" in str(error).upper():  # nothing that another try in this run would change
            raise Rejected(RejectReason.NETWORK, f"{url}: its certificate is not valid: {error}") from error
        raise Retry(RejectReason.NETWORK, detail) from error
    except (httpx.TransportError, httpx.InvalidURL, UnicodeError) as error:
        reason = RejectReason.BAD_REDIRECT if "location header" in str(error) else reason_of(error, EXCEPTIONS)
        detail = f"{url[:200]}: {type(error).__name__}: {error}"
        raise (Retry if reason.transient else Rejected)(reason, detail) from error


def _check_status(response: httpx.Response, url: str, settings: Settings) -> None:
    status = response.status_code
    if status in READABLE or status in (304, 416):
        return
    reason, detail = reason_of_status(status), f"{url}: the server answers {status} {response.reason_phrase}"
    if reason not in (RejectReason.NETWORK, RejectReason.BLOCKED):
        raise Rejected(reason, detail)
    wait_s = retry_after_s(response.headers.get("retry-after"))
    if wait_s is not None and wait_s > settings.max_retry_after_s:
        raise Rejected(RejectReason.BLOCKED, f"{detail} and asks for {wait_s:.0f} s of patience")
    raise Retry(reason, detail, wait_s)


def is_packed(response: httpx.Response) -> bool:
    """Whether the server says that the body is packed in a way that we unpack."""
    encodings = response.headers.get("content-encoding", "").lower().split(",")
    return any(encoding.strip() in PACKINGS for encoding in encodings)


def decoded_blocks(response: httpx.Response, limit: int, *, sniff: bool = False) -> Iterator[bytes]:
    """Yield the body in blocks, unpacked if it came packed: what the header says, the first bytes must bear out.

    With ``sniff`` the bytes alone decide, as of a feed that is served from a packed file. `Rejected` past ``limit``
    bytes, however few were received packed.
    """
    blocks = response.iter_raw()
    if sniff or is_packed(response):
        blocks = _unpacked(blocks, str(response.url), "deflate" in response.headers.get("content-encoding", "").lower())
    total = 0
    for block in blocks:
        total += len(block)
        if total > limit:
            raise Rejected(RejectReason.TOO_LARGE, f"{response.url}: more than {limit} bytes")
        yield block


def _unpacked(blocks: Iterator[bytes], url: str, may_be_raw: bool) -> Iterator[bytes]:
    """Unpack gzip, zlib or, if it ``may_be_raw``, deflate, told apart by their first bytes, with at most a block in
    memory; yield what is none of them as it is."""
    head = b""
    while len(head) < 2 and (block := next(blocks, b"")):
        head += block
    blocks = itertools.chain([head], blocks)
    if (window := _window_bits(head, may_be_raw)) is None:
        yield from blocks
        return
    unpack = zlib.decompressobj(wbits=window)
    try:
        for packed in blocks:
            while packed:
                yield unpack.decompress(packed, BLOCK_BYTES)
                packed = unpack.unconsumed_tail
                if unpack.eof and unpack.unused_data.startswith(GZIP):  # RFC 1952: a file of several members
                    packed, unpack = unpack.unused_data, zlib.decompressobj(wbits=window)
        yield unpack.flush()
    except zlib.error as error:
        raise Retry(RejectReason.NETWORK, f"{url}: the packed body is broken: {error}") from error
    if not unpack.eof:
        raise Retry(RejectReason.WRONG_LENGTH, f"{url}: the packed body ends early")


GZIP = b"\x1f\x8b"


def _window_bits(head: bytes, may_be_raw: bool) -> int | None:
    """Return zlib's ``wbits`` for a body that begins with ``head``, None for one that is not packed."""
    is_zlib = len(head) > 1 and head[0] & 0x0F == 8 and int.from_bytes(head[:2]) % 31 == 0  # RFC 1950, 2.2
    if head.startswith(GZIP) or is_zlib:
        return 47
    if may_be_raw and head:
        with contextlib.suppress(zlib.error):
            zlib.decompressobj(wbits=-15).decompress(head, 1024)
            return -15
    return None


@dataclass(frozen=True)
class Document:
    """A small text fetched whole, with the validators that make the next request for it conditional.

    ``body`` is None for "not modified".
    """

    url: str
    body: bytes | None
    etag: str | None = None
    last_modified: str | None = None
    charset: str | None = None
    """Encoding of the text, as the server states it."""


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
            for block in decoded_blocks(response, settings.max_document_bytes, sniff=True):
                pace.count(len(block))
                blocks.append(block)
            validators = (response.headers.get("etag"), response.headers.get("last-modified"))
            return Document(str(response.url), b"".join(blocks), *validators, response.charset_encoding)

    return with_retries(attempt, settings)


def is_unchanged(url: str, settings: Settings, *, etag: str | None = None, last_modified: str | None = None) -> bool:
    """Whether the server says that what is at ``url`` still has these validators; nothing is received if it does."""
    headers = {"Accept-Encoding": "identity"} | ({"If-None-Match": etag} if etag else {})
    headers |= {"If-Modified-Since": last_modified} if last_modified else {}
    if not (etag or last_modified):
        return False
    with contextlib.suppress(Retry, Rejected), open_stream(url, settings, headers) as response:
        return response.status_code == 304
    return False


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

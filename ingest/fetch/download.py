"""Download of one media file: resumed where it broke off, hashed as it comes, within the size limit."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import re
import ssl
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx

from triforce.ingest import storage
from triforce.ingest.config import Settings
from triforce.ingest.corpus.records import Recording, RejectReason
from triforce.ingest.errors import Rejected
from triforce.ingest.fetch import web
from triforce.ingest.fetch.background_hash import BackgroundSha256
from triforce.ingest.fetch.retries import Retry, with_retries

LEAST_DIRECT_BYTES = 4 << 20
"""Size from which a body is read from the socket itself, and its connection is not used again. Assumed."""


@dataclass(frozen=True)
class Download:
    """A file that was received whole."""

    path: Path
    url: str
    """Address of the bytes, behind all redirects."""
    num_bytes: int
    sha256: str
    content_type: str
    etag: str | None = None
    last_modified: str | None = None


def download(url: str, path: Path, settings: Settings) -> Download:
    """Download ``url`` to ``path``; `Rejected` when that cannot be done.

    Where ``path`` already holds the beginning, and ``path``.json the validator it came with, only the rest is asked
    for (Range with If-Range, RFC 9110, 13.1.5 and 14.2), so an interrupted process resumes as an interrupted
    connection does. A file that changed meanwhile is downloaded from its beginning.
    """
    with storage.named_disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        result = with_retries(lambda: _attempt(url, path, settings), settings)
    _validator_file(path).unlink(missing_ok=True)
    return result


def discard(path: Path) -> None:
    """Remove a partial download and its validator."""
    path.unlink(missing_ok=True)
    _validator_file(path).unlink(missing_ok=True)


def check_declared(recording: Recording, path: Path) -> None:
    """Raise `Rejected` if the file does not have the checksum that the source states."""
    for name in ("sha512", "sha384", "sha256", "sha1", "md5"):
        if declared := recording.metadata.get(f"declared_{name}"):
            with path.open("rb") as file:
                found = hashlib.file_digest(file, name).hexdigest()
            if found != declared.lower():
                detail = f"{recording.url}: {name} {found}, the source states {declared}"
                raise Rejected(RejectReason.BAD_CHECKSUM, detail)
            return


def _attempt(url: str, path: Path, settings: Settings) -> Download:
    offset, validator = _resume_point(path, url)
    headers = {"Accept-Encoding": "identity"}
    if offset:
        headers |= {"Range": f"bytes={offset}-", "If-Range": validator}
    with web.open_stream(url, settings, headers) as response:
        if response.status_code == 416 and offset == _complete_length(response):
            # All of it came before: the length that was declared then was wrong, and a player would not have minded.
            return Download(path, str(response.url), offset, storage.sha256_of(path), "")
        if response.status_code == 416:
            discard(path)
            raise Retry(RejectReason.WRONG_LENGTH, f"{url}: the file is shorter than what came of it before")
        if response.status_code == 206 and _range_start(response, offset) != offset:
            discard(path)
            raise Retry(RejectReason.WRONG_LENGTH, f"{url}: the server sent another range than byte {offset} on")
        if response.status_code != 206:
            offset = 0
            discard(path)
        total = _declared_total(response, offset)
        if total is not None and total > settings.max_bytes:
            discard(path)
            raise Rejected(RejectReason.TOO_LARGE, f"{url}: {total} bytes declared, the limit is {settings.max_bytes}")
        if offset == 0:
            _save_validator(path, url, response)
        num_bytes, sha256 = _receive(response, path, offset, total, settings)
        if total is not None and num_bytes != total:
            raise Retry(RejectReason.WRONG_LENGTH, f"{url}: {num_bytes} bytes came, {total} were declared")
        content_type = response.headers.get("content-type", "").split(";")[0].strip().lower()
        validators = (response.headers.get("etag"), response.headers.get("last-modified"))
        return Download(path, str(response.url), num_bytes, sha256, content_type, *validators)


def _receive(
    response: httpx.Response, path: Path, offset: int, total: int | None, settings: Settings
) -> tuple[int, str]:
    """Append the body to ``path``, which holds ``offset`` bytes; return size and SHA-256 of the whole."""
    with path.open("ab", buffering=0) as file, BackgroundSha256() as digest:
        if offset:
            _digest_file(path, digest)
        pace, num_bytes = web.Pace(str(response.url), settings), offset
        try:
            for block in _blocks(response, offset, total, digest, settings):
                _write_all(file, block)
                digest.update(block)
                num_bytes += len(block)
                pace.count(len(block))
        except Rejected as rejection:
            if rejection.reason is RejectReason.TOO_LARGE:
                discard(path)
            raise
    return num_bytes, digest.hexdigest()


def _blocks(
    response: httpx.Response, offset: int, total: int | None, digest: BackgroundSha256, settings: Settings
) -> Iterator[bytes | memoryview]:
    """Yield the body, in blocks that ``digest`` takes."""
    is_plain = total is not None and "transfer-encoding" not in response.headers
    if is_plain and total - offset >= LEAST_DIRECT_BYTES:
        yield from _direct_blocks(response, total - offset, digest, settings)
    else:
        yield from web.decoded_blocks(response, settings.max_bytes - offset)


def _direct_blocks(
    response: httpx.Response, num_bytes: int, digest: BackgroundSha256, settings: Settings
) -> Iterator[bytes | memoryview]:
    """Read a body of known length from the socket into the hash's buffers; the HTTP library copies it four times.

    What was received along with the headers is with the library, all in its first block.
    """
    library = response.iter_raw()  # kept until the end: it closes the connection when it goes
    first = next(library, b"")
    yield first
    left = num_bytes - len(first)
    connection = response.extensions["network_stream"].get_extra_info("socket")
    connection.settimeout(settings.read_timeout_s)
    try:
        while left:
            buffer = digest.buffer()
            count = connection.recv_into(buffer, min(left, len(buffer)))
            if not count:
                raise Retry(RejectReason.NETWORK, f"{response.url}: the server hung up {left} bytes before the end")
            yield buffer[:count]
            left -= count
    except TimeoutError as error:
        raise Retry(RejectReason.TOO_SLOW, f"{response.url}: nothing came in time") from error
    except (ConnectionError, ssl.SSLError) as error:
        raise Retry(RejectReason.NETWORK, f"{response.url}: {type(error).__name__}: {error}") from error


def _write_all(file: io.FileIO, block: bytes | memoryview) -> None:
    """Write all of ``block`` to an unbuffered file, which may take less at a time."""
    view = memoryview(block)
    while view:
        view = view[file.write(view) :]


def _digest_file(path: Path, digest: BackgroundSha256) -> None:
    with path.open("rb") as file:
        while count := file.readinto(buffer := digest.buffer()):
            digest.update(buffer[:count])


def _declared_total(response: httpx.Response, offset: int) -> int | None:
    """Return the length of the whole file as the server declares it; None where it does not, or packs the body."""
    if web.is_packed(response):
        return None
    length = response.headers.get("content-length", "")
    return offset + int(length) if re.fullmatch(r"\d{1,18}", length) else None


def _range_start(response: httpx.Response, offset: int) -> int:
    """Return the first byte of a range; of one that does not say, 0 where all was asked for, else -1."""
    match = re.match(r"bytes[ =]*(\d{1,18})-", response.headers.get("content-range", ""), re.IGNORECASE)
    return int(match.group(1)) if match else -1 if offset else 0


def _complete_length(response: httpx.Response) -> int | None:
    """Return the length of the file that an unsatisfied range gives (RFC 9110, 14.4), None where it gives none."""
    match = re.fullmatch(r"bytes \*/(\d{1,18})", response.headers.get("content-range", "").strip(), re.IGNORECASE)
    return int(match.group(1)) if match else None


def _validator_file(path: Path) -> Path:
    return path.with_name(path.name + ".json")


def _save_validator(path: Path, url: str, response: httpx.Response) -> None:
    """Save what identifies this version of the file: a strong ETag, else its date. Without one there is no resuming."""
    etag = response.headers.get("etag", "")
    validator = etag if etag.startswith('"') else response.headers.get("last-modified")
    if validator and not web.is_packed(response):
        _validator_file(path).write_text(json.dumps({"url": url, "validator": validator}), encoding="utf-8")


def _resume_point(path: Path, url: str) -> tuple[int, str]:
    """Return the number of bytes on the disk and the validator they came with; (0, "") where nothing can be resumed."""
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        saved = json.loads(_validator_file(path).read_text(encoding="utf-8"))
        if saved["url"] == url and (size := path.stat().st_size):
            return size, saved["validator"]
    return 0, ""

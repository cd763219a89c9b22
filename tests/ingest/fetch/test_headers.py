"""Headers that servers get wrong, where the body tells the truth; statuses and errors by their tables."""

from __future__ import annotations

import gzip
import hashlib
import inspect
import zlib

import httpx
import pytest

from triforce.ingest.corpus.records import RejectReason
from triforce.ingest.errors import REASONS, Rejected, reason_of
from triforce.ingest.fetch.download import download
from triforce.ingest.fetch.http_errors import EXCEPTIONS, STATUSES, reason_of_status
from triforce.ingest.fetch.web import get_document

FEED = b"<?xml version='1.0'?><rss><channel><title>T</title></channel></rss>" * 50
RAW_DEFLATE = zlib.compressobj(wbits=-15)
DEFLATED = RAW_DEFLATE.compress(FEED) + RAW_DEFLATE.flush()


@pytest.mark.parametrize(
    "encoding", ["UTF-8", "none", "aws-chunked", "identity", "binary", "gzip", "deflate", "br", ""]
)
def test_a_plain_body_is_read_whatever_its_header_says(site, settings, tmp_path, sound, encoding):
    mp3 = sound(1, format="MP3")
    headers = {"Content-Encoding": encoding}
    assert get_document(site.put("/feed", FEED, headers=headers), settings).body == FEED
    found = download(site.put("/a.mp3", mp3, headers=headers), tmp_path / "a", settings)
    assert (found.num_bytes, found.sha256) == (len(mp3), hashlib.sha256(mp3).hexdigest())


@pytest.mark.parametrize(
    ("body", "encoding"),
    [
        (gzip.compress(FEED), "gzip"),
        (gzip.compress(FEED), "X-GZIP, identity"),
        (gzip.compress(FEED[:100]) + gzip.compress(FEED[100:]), "gzip"),
        (gzip.compress(FEED), None),
        (gzip.compress(FEED), "deflate"),
        (zlib.compress(FEED), "deflate"),
        (DEFLATED, "deflate"),
    ],
)
def test_a_packed_body_is_unpacked_whatever_its_header_says(site, settings, body, encoding):
    url = site.put("/feed", body, headers={"Content-Encoding": encoding} if encoding else {})
    assert get_document(url, settings).body == FEED


def test_a_download_with_a_mistaken_encoding_is_resumed(site, settings, tmp_path, sound):
    mp3 = sound(1, format="MP3")
    etag = f'"{hashlib.sha256(mp3).hexdigest()[:12]}"'

    def hang_up(handler, before: int) -> bool:
        if before == 0:
            headers = {"ETag": etag, "Content-Encoding": "none"}
            handler.answer(200, mp3[:2000], headers, length=len(mp3))
        return before == 0

    found = download(
        site.put("/a", mp3, headers={"Content-Encoding": "none"}, script=hang_up), tmp_path / "a", settings
    )
    assert found.sha256 == hashlib.sha256(mp3).hexdigest()
    assert [headers.get("Range") for _, headers in site.requests] == [None, "bytes=2000-"]


def test_a_length_that_is_declared_too_large_costs_nothing(site, settings, tmp_path, sound):
    mp3 = sound(1, format="MP3")

    def boast(handler, _) -> bool:
        if "Range" in handler.headers:
            handler.answer(416, b"", {"Content-Range": f"bytes */{len(mp3)}"})
        else:
            handler.answer(200, mp3, {"ETag": '"1"'}, length=len(mp3) + 999)
        return True

    found = download(site.put("/a", script=boast), tmp_path / "a", settings)
    assert (found.num_bytes, found.sha256) == (len(mp3), hashlib.sha256(mp3).hexdigest())
    assert len(site.requests) == 2


def test_a_range_that_nobody_asked_for_is_the_whole(site, settings, tmp_path):
    url = site.put("/a", FEED, status=206)
    assert download(url, tmp_path / "a", settings).num_bytes == len(FEED)


def test_a_redirect_to_itself_that_sets_a_cookie_is_followed(site, settings):
    def wall(handler, _) -> bool:
        if "seen=1" in handler.headers.get("Cookie", ""):
            return False
        handler.answer(302, b"", {"Location": "/a", "Set-Cookie": "seen=1"})
        return True

    own = settings.model_copy(update={"user_agent": "wall/1"})
    assert get_document(site.put("/a", FEED, script=wall), own).body == FEED


@pytest.mark.parametrize(
    ("status", "reason", "hits"),
    [
        (203, None, 1),
        (202, RejectReason.NETWORK, 3),
        (400, RejectReason.UNKNOWN, 1),
        (418, RejectReason.UNKNOWN, 1),
        (402, RejectReason.FORBIDDEN, 1),
        (404, RejectReason.NOT_FOUND, 1),
        (423, RejectReason.NETWORK, 3),
        (429, RejectReason.BLOCKED, 3),
        (509, RejectReason.NETWORK, 3),
        (530, RejectReason.NETWORK, 3),
    ],
)
def test_a_status_has_its_reason(site, settings, status, reason, hits):
    url = site.put("/a", FEED, status=status)
    if reason is None:
        assert get_document(url, settings).body == FEED
    else:
        with pytest.raises(Rejected) as caught:
            get_document(url, settings)
        assert caught.value.reason is reason
    assert site.hits["/a"] == hits


def test_only_statuses_that_say_so_are_final():
    final = {status for status in range(100, 1000) if not reason_of_status(status).transient}
    assert final == {401, 402, 403, 404, 410, 451}
    taken = [status for row in STATUSES for status in row.statuses]
    assert len(taken) == len(set(taken)), "a status with two rows"


def test_every_exception_of_the_http_library_has_a_row():
    errors = {
        error
        for _, error in inspect.getmembers(httpx, inspect.isclass)
        if issubclass(error, httpx.RequestError | httpx.InvalidURL)
    }
    raised_to_us = errors - {httpx.RequestError, httpx.DecodingError, httpx.TooManyRedirects}  # of what we do not use
    known = {error for error in raised_to_us if any(issubclass(error, row.error) for row in EXCEPTIONS)}
    assert known == raised_to_us
    assert reason_of(KeyError(), EXCEPTIONS) is RejectReason.UNKNOWN


@pytest.mark.parametrize("reason", [*RejectReason])
def test_every_rejection_says_what_to_do_next(reason):
    assert str(Rejected(reason, "what was wrong")).endswith(f"what was wrong; {REASONS[reason].advice}")
    assert REASONS[reason].meaning
    assert REASONS[reason].advice

"""What can be wrong outside: the exception of ingest, what each of its reasons means, and how errors are sorted.

The errors of a library are sorted by a table with a row a class (`Row`), which is also their documentation. What no
row knows is `RejectReason.UNKNOWN`: it is tried again in later runs, and settled with its message at the last one.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from triforce.ingest.corpus.records import RejectReason


class Row(NamedTuple):
    """What an exception of a class means, subclasses included."""

    error: type[BaseException]
    reason: RejectReason
    meaning: str


def reason_of(error: BaseException, rows: Iterable[Row]) -> RejectReason:
    """Return the reason of the first row that ``error`` is an instance of, UNKNOWN where there is none."""
    return next((row.reason for row in rows if isinstance(error, row.error)), RejectReason.UNKNOWN)


class Explained(NamedTuple):
    """A reason for a person."""

    meaning: str
    advice: str
    """What to do next."""


WAIT = "wait for a later run"

REASONS: dict[RejectReason, Explained] = {
    RejectReason.NETWORK: Explained("no connection, HTTP 5xx, a bad certificate, a live video", WAIT),
    RejectReason.BLOCKED: Explained(
        "HTTP 429, a check for robots, a long `Retry-After`", "lower `requests_per_s`; give `cookies_file`"
    ),
    RejectReason.TOO_SLOW: Explained("a timeout, or below `min_bytes_per_s`", f"{WAIT}; or lower `min_bytes_per_s`"),
    RejectReason.WRONG_LENGTH: Explained("fewer bytes than declared, or a wrong range", WAIT),
    RejectReason.BAD_CHECKSUM: Explained("not the bytes that the source states", f"{WAIT}; else tell the publisher"),
    RejectReason.UNKNOWN: Explained("an error that no table knows", f"{WAIT}; upgrade yt-dlp; report it"),
    RejectReason.NOT_FOUND: Explained("HTTP 404 or 410, or a file that is gone", "check the address in the source"),
    RejectReason.FORBIDDEN: Explained(
        "HTTP 401, 403, 451, a login, a country, `corpus rm`",
        "ask the publisher; give `cookies_file`",
    ),
    RejectReason.BAD_REDIRECT: Explained("too many redirects, or not http", "use the final address"),
    RejectReason.PRIVATE_ADDRESS: Explained("not on the open internet", "set `allow_private_hosts` if that is meant"),
    RejectReason.TOO_LARGE: Explained(
        "over `max_bytes` or `max_document_bytes`", "raise the limit, then `corpus retry`"
    ),
    RejectReason.TOO_LONG: Explained(
        "over `max_duration_s` or `max_recording_s`", "raise the limit, then `corpus retry`"
    ),
    RejectReason.TOO_SHORT: Explained("under `min_duration_s`", "lower the limit, then `corpus retry`"),
    RejectReason.FILTERED: Explained(
        "a date or licence that the source does not want", "change the source, then `corpus retry`"
    ),
    RejectReason.BAD_METADATA: Explained(
        "a page that cannot be parsed, or a header that contradicts the sound", "tell the publisher"
    ),
    RejectReason.NOT_AUDIO: Explained("no known format, or no audio in it", "check what the address serves"),
    RejectReason.UNDECODABLE: Explained("broken or encrypted audio", "check the file with another player"),
    RejectReason.NO_SPEECH: Explained("nobody speaks in it", "listen; lower `vad.mode`, then `corpus retry`"),
    RejectReason.DUPLICATE_ID: Explained("another recording has the same id", "nothing: `corpus show` names it"),
    RejectReason.DUPLICATE_URL: Explained(
        "another has the address, and it has not changed", "nothing: `corpus show` names it"
    ),
    RejectReason.DUPLICATE_BYTES: Explained("another has the same bytes", "nothing: `corpus show` names it"),
    RejectReason.DUPLICATE_AUDIO: Explained("another has the same sound", "nothing: `corpus show` names it"),
}
"""Each reason with its meaning and what to do next; ingest/README.md holds the same table."""


class Rejected(ValueError):
    """A recording, feed, page or media file that cannot be used. ``detail`` is a sentence for a person."""

    def __init__(self, reason: RejectReason, detail: str):
        super().__init__(f"{reason}: {detail}; {REASONS[RejectReason(reason)].advice}")
        self.reason = RejectReason(reason)
        self.detail = detail

    def __reduce__(self):  # exceptions cross process borders under Prefect and Ray
        return type(self), (self.reason, self.detail)

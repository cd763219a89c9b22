"""Named reasons for the errors that yt-dlp raises."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from yt_dlp.networking.exceptions import HTTPError

from triforce.ingest.corpus.records import RejectReason
from triforce.ingest.errors import Rejected

BLOCK_WORDS = (
    "not a bot",
    "sign in to confirm",
    "login required",
    "log in",
    "rate-limit",
    "rate limit",
    "too many requests",
    "captcha",
)
ABSENT_WORDS = ("unavailable", "not available", "removed", "does not exist", "terminated", "not found", "deleted")
FORBIDDEN_WORDS = (
    "private video",
    "members-only",
    "members only",
    "join this channel",
    "confirm your age",
    "drm",
    "geo restrict",
)


@contextlib.contextmanager
def named_failures(url: str) -> Iterator[None]:
    """Turn whatever yt-dlp raises into `Rejected`: its extractors meet pages that their authors never saw."""
    try:
        yield
    except Rejected:
        raise
    except Exception as error:
        raise rejection_of(error, url) from error


def rejection_of(error: Exception, url: str) -> Rejected:
    """Return the named reason of a yt-dlp error: from the causes it carries, else its HTTP status, else its words."""
    causes = list(_causes(error))
    for cause in causes:
        if isinstance(cause, Rejected):
            return cause
    status = next((cause.status for cause in causes if isinstance(cause, HTTPError)), None)
    text = " ".join(str(error).split())
    words, detail = text.lower(), f"{url}: {text[:300]}"
    if status == 429 or any(word in words for word in BLOCK_WORDS):
        return Rejected(RejectReason.BLOCKED, detail)
    if "ffmpeg could not be found" in words or "requested format is not available" in words:
        unread = "it comes encrypted, or in a way that only a program could read which is not to be started"
        return Rejected(RejectReason.UNDECODABLE, f"{url}: {unread}")
    if any(word in words for word in FORBIDDEN_WORDS):
        return Rejected(RejectReason.FORBIDDEN, detail)
    if status in (404, 410) or any(word in words for word in ABSENT_WORDS):
        return Rejected(RejectReason.NOT_FOUND, detail)
    if status in (401, 402, 403, 451):
        return Rejected(RejectReason.FORBIDDEN, detail)
    if "unsupported url" in words or "no video formats" in words or "is not a valid url" in words:
        return Rejected(RejectReason.NOT_AUDIO, detail)
    return Rejected(RejectReason.NETWORK, detail)


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    queue = [error]
    while queue:
        current = queue.pop()
        if current is None or id(current) in seen:
            continue
        seen.add(id(current))
        yield current
        info = getattr(current, "exc_info", None)
        queue += [
            current.__cause__,
            current.__context__,
            getattr(current, "cause", None),
            getattr(current, "reason", None),
        ]
        queue += [info[1]] if isinstance(info, tuple) and len(info) > 1 else []
        queue = [item for item in queue if isinstance(item, BaseException)]

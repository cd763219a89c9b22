"""Named reasons for the errors that yt-dlp raises, by tables: the class of the error first, then extractor and HTTP
status, and words last, as sites and translators change them.

What no table knows is `RejectReason.UNKNOWN`, whatever it sounds like: "unavailable" is also what a server in trouble
says. tests/ingest/fetch/test_ytdlp_errors.py reads yt-dlp's source and fails at a class or an example that is gone.
"""

from __future__ import annotations

import contextlib
import errno
import re
from collections.abc import Iterator
from typing import NamedTuple
from urllib.parse import urlsplit

from yt_dlp import cookies, utils
from yt_dlp.networking import exceptions as network

from triforce.ingest.corpus.records import RejectReason
from triforce.ingest.errors import Rejected, Row, reason_of
from triforce.ingest.fetch.http_errors import EXCEPTIONS, reason_of_status

CLASSES = (
    Row(utils.GeoRestrictedError, RejectReason.FORBIDDEN, "not for this country"),
    Row(utils.UserNotLive, RejectReason.NETWORK, "a broadcast that has not begun"),
    Row(utils.UnsupportedError, RejectReason.NOT_AUDIO, "a page without a player that yt-dlp knows"),
    Row(utils.ThrottledDownload, RejectReason.TOO_SLOW, "below --throttled-rate"),
    Row(utils.ContentTooShortError, RejectReason.WRONG_LENGTH, "fewer bytes than the server announced"),
    Row(network.IncompleteRead, RejectReason.WRONG_LENGTH, "the connection ended early"),
    Row(network.UnsupportedRequest, RejectReason.BAD_REDIRECT, "an address of a kind that we do not ask for"),
    Row(network.NoSupportingHandlers, RejectReason.BAD_REDIRECT, "an address of a kind that we do not ask for"),
    Row(network.TransportError, RejectReason.NETWORK, "no connection, or it broke; a bad certificate, or proxy"),
    *EXCEPTIONS,
)
"""Classes that say by themselves what happened."""

NO_EVIDENCE = (
    Row(network.HTTPError, RejectReason.UNKNOWN, "its status decides"),
    Row(utils.RegexNotFoundError, RejectReason.UNKNOWN, "a page that changed: upgrade yt-dlp"),
    Row(utils.DownloadError, RejectReason.UNKNOWN, "what the downloader met is among its causes"),
    Row(utils.ExtractorError, RejectReason.UNKNOWN, "words decide"),
    Row(utils.UnavailableVideoError, RejectReason.UNKNOWN, "a download that the disk or the server ended"),
    Row(utils.ReExtractInfo, RejectReason.UNKNOWN, "addresses that are too old"),
    Row(utils.EntryNotInPlaylist, RejectReason.UNKNOWN, "a listing that changed while it was read"),
    Row(utils.PostProcessingError, RejectReason.UNKNOWN, "we start no postprocessor"),
    Row(utils.SameFileError, RejectReason.UNKNOWN, "two videos where one was expected"),
    Row(utils.DownloadCancelled, RejectReason.UNKNOWN, "options that we do not set"),
    Row(utils.XAttrMetadataError, RejectReason.UNKNOWN, "options that we do not set"),
    Row(utils.XAttrUnavailableError, RejectReason.UNKNOWN, "options that we do not set"),
    Row(utils.UnsafeExecExpansionError, RejectReason.UNKNOWN, "options that we do not set"),
    Row(cookies.CookieLoadError, RejectReason.UNKNOWN, "a cookies_file that cannot be read"),
    Row(network.RequestError, RejectReason.UNKNOWN, "any other request"),
    Row(utils.YoutubeDLError, RejectReason.UNKNOWN, "any other error"),
)
"""Classes that say nothing by themselves: extractor, status and words decide."""


class PlaceRow(NamedTuple):
    """What an HTTP status or a message means at one extractor: a site that uses it in a way of its own."""

    extractor: str
    pattern: str
    reason: RejectReason
    meaning: str


PLACES = (
    PlaceRow("youtube", r"HTTP Error 403", RejectReason.NETWORK, "media addresses expire, and are bound to a client"),
    PlaceRow(
        "youtube", r"Requested format is not available", RejectReason.UNKNOWN, "formats are kept from old clients"
    ),
    PlaceRow("generic", r"anti-bot challenge", RejectReason.BLOCKED, "a check for robots in front of the site"),
)


class WordRow(NamedTuple):
    """What a message means that yt-dlp, or a site through it, has for a person."""

    pattern: str
    reason: RejectReason
    example: str
    """Part of a message in yt-dlp's source, or of one that YouTube sends."""


WORDS = (
    # What the downloader says of an error of which it keeps no more.
    WordRow(
        r"content too short|downloaded file is empty|\d+ bytes read|\d+ bytes, expected",
        RejectReason.WRONG_LENGTH,
        "The downloaded file is empty",
    ),
    WordRow(
        r"\[download\] got error|did not get any data blocks|fragment .* not found",
        RejectReason.NETWORK,
        "[download] Got error",
    ),
    # What may pass comes first, whatever else the message says.
    WordRow(r"not a bot|captcha|anti-bot", RejectReason.BLOCKED, "asks you to solve a CAPTCHA"),
    WordRow(r"rate.?limit|too many requests", RejectReason.BLOCKED, "You have exceeded the rate limit"),
    WordRow(r"\bip\b.*\b(blocked|banned)", RejectReason.BLOCKED, "Your IP is likely being blocked by Youtube"),
    WordRow(
        r"\btemporar|try again|\blater\b|maintenance|a moment", RejectReason.UNKNOWN, "Service temporarily unavailable"
    ),
    WordRow(
        r"\b(may|might) (not )?(be|have)\b|possibly|likely|perhaps", RejectReason.UNKNOWN, "This video may be deleted"
    ),
    WordRow(
        r"not (currently|yet) (live|available|started)|has(n.t| not) (yet )?(started|begun)",
        RejectReason.NETWORK,
        "The channel is not currently live",
    ),
    WordRow(
        r"\bwill (begin|start|be available)\b|scheduled|premieres? in", RejectReason.NETWORK, "This event will start at"
    ),
    # Then what does not come as sound that may be read.
    WordRow(
        r"ffmpeg could not be found", RejectReason.UNDECODABLE, "m3u8 download detected but ffmpeg could not be found"
    ),
    WordRow(r"\bdrm[- ](protect|encrypt)", RejectReason.UNDECODABLE, "This video is DRM protected"),
    WordRow(r"requested format is not available", RejectReason.UNDECODABLE, "Requested format is not available"),
    WordRow(r"is not a valid url|invalid url:", RejectReason.NOT_AUDIO, "is not a valid URL"),
    # Then what only a person can change.
    WordRow(r"\bis private\b|private (video|playlist)", RejectReason.FORBIDDEN, "This VOD is private"),
    WordRow(
        r"members?[- ]only|join this channel|for (members|subscribers) only|only available (for|to) (register|prem)",
        RejectReason.FORBIDDEN,
        "This video/podcast is for members only",
    ),
    WordRow(r"confirm your age|age[- ]restricted", RejectReason.FORBIDDEN, "age-restricted content"),
    WordRow(
        r"--cookies|log-?in (is )?required|requires? (a )?(log-?in|authentication|(\w+ )?subscription)",
        RejectReason.FORBIDDEN,
        "Login required",
    ),
    WordRow(
        r"password[- ]protected|protected by a password", RejectReason.FORBIDDEN, "This video is password-protected"
    ),
    WordRow(
        r"requires? (a )?(payment|purchase)|purchase is required", RejectReason.FORBIDDEN, "Video requires payment"
    ),
    WordRow(
        r"geo.?(restrict|block)|in your (country|region|location|territory)",
        RejectReason.FORBIDDEN,
        "This video is not available from your location due to geo restriction",
    ),
    # Then what is gone, by a sentence that says of what.
    WordRow(
        r"\b(video|clip|episode|content|track|song|album|playlist|show|channel|user|post|stream|broadcast|vod|movie)"
        r"( \S*[\d\"'{]\S*)? ((was|were|is|has been|have been) )?(not found|removed|deleted|taken down)\b(?! in)",
        RejectReason.NOT_FOUND,
        "Channel not found",
    ),
    WordRow(
        r"(does not|doesn.t|no longer) exist|no longer available", RejectReason.NOT_FOUND, "This video does not exist"
    ),
    WordRow(
        r"account\b.{0,40}\bhas been (terminated|closed|deleted)", RejectReason.NOT_FOUND, "account has been terminated"
    ),
)
"""Words, in the order they are looked for: those of what may pass first."""

OURS = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EMFILE, errno.ENFILE, errno.EIO})
"""Errors of our own disk, which are no recording's fault."""


@contextlib.contextmanager
def named_failures(url: str) -> Iterator[None]:
    """Turn whatever yt-dlp raises into `Rejected`: its extractors meet pages that their authors never saw.

    Raises `OSError` for trouble with our own disk.
    """
    try:
        yield
    except Rejected:
        raise
    except Exception as error:
        raise rejection_of(error, url) from error


def rejection_of(error: Exception, url: str) -> Rejected:
    """Return the named reason of a yt-dlp error; raise the `OSError` among its causes if our disk is at fault."""
    causes = list(_causes(error))
    for cause in causes:
        if isinstance(cause, Rejected):
            return cause
        if isinstance(cause, OSError) and cause.errno in OURS:
            raise cause
    text = " ".join(str(error).split())
    reason = _reason(causes, text, url)
    if reason is RejectReason.UNDECODABLE:
        unread = "it comes encrypted, or in a way that only a program could read which is not to be started"
        return Rejected(reason, f"{url}: {unread} ({text[:200]})")
    return Rejected(reason, f"{url}: {text[:300]}")


def _reason(causes: list[BaseException], text: str, url: str) -> RejectReason:
    for cause in causes:
        if (reason := reason_of(cause, CLASSES)) is not RejectReason.UNKNOWN:
            return reason
    place = _place(causes, text, url)
    for row in PLACES:
        if row.extractor in place and re.search(row.pattern, text):
            return row.reason
    if any(isinstance(cause, network.HTTPError) and cause.redirect_loop for cause in causes):
        return RejectReason.BAD_REDIRECT
    # From the message, as the downloader keeps no more of an error; and a status among the causes that the message does
    # not name is one that the extractor has dealt with before.
    if status := re.search(r"HTTP ?Error (\d{3})\b", text):
        return reason_of_status(int(status.group(1)))
    return reason_of_words(text)


def reason_of_words(text: str) -> RejectReason:
    """Return what a message of yt-dlp means by its words alone, UNKNOWN where no row of `WORDS` fits."""
    words = text.lower()
    return next((row.reason for row in WORDS if re.search(row.pattern, words)), RejectReason.UNKNOWN)


def _place(causes: list[BaseException], text: str, url: str) -> str:
    """Return the extractor that failed, in lower case, by what it says of itself, or by the site it reads."""
    names = [str(cause.ie) for cause in causes if isinstance(cause, utils.ExtractorError) and cause.ie]
    named = re.findall(r"\[([\w:+-]+)\]", text)
    host = urlsplit(url).hostname or "" if "://" in url else url
    site = ["youtube"] if re.search(r"youtube\.com$|youtu\.be$|^ytsearch", host) else []
    return " ".join([*names, *named, *site]).lower()


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    queue = [error]
    while queue:
        current = queue.pop(0)
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

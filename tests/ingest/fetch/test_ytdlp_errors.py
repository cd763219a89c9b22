"""yt-dlp's errors have reasons: those of its own source, and those that a server in trouble makes it raise."""

from __future__ import annotations

import errno
import inspect
import re
from functools import cache
from pathlib import Path

import pytest
import yt_dlp
from sync_loop import sync_source
from yt_dlp import cookies, utils
from yt_dlp.networking import exceptions as network

from triforce.ingest.config import YoutubeSource
from triforce.ingest.corpus.records import RejectReason
from triforce.ingest.errors import reason_of
from triforce.ingest.fetch.ytdlp_errors import (
    CLASSES,
    NO_EVIDENCE,
    PLACES,
    WORDS,
    named_failures,
    reason_of_words,
    rejection_of,
)

RAISED = re.compile(r"(?:ExtractorError|raise_\w+|report_error|UserNotLive|to_screen)\(\s*f?r?([\"'])(.*?)(?<!\\)\1")
SAID_BY_YOUTUBE = {"account has been terminated"}
YOUTUBE = "https://www.youtube.com/watch?v=x"


@cache
def source_of_ytdlp() -> str:
    folder = Path(yt_dlp.__file__).parent
    return "\n".join(path.read_text(encoding="utf-8") for path in sorted(folder.rglob("*.py")))


def messages() -> list[str]:
    """Every message that yt-dlp's own source raises or reports, as it is written there."""
    return sorted({match[1] for match in RAISED.findall(source_of_ytdlp())})


def test_media_that_answers_503_once_is_fetched_in_the_next_run(site, corpus, settings, webm):
    """The report: "Service Unavailable" was matched as a word, and the recording settled as not found for ever."""
    site.put("/v.webm", webm, "video/webm")
    player = '<html><head><title>T</title></head><video><source src="/v.webm" type="video/webm"></video></html>'
    source = YoutubeSource(name="lectures", urls=[site.put("/watch/1", player, "text/html")], sleep_s=0)
    in_trouble = settings.model_copy(update={"tries": 1})
    site.pages["/v.webm"].script = lambda handler, before: (handler.answer(503, b""), True)[1]
    assert sync_source(source, in_trouble, corpus).rejected == {RejectReason.NETWORK: 1}
    site.pages["/v.webm"].script = None
    assert sync_source(source, in_trouble, corpus).fetched == 1


def classes() -> list[type]:
    found = {
        item
        for module in (utils, network, cookies, yt_dlp.YoutubeDL)
        for _, item in inspect.getmembers(module, inspect.isclass)
        if issubclass(item, utils.YoutubeDLError)
    }
    return sorted(found, key=lambda item: item.__name__)


@pytest.mark.parametrize("error", classes(), ids=lambda error: error.__name__)
def test_every_class_has_a_row(error):
    """One that a new yt-dlp adds fails here: give it a row."""
    rows = [row for row in (*CLASSES, *NO_EVIDENCE) if row.error is not utils.YoutubeDLError]
    assert error is utils.YoutubeDLError or any(issubclass(error, row.error) for row in rows), error
    assert all(row.reason is RejectReason.UNKNOWN for row in NO_EVIDENCE)


@pytest.mark.parametrize("row", WORDS, ids=lambda row: row.example)
def test_every_row_of_words_has_an_example_in_the_source(row):
    assert row.example in source_of_ytdlp() or row.example in SAID_BY_YOUTUBE, "yt-dlp no longer says that"
    assert reason_of_words(row.example) is row.reason
    assert next(each for each in WORDS if re.search(each.pattern, row.example.lower())) is row, (
        "an earlier row takes it"
    )


def test_no_message_of_the_source_is_final_by_a_doubtful_word():
    found = messages()
    assert len(found) > 700, "the pattern finds no messages any more"
    final = {text: reason_of_words(text) for text in found if not reason_of_words(text).transient}
    doubtful = re.compile(
        r"temporar|try again|later|moment|maintenance|\bmay be\b|might|yet|soon|unable to|failed to|50\d"
    )
    assert [text for text in final if doubtful.search(text.lower())] == []
    gone = {text for text, reason in final.items() if reason is RejectReason.NOT_FOUND}
    assert {"Video was deleted", "Channel not found", "The video is no longer available"} <= gone
    webpage = "what an extractor misses in a page is a bug of the extractor"
    assert [text for text in gone if re.search(r"webpage|unable|\bid\b|\bdata\b|metadata", text.lower())] == [], webpage


class Answer:
    def __init__(self, status: int, reason: str = ""):
        self.status, self.reason = status, reason

    def close(self) -> None:
        pass


def raised(status: int, **more) -> Exception:
    """The error of a download that met an HTTP status, wrapped as yt-dlp wraps it."""
    cause = network.HTTPError(Answer(status, "Service Unavailable"))
    extractor = utils.ExtractorError(f"Unable to download webpage: {cause}", cause=cause, expected=True, **more)
    return utils.DownloadError(f"ERROR: {extractor}", (type(extractor), extractor, None))


@pytest.mark.parametrize(
    ("error", "url", "reason"),
    [
        (raised(503), "https://x.org/", RejectReason.NETWORK),
        (raised(418), "https://x.org/", RejectReason.UNKNOWN),
        (raised(404), "https://x.org/", RejectReason.NOT_FOUND),
        (raised(429), "https://x.org/", RejectReason.BLOCKED),
        (raised(403), "https://x.org/", RejectReason.FORBIDDEN),
        (raised(403), YOUTUBE, RejectReason.NETWORK),
        (raised(403, ie="youtube"), "https://x.org/", RejectReason.NETWORK),
        (utils.GeoRestrictedError("try again later"), "u", RejectReason.FORBIDDEN),
        (utils.UserNotLive(), "u", RejectReason.NETWORK),
        (utils.UnsupportedError("u"), "u", RejectReason.NOT_AUDIO),
        (utils.ContentTooShortError(1, 2), "u", RejectReason.WRONG_LENGTH),
        (network.IncompleteRead(1, 2), "u", RejectReason.WRONG_LENGTH),
        (network.CertificateVerifyError("expired"), "u", RejectReason.NETWORK),
        (network.HTTPError(Answer(302), redirect_loop=True), "u", RejectReason.BAD_REDIRECT),
        (utils.ExtractorError("Video unavailable"), "u", RejectReason.UNKNOWN),
        (utils.ExtractorError("Unable to extract player version"), "u", RejectReason.UNKNOWN),
        (utils.ExtractorError("Private video. Sign in if you have been granted access"), "u", RejectReason.FORBIDDEN),
        (utils.ExtractorError("Sign in to confirm you're not a bot. Use --cookies"), "u", RejectReason.BLOCKED),
        (utils.ExtractorError("Requested format is not available"), YOUTUBE, RejectReason.UNKNOWN),
        (utils.ExtractorError("Requested format is not available"), "https://x.org/", RejectReason.UNDECODABLE),
        (KeyError("a bug of an extractor"), "u", RejectReason.UNKNOWN),
        (TimeoutError(), "u", RejectReason.TOO_SLOW),
    ],
    ids=str,
)
def test_an_error_is_sorted_by_class_then_place_and_status_then_words(error, url, reason):
    assert rejection_of(error, url).reason is reason


def test_a_status_that_the_extractor_dealt_with_does_not_count():
    try:
        raise network.HTTPError(Answer(404, "Not Found"))
    except network.HTTPError:
        later = utils.ExtractorError("All player responses are invalid", expected=True)
    assert rejection_of(later, "u").reason is RejectReason.UNKNOWN


def test_a_full_disk_is_no_fault_of_a_recording():
    full = OSError(errno.ENOSPC, "No space left on device")
    wrapped = utils.DownloadError("unable to write data: [Errno 28] No space left on device", (OSError, full, None))
    with pytest.raises(OSError, match="No space left"), named_failures("u"):
        raise wrapped


def test_rows_of_places_name_what_a_site_means_by_it():
    assert {row.extractor for row in PLACES} == {"youtube", "generic"}
    blocked = utils.ExtractorError(
        "Got HTTP Error 403 caused by Cloudflare anti-bot challenge; try again", ie="generic"
    )
    assert rejection_of(blocked, "https://x.org/").reason is RejectReason.BLOCKED
    assert reason_of(blocked, CLASSES) is RejectReason.UNKNOWN

"""Podcast feeds: what feedparser reads, as recordings."""

from __future__ import annotations

import io
import re
import time
from collections.abc import Iterator
from urllib.parse import urljoin

import feedparser

from triforce.ingest.config import PodcastSource
from triforce.ingest.corpus import Recording, RejectReason, Status, make_recording_id
from triforce.ingest.errors import Rejected
from triforce.ingest.ledger import canonical_url, is_universal

AUDIO_PATH = re.compile(r"\.(mp3|m4a|m4b|aac|ogg|oga|opus|flac|wav)(\?|$)", re.IGNORECASE)
FORBIDDEN_MARKUP = re.compile(rb"<!\s*(ENTITY|ELEMENT|ATTLIST|NOTATION)", re.IGNORECASE)


def parse_feed(body: bytes, url: str, source: PodcastSource, *, base_url: str | None = None) -> Iterator[Recording]:
    """The episodes of a feed in its own order; `Rejected` for what is no feed, or a hostile one.

    ``url`` is the feed's name in ids; ``base_url``, where redirects led, is what relative links are relative to.
    """
    if FORBIDDEN_MARKUP.search(body):
        raise Rejected(RejectReason.BAD_METADATA, f"{url}: the feed declares XML entities; honest feeds need none")
    feed = feedparser.parse(io.BytesIO(body), sanitize_html=False, resolve_relative_uris=False)
    if not feed.get("version") and not feed.entries:
        raise Rejected(
            RejectReason.BAD_METADATA, f"{url}: not a feed ({feed.get('bozo_exception', 'no channel in it')})"
        )
    seen: set[str] = set()
    for entry in feed.entries:
        recording = _episode(entry, feed.feed, url, source, base_url or url)
        if recording and recording.recording_id not in seen:
            seen.add(recording.recording_id)
            yield recording


def _episode(entry, channel, feed_url: str, source: PodcastSource, base_url: str) -> Recording | None:
    """One entry as a recording, None where it has no audio."""
    enclosure = choose_enclosure(entry.get("enclosures", []))
    if enclosure is None:
        return None
    url = urljoin(base_url, enclosure["href"].strip())
    guid = (entry.get("id") or "").strip() or canonical_url(url)
    source_id = guid if is_universal(guid) else f"{feed_url}#{guid}"
    metadata = {key: entry.get(f"itunes_{key}") for key in ("season", "episode", "explicit", "episodetype")}
    metadata |= {
        "feed_url": feed_url,
        "declared_bytes": enclosure.get("length"),
        "declared_type": enclosure.get("type"),
    }
    return Recording(
        recording_id=make_recording_id(source.name, source_id),
        source=source.name,
        source_kind=source.kind,
        source_id=source_id,
        url=url,
        page_url=entry.get("link"),
        title=entry.get("title"),
        author=entry.get("author") or channel.get("author"),
        collection=channel.get("title"),
        published=iso_time(entry.get("published_parsed")),
        licence=first(
            entry.get("rights"), licence_of(entry), source.licence, licence_of(channel), channel.get("rights")
        ),
        language=source.language or language_code(channel.get("language")),
        duration_s=parse_duration(entry.get("itunes_duration")),
        status=Status.DISCOVERED,
        metadata={key: str(value) for key, value in metadata.items() if value not in (None, "")},
    )


def choose_enclosure(enclosures: list[dict]) -> dict | None:
    """The largest audio enclosure by declared length; an unlabelled one counts as audio if its name says so."""
    audio = [
        item
        for item in enclosures
        if item.get("href") and (item.get("type", "").lower().startswith("audio/") or AUDIO_PATH.search(item["href"]))
    ]
    return max(
        audio, key=lambda item: int(item["length"]) if str(item.get("length", "")).isdecimal() else 0, default=None
    )


def licence_of(element) -> str | None:
    """A licence that the feed links or names: Creative Commons and Podcasting 2.0 elements."""
    for key in ("license", "creativecommons_license", "cc_license", "podcast_license"):
        if value := element.get(key):
            return str(value)
    return next(
        (link["href"] for link in element.get("links", []) if link.get("rel") == "license" and link.get("href")), None
    )


def parse_duration(text: str | None) -> float | None:
    """Seconds of an ``itunes:duration``: "3723", "62:03" or "1:02:03"; None for anything else."""
    if not text or not re.fullmatch(r"\d{1,6}(\.\d+)?|\d{1,4}(:\d{1,2}){1,2}(\.\d+)?", text.strip()):
        return None
    seconds = 0.0
    for part in text.strip().split(":"):
        seconds = seconds * 60 + float(part)
    return seconds or None


def language_code(text: str | None) -> str | None:
    """ISO 639 code of a language tag such as "en-GB"."""
    match = re.match(r"[a-zA-Z]{2,3}(?=$|[-_])", text or "")
    return match.group().lower() if match else None


def iso_time(parsed: time.struct_time | None) -> str | None:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", parsed) if parsed else None


def first(*values: str | None) -> str | None:
    return next((value for value in values if value), None)

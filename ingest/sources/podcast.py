"""Podcast feeds and lists of them, as recordings."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import html
import re
from collections.abc import Collection, Iterator

from triforce.ingest.config import PodcastSource
from triforce.ingest.corpus.schema import Recording, RejectReason, Status, make_recording_id
from triforce.ingest.errors import Rejected
from triforce.ingest.fetch.addresses import absolute
from triforce.ingest.ledger import canonical_url, is_universal
from triforce.ingest.sources.feed import FORBIDDEN_MARKUP, Entry, Feed, decode, parse

AUDIO_PATH = re.compile(r"\.(mp3|m4a|m4b|aac|ogg|oga|opus|flac|wav)(\?|$)", re.IGNORECASE)

LOSSLESS = re.compile(r"flac|wav", re.IGNORECASE)

OPML_OUTLINE = re.compile(r"<outline\b[^>]*?\bxmlUrl\s*=\s*(?:\"([^\"]*)\"|'([^']*)')", re.IGNORECASE)


def parse_feed(
    body: bytes, url: str, source: PodcastSource, *, base_url: str | None = None, known: Collection[str] = ()
) -> tuple[list[Recording], str | None]:
    """The episodes of a feed in its own order, and the address of its next page; `Rejected` for what is no feed.

    Episodes whose recording is ``known`` are left out.

    ``url`` is the feed's name in ids; ``base_url``, where redirects led, is what relative links are relative to.
    """

    def is_known(guid: str) -> bool:
        return make_recording_id(source.name, _source_id(guid, url)) in known

    feed = parse(body, base_url or url, is_known=is_known)
    found: dict[str, Recording] = {}
    for entry in feed.entries:
        recording = _episode(entry, feed, url, source, base_url or url)
        if recording and recording.recording_id not in known:
            found.setdefault(recording.recording_id, recording)
    return list(found.values()), feed.next_url


def _episode(entry: Entry, feed: Feed, feed_url: str, source: PodcastSource, base_url: str) -> Recording | None:
    """One entry as a recording, None where it has no audio."""
    enclosure = choose_enclosure(entry.enclosures, language_code(feed.language))
    if enclosure is None:
        return None
    url = absolute(base_url, enclosure["href"])
    source_id = _source_id((entry.guid or "").strip() or canonical_url(url), feed_url)
    transcript = choose_transcript(entry.transcripts)
    metadata = entry.extra | {
        "feed_url": feed_url,
        "declared_bytes": enclosure.get("length"),
        "declared_type": enclosure.get("type"),
        **integrity(enclosure.get("integrity")),
        "persons": "; ".join(entry.persons),
        "transcript_url": absolute(base_url, transcript["url"]) if transcript else None,
        "transcript_type": transcript.get("type") if transcript else None,
    }
    return Recording(
        recording_id=make_recording_id(source.name, source_id),
        source=source.name,
        source_kind=source.kind,
        source_id=source_id,
        url=url,
        page_url=entry.link,
        title=entry.title,
        author=entry.author or feed.author,
        collection=feed.title,
        published=entry.published,
        licence=entry.licence or source.licence or feed.licence,
        language=source.language or language_code(feed.language),
        duration_s=parse_duration(entry.duration),
        status=Status.DISCOVERED,
        metadata={key: str(value) for key, value in metadata.items() if value not in (None, "")},
    )


MAX_GUID_CHARS = 1000
"""Of an id that is kept as it is; honest ones are addresses at most. Assumed."""


def _source_id(guid: str, feed_url: str) -> str:
    if len(guid) > MAX_GUID_CHARS:
        guid = f"sha256:{hashlib.sha256(guid.encode('utf-8', 'replace')).hexdigest()}"
    return guid if is_universal(guid) else f"{feed_url}#{guid}"


def choose_enclosure(enclosures: list[dict[str, str]], language: str | None = None) -> dict[str, str] | None:
    """The best audio among an entry's files: lossless before lossy, then the largest by what the feed declares.

    A file without a type counts as audio if its name says so; one in another ``language`` than the feed's is left
    alone. None where there is no audio.
    """
    audio = [
        item
        for item in enclosures
        if item.get("href")
        and (item.get("type", "").lower().startswith("audio/") or AUDIO_PATH.search(item["href"]))
        and (not item.get("lang") or language in (None, language_code(item["lang"])))
    ]

    def quality(item: dict[str, str]) -> tuple[bool, int]:
        length = item.get("length") or ""
        return bool(LOSSLESS.search(item.get("type", ""))), int(length) if re.fullmatch(r"[0-9]{1,15}", length) else 0

    return max(audio, key=quality, default=None)


def integrity(text: str | None) -> dict[str, str]:
    """The checksum of a ``podcast:integrity`` element, which is written as W3C's Subresource Integrity has it."""
    for kind, value in re.findall(r"(sha(?:256|384|512))-([A-Za-z0-9+/]+=*)", text or ""):
        with contextlib.suppress(ValueError):
            return {f"declared_{kind}": base64.b64decode(value, validate=True).hex()}
    return {}


TRANSCRIPT_TYPES = (
    "text/vtt",
    "application/srt",
    "application/x-subrip",
    "text/srt",
    "application/json",
    "text/html",
    "text/plain",
)
"""Best first: those with times, then those without."""


def choose_transcript(transcripts: list[dict[str, str]]) -> dict[str, str] | None:
    def rank(item: dict[str, str]) -> int:
        kind = item.get("type", "").split(";")[0].strip().lower()
        return TRANSCRIPT_TYPES.index(kind) if kind in TRANSCRIPT_TYPES else len(TRANSCRIPT_TYPES)

    return min(transcripts, key=rank, default=None)


def parse_opml(body: bytes, url: str) -> Iterator[str]:
    """The addresses of the feeds that an OPML list names, in its order, each once."""
    text = decode(body, url)
    if FORBIDDEN_MARKUP.search(text) or not re.search(r"<opml\b", text, re.IGNORECASE):
        raise Rejected(RejectReason.BAD_METADATA, f"{url}: not an OPML list of feeds")
    found = (html.unescape(match[0] or match[1]).strip() for match in OPML_OUTLINE.findall(text))
    yield from dict.fromkeys(absolute(url, address) for address in found if address)


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

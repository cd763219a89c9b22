"""Podcasts: RSS and Atom feeds, and OPML lists of feeds, read as recordings."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import html
import re
from collections.abc import Collection, Iterator

from triforce.ingest import storage
from triforce.ingest.config import PodcastSource
from triforce.ingest.corpus.records import Recording, RejectReason, Status, make_recording_id
from triforce.ingest.errors import Rejected
from triforce.ingest.fetch.addresses import absolute
from triforce.ingest.fetch.web import get_document
from triforce.ingest.ledger import canonical_url, is_universal
from triforce.ingest.sources.base import SourceKind
from triforce.ingest.sources.feed import FORBIDDEN_MARKUP, Entry, Feed, decode, parse
from triforce.ingest.sources.fields import language_code, parse_duration
from triforce.ingest.sources.pages import Pages

AUDIO_PATH = re.compile(r"\.(mp3|m4a|m4b|aac|ogg|oga|opus|flac|wav)(\?|$)", re.IGNORECASE)

LOSSLESS = re.compile(r"flac|wav", re.IGNORECASE)

OPML_OUTLINE = re.compile(r"<outline\b[^>]*?\bxmlUrl\s*=\s*(?:\"([^\"]*)\"|'([^']*)')", re.IGNORECASE)


class Podcast(SourceKind[PodcastSource]):
    """Feeds named one by one or in an OPML list, each with its older pages (RFC 5005)."""

    def listings(self, pages: Pages) -> Iterator[Iterator[Recording]]:
        for url in dict.fromkeys([*self.config.feeds, *self._opml_feeds(pages)]):
            yield self._episodes(url, pages)

    @property
    def wants_transcripts(self) -> bool:
        return self.config.transcripts

    def _opml_feeds(self, pages: Pages) -> list[str]:
        opml = self.config.opml
        if not opml:
            return []
        try:
            if opml.startswith(("http://", "https://")):
                document = get_document(opml, self.settings)
                return list(parse_opml(document.body or b"", document.url))
            return list(parse_opml(_read_local(opml), opml))
        except Rejected as rejection:
            pages.report(rejection)
            return []

    def _episodes(self, url: str, pages: Pages) -> Iterator[Recording]:
        """Yield a feed's episodes, page by page as far back as there is something new or a page never read."""
        page: str | None = url
        seen: set[str] = set()
        while page and page not in seen and len(seen) < self.config.max_pages:
            seen.add(page)
            document = pages.read(page)
            if document.body is None:
                page, is_new = pages.note_of(page).get("next"), False
            else:
                found, next_page = parse_feed(document.body, url, self.config, base_url=document.url, known=pages.known)
                pages.remember(page, document, next=next_page)
                yield from found
                page, is_new = next_page, bool(found)
            if page and not is_new and pages.note_of(page):
                return


def _read_local(path: str) -> bytes:
    try:
        return storage.read_bytes(path)
    except OSError as error:
        raise Rejected(RejectReason.NOT_FOUND, f"{path}: {error.strerror or error}") from error


def parse_feed(
    body: bytes, url: str, source: PodcastSource, *, base_url: str | None = None, known: Collection[str] = ()
) -> tuple[list[Recording], str | None]:
    """Return the episodes of a feed in its own order, and the address of its next page; `Rejected` if it is no feed.

    Episodes whose recording is ``known`` are left out. ``url`` is the feed's name in ids; ``base_url``, where redirects
    led, is what relative links are relative to.
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
    """Return an entry as a recording, None where it has no audio."""
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
"""Longest id that is kept as it is; honest ones are addresses at most. Assumed."""


def _source_id(guid: str, feed_url: str) -> str:
    if len(guid) > MAX_GUID_CHARS:
        guid = f"sha256:{hashlib.sha256(guid.encode('utf-8', 'replace')).hexdigest()}"
    return guid if is_universal(guid) else f"{feed_url}#{guid}"


def choose_enclosure(enclosures: list[dict[str, str]], language: str | None = None) -> dict[str, str] | None:
    """Return the best audio of an entry's files: lossless before lossy, then the largest by what the feed declares.

    A file without a type counts as audio if its name says so; one in another ``language`` than the feed's is left out.
    None where there is no audio.
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
    """Return the checksum of a ``podcast:integrity`` element, written as in W3C's Subresource Integrity."""
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
"""Types of transcripts, best first: those with times, then those without."""


def choose_transcript(transcripts: list[dict[str, str]]) -> dict[str, str] | None:
    """Return the best of an entry's transcripts by `TRANSCRIPT_TYPES`, None where there is none."""

    def rank(item: dict[str, str]) -> int:
        kind = item.get("type", "").split(";")[0].strip().lower()
        return TRANSCRIPT_TYPES.index(kind) if kind in TRANSCRIPT_TYPES else len(TRANSCRIPT_TYPES)

    return min(transcripts, key=rank, default=None)


def parse_opml(body: bytes, url: str) -> Iterator[str]:
    """Yield the addresses of the feeds that an OPML list names, in its order, each once."""
    text = decode(body, url)
    if FORBIDDEN_MARKUP.search(text) or not re.search(r"<opml\b", text, re.IGNORECASE):
        raise Rejected(RejectReason.BAD_METADATA, f"{url}: not an OPML list of feeds")
    found = (html.unescape(match[0] or match[1]).strip() for match in OPML_OUTLINE.findall(text))
    yield from dict.fromkeys(absolute(url, address) for address in found if address)

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
from triforce.ingest.sources.feed import Entry, Feed, parse
from triforce.ingest.sources.fields import language_code, parse_duration
from triforce.ingest.sources.pages import Pages
from triforce.ingest.sources.xml_text import decode, without_doctype

AUDIO_PATH = re.compile(
    r"\.(mp[23a]|mpga|m4[abr]|aac|og[ga]|opus|flac|wave?|aiff?|wma|mka|amr|spx)([?#]|$)", re.IGNORECASE
)
VIDEO_PATH = re.compile(r"\.(mp4|m4v|mov|webm|mkv|avi|mpe?g|ogv|wmv|3gp|m3u8)([?#]|$)", re.IGNORECASE)
OTHER_PATH = re.compile(
    r"\.(jpe?g|png|gif|webp|svg|pdf|epub|mobi|zip|torrent|html?|txt|vtt|srt|json|xml|docx?|pptx?)([?#]|$)",
    re.IGNORECASE,
)
OTHER_TYPE = re.compile(r"(image|text|font|message|model)/|application/(pdf|zip|epub|x-bittorrent|json|xml|msword|vnd)")

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
                return list(parse_opml(document.body or b"", document.url, charset=document.charset))
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
                place = {"base_url": document.url, "charset": document.charset}
                found, next_page = parse_feed(document.body, url, self.config, known=pages.known, **place)
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
    body: bytes,
    url: str,
    source: PodcastSource,
    *,
    base_url: str | None = None,
    charset: str | None = None,
    known: Collection[str] = (),
) -> tuple[list[Recording], str | None]:
    """Return the episodes of a feed in its own order, and the address of its next page; `Rejected` if it is no feed.

    Episodes whose recording is ``known`` are left out. ``url`` is the feed's name in ids; ``base_url``, where redirects
    led, is what relative links are relative to, and ``charset`` what the server said of the encoding.
    """

    def is_known(guid: str) -> bool:
        return make_recording_id(source.name, _source_id(guid, url)) in known

    feed = parse(body, base_url or url, charset=charset, is_known=is_known)
    episodes = [
        (entry, best) for entry in feed.entries if (best := choose_enclosure(entry.enclosures, language_of(feed)))
    ]
    places: dict[str, set[str]] = {}
    for entry, enclosure in episodes:
        places.setdefault((entry.guid or "").strip(), set()).add(canonical_url(enclosure["href"]))
    found: dict[str, Recording] = {}
    for entry, enclosure in episodes:
        guid = (entry.guid or "").strip()
        is_shared = len(places[guid]) > 1  # a guid that is no guid: each of its entries is known by its address too
        recording = _episode(entry, enclosure, feed, url, source, is_shared=is_shared)
        if recording.recording_id not in known:
            found.setdefault(recording.recording_id, recording)
    return list(found.values()), feed.next_url


def language_of(feed: Feed) -> str | None:
    """Return the ISO 639 code of a feed's language."""
    return language_code(feed.language)


def _episode(
    entry: Entry, enclosure: dict[str, str], feed: Feed, feed_url: str, source: PodcastSource, *, is_shared: bool
) -> Recording:
    """Return an entry as a recording. One without a guid of its own is known by the address and the date."""
    url, guid = enclosure["href"], (entry.guid or "").strip()
    if not guid:
        guid = " ".join(filter(None, (canonical_url(url), entry.published)))
    elif is_shared:
        guid = f"{guid} {canonical_url(url)}"
    source_id = _source_id(guid, feed_url)
    language = source.language or language_of(feed)
    transcript = choose_transcript(entry.transcripts, language)
    metadata = entry.extra | {
        "feed_url": feed_url,
        "declared_bytes": enclosure.get("length"),
        "declared_type": enclosure.get("type"),
        **integrity(enclosure.get("integrity")),
        "persons": "; ".join(entry.persons),
        "transcript_url": transcript["url"] if transcript else None,
        "transcript_type": transcript.get("type") if transcript else None,
        "transcript_language": language_code(transcript.get("language")) if transcript else None,
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
        language=language,
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
    """Return the best of an entry's files: audio, then what does not say what it is, then video, of which the sound is
    taken; of those lossless before lossy, then the largest by what the feed declares.

    Types are often wrong, so a name that says audio is believed too. One in another ``language`` than the feed's is
    left out. None where there is nothing that a client would play.
    """
    spoken = [item for item in enclosures if not item.get("lang") or language in (None, language_code(item["lang"]))]

    def quality(item: dict[str, str]) -> tuple[int, bool, int]:
        length = item.get("length") or ""
        size = int(length) if re.fullmatch(r"[0-9]{1,15}", length) else 0
        return _rank(item), bool(LOSSLESS.search(item.get("type", ""))), size

    return max((item for item in spoken if _rank(item)), key=quality, default=None)


def _rank(item: dict[str, str]) -> int:
    """Return 3 for audio, 2 for what does not say what it is, 1 for video, 0 for anything else."""
    href, kind = item.get("href") or "", item.get("type", "").strip().lower()
    if not href:
        return 0
    if kind.startswith("audio") or AUDIO_PATH.search(href):
        return 3
    if kind.startswith("video") or VIDEO_PATH.search(href):
        return 1
    return 0 if OTHER_TYPE.match(kind) or OTHER_PATH.search(href) else 2


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


def choose_transcript(transcripts: list[dict[str, str]], language: str | None = None) -> dict[str, str] | None:
    """Return the best of an entry's transcripts, None where there is none: one in the episode's ``language`` before one
    that states none and then others, and of these the best by `TRANSCRIPT_TYPES`."""

    def rank(item: dict[str, str]) -> tuple[int, int]:
        kind = item.get("type", "").split(";")[0].strip().lower()
        stated = language_code(item.get("language"))
        distance = 1 if stated is None or language is None else 2 * (stated != language)
        return distance, TRANSCRIPT_TYPES.index(kind) if kind in TRANSCRIPT_TYPES else len(TRANSCRIPT_TYPES)

    return min(transcripts, key=rank, default=None)


def parse_opml(body: bytes, url: str, *, charset: str | None = None) -> Iterator[str]:
    """Yield the addresses of the feeds that an OPML list names, in its order, each once."""
    text = without_doctype(decode(body, charset), url)
    if not re.search(r"<opml\b", text, re.IGNORECASE):
        raise Rejected(RejectReason.BAD_METADATA, f"{url}: not an OPML list of feeds")
    found = (html.unescape(match[0] or match[1]).strip() for match in OPML_OUTLINE.findall(text))
    yield from dict.fromkeys(absolute(url, address) for address in found if address)

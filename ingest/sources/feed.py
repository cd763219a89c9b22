"""RSS 2.0 and Atom, from bytes to plain entries.

Well-formed feeds are read by a streaming XML parser, which takes a tenth of feedparser's time and keeps every
Podcasting 2.0 element. Those that are not well-formed go to feedparser, which repairs what it can.
"""

from __future__ import annotations

import datetime
import functools
import io
import re
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime

import feedparser

from triforce.ingest.corpus.records import RejectReason
from triforce.ingest.errors import Rejected
from triforce.ingest.fetch.addresses import absolute

MAX_DEPTH = 64
"""Deepest nesting of elements; honest feeds stay below 10. Assumed."""

FORBIDDEN_MARKUP = re.compile(r"<!\s*(ENTITY|ELEMENT|ATTLIST|NOTATION)", re.IGNORECASE)
DECLARATION = re.compile(rb"^\s*<\?xml[^>]*?encoding\s*=\s*[\"']([A-Za-z0-9._-]{1,40})[\"'][^>]*\?>")
ENCODINGS = re.compile(
    r"(utf-?8|us-ascii|ascii|iso-?8859-?\d+|latin-?\d|windows-\d+|cp125\d|koi8-[ru]|gb\w+|big5|shift.?jis|euc-\w+)"
)

CHANNELS, ITEMS = ("channel", "feed", "atom:feed"), ("item", "entry", "atom:entry")

NAMESPACES = {
    "http://www.itunes.com/dtds/podcast-1.0.dtd": "itunes",
    "https://podcastindex.org/namespace/1.0": "podcast",
    "https://github.com/podcastindex-org/podcast-namespace/blob/main/docs/1.0.md": "podcast",
    "http://www.w3.org/2005/atom": "atom",
    "http://purl.org/dc/elements/1.1/": "dc",
    "http://backend.userland.com/creativecommonsrssmodule": "cc",
    "http://web.resource.org/cc/": "cc",
    "http://search.yahoo.com/mrss/": "media",
    "http://purl.org/rss/1.0/": "",
    "": "",
}


@dataclass
class Entry:
    """One item of a feed, as its author wrote it, unchecked."""

    guid: str | None = None
    title: str | None = None
    link: str | None = None
    author: str | None = None
    published: str | None = None
    """Date in ISO 8601, None where it cannot be read."""
    duration: str | None = None
    licence: str | None = None
    enclosures: list[dict[str, str]] = field(default_factory=list)
    """Dicts of ``href``, ``type``, ``length``; of a podcast:alternateEnclosure also ``lang`` and ``integrity``."""
    transcripts: list[dict[str, str]] = field(default_factory=list)
    """Dicts of ``url``, ``type``, ``language``, ``rel``."""
    persons: list[str] = field(default_factory=list)
    extra: dict[str, str] = field(default_factory=dict)
    """Other elements, by the keys season, episode, episode_type, explicit, chapters_url."""


@dataclass
class Feed:
    """A channel. With paged feeds (RFC 5005) ``next_url`` leads to older entries."""

    title: str | None = None
    author: str | None = None
    language: str | None = None
    licence: str | None = None
    next_url: str | None = None
    entries: list[Entry] = field(default_factory=list)


def parse(body: bytes, url: str, *, is_known: Callable[[str], bool] = lambda _: False) -> Feed:
    """Return the feed in ``body``; `Rejected` for what is no feed, or is hostile.

    Relative links are relative to ``url``. Of a well-formed feed, entries whose guid ``is_known`` are left out unread:
    a feed that grew by one episode repeats thousands.
    """
    text = decode(body, url)
    if FORBIDDEN_MARKUP.search(text):
        raise Rejected(RejectReason.BAD_METADATA, f"{url}: the feed declares XML entities; honest feeds need none")
    try:
        return _parse_strictly(text, url, is_known)
    except ET.ParseError as error:
        return _parse_leniently(text, url, error)


def decode(body: bytes, url: str) -> str:
    """Return XML as text. Its encoding must have markup in plain ASCII, or a byte order mark, so that none hides."""
    for mark, encoding in ((b"\xef\xbb\xbf", "utf-8-sig"), (b"\xff\xfe", "utf-16"), (b"\xfe\xff", "utf-16")):
        if body.startswith(mark):
            return _drop_declaration(body.decode(encoding, "replace"))
    match = DECLARATION.match(body[:500])
    encoding = match.group(1).decode().lower() if match else "utf-8"
    if not ENCODINGS.fullmatch(encoding) or b"\x00" in body[:500]:
        raise Rejected(
            RejectReason.BAD_METADATA, f"{url}: encoding {encoding!r} is not taken; feeds are UTF-8 or a common charset"
        )
    try:
        return _drop_declaration(body.decode(encoding, "replace"))
    except LookupError as error:
        raise Rejected(RejectReason.BAD_METADATA, f"{url}: encoding {encoding!r} is unknown") from error


def _drop_declaration(text: str) -> str:
    return re.sub(r"^\s*<\?xml[^>]*\?>", "", text, count=1)


def _parse_strictly(text: str, url: str, is_known: Callable[[str], bool]) -> Feed:
    """Parse a well-formed feed. Entries are read and freed one by one, so memory holds one of them at a time."""
    body = io.BytesIO(text.lstrip().encode("utf-8", "replace"))
    # The encoding is named, not detected: bytes that look like UTF-16 would hide markup from the check on the text.
    events = ET.iterparse(body, ("start", "end"), ET.XMLParser(encoding="utf-8"))
    feed, path, is_feed = Feed(), [], False
    for event, element in events:
        if event == "start":
            path.append(element)
            is_feed |= len(path) <= 2 and _name(element.tag) in CHANNELS
            if len(path) > MAX_DEPTH:
                raise Rejected(
                    RejectReason.BAD_METADATA, f"{url}: elements lie {MAX_DEPTH} deep in one another; no feed is so"
                )
        else:
            path.pop()
            if 0 < len(path) <= 2:  # deeper ones are inside an entry, and read along with it
                _take(element, path[-1], feed, url, is_known)
    if not is_feed:
        raise Rejected(RejectReason.BAD_METADATA, f"{url}: XML, and no feed: it has no channel")
    return feed


def _take(element: ET.Element, parent: ET.Element, feed: Feed, url: str, is_known: Callable[[str], bool]) -> None:
    """Read an element of a channel into ``feed`` and free it."""
    name = _name(element.tag)
    if name in ITEMS:
        if not ((guid := _guid(element)) and is_known(guid)):
            feed.entries.append(_entry(element, url))
    elif _name(parent.tag) in CHANNELS:
        _channel_element(feed, name, element, url)
    else:
        return
    parent.remove(element)


def _enclose(entry: Entry, element: ET.Element, href: str, length: str) -> None:
    names = {"href": href, "type": "type", "length": length}
    entry.enclosures.append({key: element.get(name, "") for key, name in names.items()})


@functools.lru_cache(maxsize=1024)
def _name(tag: str) -> str:
    """Return ``itunes:duration`` for an element's tag, in lower case, whatever prefix the feed uses."""
    namespace, _, local = tag.rpartition("}")
    prefix = NAMESPACES.get(namespace.lstrip("{").lower(), "other")
    return f"{prefix}:{local}".lower().lstrip(":")


def _text(element: ET.Element) -> str | None:
    return "".join(element.itertext()).strip() or None


def _channel_element(feed: Feed, name: str, element: ET.Element, url: str) -> None:
    if name in ("title", "atom:title"):
        feed.title = feed.title or _text(element)
    elif name in ("itunes:author", "managingeditor", "dc:creator", "atom:author"):
        feed.author = feed.author or _text(element)
    elif name in ("language", "dc:language"):
        feed.language = feed.language or _text(element)
    elif licence := _licence(name, element):
        feed.licence = feed.licence or licence
    elif name == "atom:link" and element.get("rel") in ("next", "prev-archive") and element.get("href"):
        feed.next_url = feed.next_url or absolute(url, element.get("href"))


def _licence(name: str, element: ET.Element) -> str | None:
    if name == "podcast:license":
        return _text(element) or element.get("url")
    if name in ("cc:license", "license"):
        return (
            _text(element)
            or element.get("resource")
            or element.get("{http://www.w3.org/1999/02/22-rdf-syntax-ns#}resource")
        )
    if name == "atom:link" and element.get("rel") == "license":
        return element.get("href")
    return _text(element) if name in ("copyright", "atom:rights", "dc:rights") else None


SIMPLE = {
    "guid": "guid",
    "atom:id": "guid",
    "title": "title",
    "atom:title": "title",
    "itunes:author": "author",
    "dc:creator": "author",
    "author": "author",
    "atom:author": "author",
    "itunes:duration": "duration",
}

EXTRA = {
    "itunes:season": "season",
    "itunes:episode": "episode",
    "itunes:episodetype": "episode_type",
    "itunes:explicit": "explicit",
    "podcast:season": "season",
    "podcast:episode": "episode",
}


def _guid(item: ET.Element) -> str | None:
    return next((text for child in item if SIMPLE.get(_name(child.tag)) == "guid" and (text := _text(child))), None)


def _entry(item: ET.Element, url: str) -> Entry:
    entry = Entry()
    for element in item:
        name = _name(element.tag)
        if name in SIMPLE:
            setattr(entry, SIMPLE[name], getattr(entry, SIMPLE[name]) or _text(element))
        elif name in EXTRA:
            entry.extra.setdefault(EXTRA[name], (_text(element) or "")[:200])
        elif name in ("pubdate", "atom:published", "dc:date", "atom:updated"):
            entry.published = entry.published or iso_time(_text(element))
        elif licence := _licence(name, element):
            entry.licence = entry.licence or licence
        else:
            _linked(entry, name, element, url)
    return entry


def _linked(entry: Entry, name: str, element: ET.Element, url: str) -> None:
    """Read an element that holds an address."""
    if name == "enclosure" and element.get("url"):
        _enclose(entry, element, "url", "length")
    elif name == "media:content" and element.get("url") and element.get("medium", "audio") == "audio":
        _enclose(entry, element, "url", "filesize")
    elif name == "podcast:alternateenclosure":
        _alternate(entry, element, url)
    elif name == "atom:link" and element.get("rel") == "enclosure" and element.get("href"):
        _enclose(entry, element, "href", "length")
    elif name == "link" or (name == "atom:link" and element.get("rel", "alternate") == "alternate"):
        target = element.get("href") or _text(element)
        entry.link = entry.link or (absolute(url, target) if target else None)
    elif name == "podcast:transcript" and element.get("url"):
        entry.transcripts.append(
            {key: element.get(key) for key in ("url", "type", "language", "rel") if element.get(key)}
        )
    elif name == "podcast:chapters" and element.get("url"):
        entry.extra.setdefault("chapters_url", absolute(url, element.get("url")))
    elif name == "podcast:person" and (person := _text(element)):
        entry.persons.append(f"{person} ({element.get('role')})" if element.get("role") else person)


def _alternate(entry: Entry, element: ET.Element, url: str) -> None:
    """Read the same episode in another format, at one or several addresses, with a checksum if there is one."""
    shared = {key: element.get(key, "") for key in ("type", "length", "lang")}
    places = []
    for child in element:
        if _name(child.tag) == "podcast:source" and child.get("uri"):
            places.append(absolute(url, child.get("uri")))
        elif _name(child.tag) == "podcast:integrity" and child.get("type") == "sri":
            shared["integrity"] = child.get("value", "")
    on_the_web = (place for place in places if place.startswith(("http://", "https://")))
    entry.enclosures.extend({"href": place} | shared for place in on_the_web)


def iso_time(text: str | None) -> str | None:
    """Return a time in RFC 822 or ISO 8601 as ISO 8601 in UTC; None for anything else."""
    if not text:
        return None
    for read in (parsedate_to_datetime, datetime.datetime.fromisoformat):
        try:
            return read(text.strip()).astimezone(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        except (TypeError, ValueError, OverflowError, IndexError, OSError):
            continue
    return None


def _parse_leniently(text: str, url: str, error: ET.ParseError) -> Feed:
    """Parse a feed that is not well-formed, with feedparser."""
    found = feedparser.parse(
        io.BytesIO(text.encode("utf-8", "replace")),
        sanitize_html=False,
        resolve_relative_uris=False,
        response_headers={"content-type": "application/xml; charset=utf-8"},
    )
    if not found.get("version") and not found.entries:
        raise Rejected(RejectReason.BAD_METADATA, f"{url}: not a feed ({error})")
    channel = found.feed
    links = {link.get("rel"): link.get("href") for link in channel.get("links", [])}
    next_url = links.get("next") or links.get("prev-archive")
    return Feed(
        title=channel.get("title"),
        author=channel.get("author"),
        language=channel.get("language"),
        licence=_lenient_licence(channel),
        next_url=absolute(url, next_url) if next_url else None,
        entries=list(_lenient_entries(found.entries, url)),
    )


def _lenient_entries(entries: list, url: str) -> Iterator[Entry]:
    for item in entries:
        transcript, person = item.get("podcast_transcript"), item.get("podcast_person")
        extra = {
            key: item.get(f"itunes_{name}")
            for key, name in (("season", "season"), ("episode", "episode"), ("explicit", "explicit"))
        }
        yield Entry(
            guid=item.get("id"),
            title=item.get("title"),
            link=absolute(url, item["link"]) if item.get("link") else None,
            author=item.get("author"),
            published=iso_time(item.get("published") or item.get("updated")),
            duration=item.get("itunes_duration"),
            licence=_lenient_licence(item),
            enclosures=[{key: str(value) for key, value in row.items()} for row in item.get("enclosures", [])],
            transcripts=[dict(transcript)] if isinstance(transcript, dict) and transcript.get("url") else [],
            persons=[person] if isinstance(person, str) else [],
            extra={key: str(value) for key, value in extra.items() if value is not None},
        )


def _lenient_licence(element) -> str | None:
    for key in ("podcast_license", "creativecommons_license", "license", "rights"):
        value = element.get(key)
        if value:
            return value.get("url") if isinstance(value, dict) else str(value)
    return next((link.get("href") for link in element.get("links", []) if link.get("rel") == "license"), None)

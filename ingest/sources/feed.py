"""RSS, RDF and Atom, from bytes to plain entries.

Feeds are read by a streaming XML parser, which takes a quarter of feedparser's time, keeps every Podcasting 2.0 element
and the place of each. One that is not well-formed is mended and read again; where that does not help, feedparser reads
what it can. tests/ingest/sources/test_feed_variety.py holds both to the same enclosures over generated feeds.
"""

from __future__ import annotations

import io
import re
import xml.etree.ElementTree as ET
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

import feedparser

from triforce.ingest.corpus.records import RejectReason
from triforce.ingest.errors import Rejected
from triforce.ingest.fetch.addresses import absolute
from triforce.ingest.sources.fields import iso_time
from triforce.ingest.sources.xml_text import decode, mended, without_doctype

MAX_DEPTH = 64
"""Deepest nesting of elements; honest feeds stay below 10. Assumed."""

CHANNELS, ITEMS = ("channel", "feed"), ("item", "entry")
ROOTS = (*CHANNELS, "rss", "rdf:rdf", "rdf")

NAMESPACES = {
    "itunes": "http://www.itunes.com/dtds/podcast-1.0.dtd",
    "podcast": "https://podcastindex.org/namespace/1.0",
    "googleplay": "http://www.google.com/schemas/play-podcasts/1.0",
    "dc": "http://purl.org/dc/elements/1.1/",
    "dcterms": "http://purl.org/dc/terms/",
    "cc": "http://web.resource.org/cc/",
    "media": "http://search.yahoo.com/mrss/",
    "rdf": "http://www.w3.org/1999/02/22-rdf-syntax-ns#",
    "atom": "http://www.w3.org/2005/Atom",
}
"""Namespaces by the prefixes that names have below."""

PREFIXES = {uri.rstrip("/").lower(): prefix for prefix, uri in NAMESPACES.items()} | {
    "http://example.com/dtds/podcast-1.0.dtd": "itunes",
    "https://github.com/podcastindex-org/podcast-namespace/blob/main/docs/1.0.md": "podcast",
    "http://backend.userland.com/creativecommonsrssmodule": "cc",
    "http://cyber.law.harvard.edu/rss/creativecommonsrssmodule.html": "cc",
    **dict.fromkeys(
        (
            *("", "http://www.w3.org/2005/atom", "http://purl.org/atom/ns#", "http://purl.org/rss/1.0"),
            *("http://backend.userland.com/rss", "http://backend.userland.com/rss2"),
            *("http://blogs.law.harvard.edu/tech/rss", "http://cyber.law.harvard.edu/rss/rss.html"),
            *("http://my.netscape.com/rdf/simple/0.9", "http://purl.org/rss/1.0/modules/rss091#"),
        ),
        "",
    ),
}
"""Prefixes by namespaces in lower case. RSS and Atom have none: feeds mix them, as their names do not clash."""

XML = "{http://www.w3.org/XML/1998/namespace}"


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


def parse(
    body: bytes, url: str, *, charset: str | None = None, is_known: Callable[[str], bool] = lambda _: False
) -> Feed:
    """Return the feed in ``body``; `Rejected` for what is no feed.

    Relative links are relative to ``url``; ``charset`` is what the server's header says. Entries whose guid
    ``is_known`` are left out unread, as a feed that grew by one episode repeats thousands, unless the feed has several
    with that guid.
    """
    text = without_doctype(decode(body, charset), url)
    try:
        return _parse_strictly(text, url, is_known)
    except ET.ParseError:
        text = mended(text, NAMESPACES)
    try:
        return _parse_strictly(text, url, is_known)
    except ET.ParseError as error:
        return _parse_leniently(text, url, error)


def _parse_strictly(text: str, url: str, is_known: Callable[[str], bool]) -> Feed:
    reader = _Reader(url, is_known)
    feed = reader.read(text)
    if shared := {guid for guid, count in reader.guids.items() if count > 1 and is_known(guid)}:
        return _Reader(url, lambda guid: guid not in shared and is_known(guid)).read(text)
    return feed


class _Reader:
    """Reads a well-formed feed. Entries are read and freed one by one, so memory holds one of them at a time."""

    def __init__(self, url: str, is_known: Callable[[str], bool]):
        self._url, self._is_known = url, is_known
        self._feed, self._best = Feed(), _Best()
        self._names: dict[str, str] = {}
        self._given: dict[str, str] = {}
        self.guids: Counter[str] = Counter()

    def read(self, text: str) -> Feed:
        # The encoding is named, not detected: bytes that look like UTF-16 would be read as other text than was checked.
        body = io.BytesIO(text.encode("utf-8", "replace"))
        path: list[ET.Element] = []
        item_depth = 0  # of the entry that is being read, 0 outside of one
        for event, found in ET.iterparse(body, ("start", "end", "start-ns"), ET.XMLParser(encoding="utf-8")):
            if event == "start-ns":
                self._given.setdefault(found[1], found[0] or "")
            elif event == "start":
                path.append(found)
                if not item_depth and self._name(found) in ITEMS:
                    item_depth = len(path)
                if len(path) > MAX_DEPTH:
                    detail = f"elements lie {MAX_DEPTH} deep in one another; no feed is so"
                    raise Rejected(RejectReason.BAD_METADATA, f"{self._url}: {detail}")
            else:
                path.pop()
                if len(path) < (item_depth or MAX_DEPTH) and path:  # what lies in an entry is read along with it
                    self._end(found, path)
                    item_depth = 0
        if self._name(found) not in ROOTS and not self._feed.entries:
            raise Rejected(RejectReason.BAD_METADATA, f"{self._url}: XML, and no feed: it has no channel")
        for name in ("title", "author", "language", "licence"):
            setattr(self._feed, name, self._best.get(name))
        self._feed.language = self._feed.language or found.get(f"{XML}lang")
        return self._feed

    def _end(self, element: ET.Element, path: list[ET.Element]) -> None:
        """Read an entry, or an element of a channel, and free it."""
        name = self._name(element)
        if name in ITEMS:
            guid = _guid((self._name(child), child) for child in element)
            if guid:
                self.guids[guid] += 1
            if not (guid and self._is_known(guid)):
                self._feed.entries.append(self._entry(element, self._base([*path, element])))
        elif self._name(path[-1]) in CHANNELS:
            self._channel_element(name, element, self._base(path))
        elif name not in CHANNELS:
            return
        path[-1].remove(element)

    def _name(self, element: ET.Element) -> str:
        """Return ``itunes:duration`` for an element, in lower case, by its namespace; by the feed's own prefix where
        nobody knows the namespace, as feedparser does."""
        if (name := self._names.get(element.tag)) is None:
            namespace, _, local = element.tag.rpartition("}")
            namespace = namespace.lstrip("{")
            plain = re.sub(r"^https?://", "", namespace.lower().rstrip("/"))
            known = (prefix for uri, prefix in PREFIXES.items() if re.sub(r"^https?://", "", uri) == plain)
            prefix = next(known, self._given.get(namespace, "")).lower().removeprefix("atom")
            name = self._names[element.tag] = f"{prefix}:{local}".lower().lstrip(":")
        return name

    def _base(self, path: list[ET.Element]) -> str:
        """Return what relative links in the last element of ``path`` are relative to (XML Base)."""
        base = self._url
        for element in path:
            if given := element.get(f"{XML}base"):
                base = absolute(base, given)
        return base

    def _channel_element(self, name: str, element: ET.Element, base: str) -> None:
        if name in CHANNEL:
            key, rank = CHANNEL[name]
            self._best.offer(key, rank, READ.get(key, _text)(element))
        self._best.offer("licence", 0, _licence(name, element))
        relation, href = (_attribute(element, "rel") or "").lower(), _attribute(element, "href")
        if name == "link" and relation in ("next", "prev-archive") and href:
            self._feed.next_url = self._feed.next_url or absolute(base, href)

    def _entry(self, item: ET.Element, base: str) -> Entry:
        entry, best, authors = Entry(), _Best(), []
        children = [(self._name(child), child) for child in item]
        for name, element in children:
            if name in ENTRY:
                key, rank = ENTRY[name]
                best.offer(key, rank, READ.get(key, _text)(element))
            if name == "author" and len(element):
                authors.append(_author(element))
            elif name in EXTRA:
                entry.extra.setdefault(EXTRA[name], (_text(element) or "")[:200])
            elif name == "media:group":
                children += [(self._name(child), child) for child in element]
            best.offer("licence", 0, _licence(name, element))
            if name in LINKED or name.endswith("enclosure"):
                self._linked(entry, name, element, base)
        for key in ("guid", "title", "author", "published", "duration", "licence"):
            setattr(entry, key, best.get(key))
        if len(authors) > 1 and entry.author == authors[0]:
            entry.author = "; ".join(dict.fromkeys(filter(None, authors)))
        return entry

    def _linked(self, entry: Entry, name: str, element: ET.Element, base: str) -> None:
        """Read an element that holds an address."""
        if given := element.get(f"{XML}base"):
            base = absolute(base, given)
        relation = (_attribute(element, "rel") or "alternate").lower().rpartition("/")[2]
        address = _attribute(element, "url", "href", "uri", "resource")
        if name.rpartition(":")[2] == "enclosure" or (name == "link" and relation == "enclosure"):
            _enclose(entry, element, base, address, "length")
        elif name == "media:content" and (_attribute(element, "medium") or "audio").lower() in ("audio", "video"):
            _enclose(entry, element, base, address, "filesize")
        elif name == "podcast:alternateenclosure":
            self._alternate(entry, element, base)
        elif name == "link" and relation == "alternate":
            target = address or _text(element)
            entry.link = entry.link or (absolute(base, target) if target else None)
        elif name == "podcast:transcript" and address:
            shared = {key: value for key in ("type", "language", "rel") if (value := _attribute(element, key))}
            entry.transcripts.append({"url": absolute(base, address)} | shared)
        elif name == "podcast:chapters" and address:
            entry.extra.setdefault("chapters_url", absolute(base, address))
        elif name == "podcast:person" and (person := _text(element)):
            role = _attribute(element, "role")
            entry.persons.append(f"{person} ({role})" if role else person)

    def _alternate(self, entry: Entry, element: ET.Element, base: str) -> None:
        """Read the same episode in another format, at one or several addresses, with a checksum if there is one."""
        shared = {key: _attribute(element, key) or "" for key in ("type", "length", "lang")}
        places = []
        for child in element:
            name, uri = self._name(child), _attribute(child, "uri", "url")
            if name == "podcast:source" and uri:
                places.append(absolute(base, uri))
            elif name == "podcast:integrity" and _attribute(child, "type") == "sri":
                shared["integrity"] = _attribute(child, "value") or ""
        on_the_web = (place for place in places if place.startswith(("http://", "https://")))
        entry.enclosures.extend({"href": place} | shared for place in on_the_web)


def _ranked(**names: str) -> dict[str, tuple[str, int]]:
    """Return key and rank by name, for elements of one meaning by key, best first."""
    return {name: (key, rank) for key, some in names.items() for rank, name in enumerate(some.split())}


CHANNEL = _ranked(
    title="title itunes:title dc:title",
    author="itunes:author author dc:creator googleplay:author managingeditor itunes:owner",
    language="language dc:language",
)
ENTRY = _ranked(
    guid="guid id",
    title="title itunes:title dc:title media:title",
    author="itunes:author dc:creator author googleplay:author",
    published="published pubdate dcterms:issued issued dc:date dcterms:created created updated modified",
    duration="itunes:duration duration",
)
"""What the elements of a channel and of an entry mean. Of one meaning the best counts, whatever its place."""

LINKED = ("link", "media:content", "podcast:transcript", "podcast:chapters", "podcast:person")
"""Elements of an entry that lead elsewhere, beside enclosures."""

EXTRA = {
    "itunes:season": "season",
    "itunes:episode": "episode",
    "itunes:episodetype": "episode_type",
    "itunes:explicit": "explicit",
    "podcast:season": "season",
    "podcast:episode": "episode",
}


class _Best:
    """The best value offered for each key: the one with the lowest rank, of those the first that says anything."""

    def __init__(self) -> None:
        self._found: dict[str, tuple[int, str]] = {}

    def offer(self, key: str, rank: int, value: str | None) -> None:
        if value and (key not in self._found or rank < self._found[key][0]):
            self._found[key] = (rank, value)

    def get(self, key: str) -> str | None:
        return self._found[key][1] if key in self._found else None


def _text(element: ET.Element) -> str | None:
    return "".join(element.itertext()).strip() or None


def _attribute(element: ET.Element, *names: str) -> str | None:
    """Return the first attribute of these names that says anything, regardless of case and namespace."""
    found = element.attrib
    if not all(name.islower() and name.isalpha() for name in found):
        found = {name.rpartition("}")[2].lower(): value for name, value in found.items()}
    return next((value for name in names if (value := found.get(name, "").strip())), None)


def _author(element: ET.Element) -> str | None:
    """Return the name alone: of an element with parts, or of RSS's ``ann@example.org (Ann)``."""
    if len(element):
        parts = {child.tag.rpartition("}")[2].lower(): _text(child) for child in element}
        return parts.get("name") or parts.get("email")
    text = _text(element)
    match = re.fullmatch(r"\S+@\S+\s*\(([^()]+)\)|([^<>]+?)\s*<\S+@\S+>", text or "")
    return next(filter(None, match.groups())).strip() if match else text


def _guid(children: Iterable[tuple[str, ET.Element]]) -> str | None:
    best = _Best()
    for name, child in children:
        if name in ENTRY and ENTRY[name][0] == "guid":
            best.offer("guid", ENTRY[name][1], _text(child))
    return best.get("guid")


def _enclose(entry: Entry, element: ET.Element, base: str, address: str | None, length: str) -> None:
    if address:
        about = {"type": _attribute(element, "type") or "", "length": _attribute(element, length) or ""}
        entry.enclosures.append({"href": absolute(base, address)} | about)


def _licence(name: str, element: ET.Element) -> str | None:
    if name == "podcast:license":
        return _text(element) or _attribute(element, "url")
    if name in ("cc:license", "license"):
        return _text(element) or _attribute(element, "resource")
    if name == "link" and (_attribute(element, "rel") or "").lower() == "license":
        return _attribute(element, "href")
    return _text(element) if name in ("copyright", "rights", "dc:rights", "media:copyright") else None


READ: dict[str, Callable[[ET.Element], str | None]] = {
    "author": _author,
    "published": lambda element: iso_time(_text(element)),
}
"""How the elements of a key are read, where it is not by their text."""


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
        author=_lenient_author(channel),
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
        media = [
            {"href": row.get("url"), "type": row.get("type", ""), "length": row.get("filesize", "")}
            for row in item.get("media_content", [])
            if row.get("url") and row.get("medium", "audio") in ("audio", "video")
        ]
        yield Entry(
            guid=item.get("id"),
            title=item.get("title"),
            link=absolute(url, item["link"]) if item.get("link") else None,
            author=_lenient_author(item),
            published=iso_time(item.get("published")) or iso_time(item.get("updated")),
            duration=item.get("itunes_duration"),
            licence=_lenient_licence(item),
            enclosures=[
                {key: str(value) for key, value in row.items()} | {"href": absolute(url, str(row["href"]))}
                for row in (*item.get("enclosures", []), *media)
                if row.get("href")
            ],
            transcripts=[dict(transcript) | {"url": absolute(url, transcript["url"])}]
            if isinstance(transcript, dict) and transcript.get("url")
            else [],
            persons=[person] if isinstance(person, str) else [],
            extra={key: str(value) for key, value in extra.items() if value is not None},
        )


def _lenient_author(element) -> str | None:
    return (element.get("author_detail") or {}).get("name") or element.get("author")


def _lenient_licence(element) -> str | None:
    for key in ("podcast_license", "creativecommons_license", "license", "rights"):
        value = element.get(key)
        if value:
            return value.get("url") if isinstance(value, dict) else str(value)
    return next((link.get("href") for link in element.get("links", []) if link.get("rel") == "license"), None)

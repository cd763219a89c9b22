"""Items of archive.org: the best file of each recording in them, with the checksum that the archive states."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from urllib.parse import quote, urlencode

from triforce.ingest.config import AudiobookSource
from triforce.ingest.corpus.records import Recording, RejectReason, Status, make_recording_id
from triforce.ingest.errors import Rejected
from triforce.ingest.fetch.web import get_document
from triforce.ingest.sources.base import SourceKind
from triforce.ingest.sources.fields import language_code, parse_duration
from triforce.ingest.sources.pages import Pages

FORMATS = (
    *("flac", "24bit flac", "wave", "apple lossless audio", "mpeg-4 audio", "vbr mp3", "mp3"),
    *(
        "320kbps mp3",
        "256kbps mp3",
        "192kbps mp3",
        "128kbps mp3",
        "ogg vorbis",
        "96kbps mp3",
        "64kbps mp3",
        "32kbps mp3",
    ),
)
"""Audio formats by the names the archive gives them, best first. 24-bit files lose to 16-bit ones: clips have 16."""

SCRAPE_ITEMS = 10_000
"""Items asked for in one request: the archive's scrape interface gives no fewer than 100 and no more than that."""

MAX_REQUESTS = 10_000
"""Requests after which a search is left: a hundred million items, more than the archive has."""


class ArchiveOrg(SourceKind[AudiobookSource]):
    """Items named one by one, and those that a search finds."""

    def listings(self, pages: Pages) -> Iterator[Iterator[Recording]]:
        found = self._search(pages) if self.config.query else []
        for identifier in dict.fromkeys([*self.config.items, *found]):
            yield self._item(identifier, pages)

    def _search(self, pages: Pages) -> list[str]:
        """Return the items that fit the query, those added last at the end.

        By the interface for reading all of a search: the one for looking at it answers an error past 10 000 results.
        """
        found: list[str] = []
        cursor: str | None = None
        try:
            for _ in range(MAX_REQUESTS):
                url = scrape_url(self.config, cursor)
                identifiers, following = parse_scrape(get_document(url, self.settings).body or b"", url)
                found += identifiers
                if following is None or following == cursor:
                    break
                cursor = following
        except Rejected as rejection:
            pages.report(rejection)
        return found

    def _item(self, identifier: str, pages: Pages) -> Iterator[Recording]:
        url = metadata_url(self.config, identifier)
        if self.config.query and pages.note_of(url) and identifier not in self.config.items:
            return  # a search finds thousands of items that never change again; they are asked for once
        document = pages.read(url)
        if document.body is not None:
            yield from parse_item(document.body, url, identifier, self.config)
            pages.remember(url, document)


def scrape_url(source: AudiobookSource, cursor: str | None) -> str:
    """Return the address of a piece of the search for ``source.query``: the first, or the one behind ``cursor``."""
    query = {"q": source.query, "fields": "identifier", "sorts": "addeddate asc", "count": SCRAPE_ITEMS}
    query |= {"cursor": cursor} if cursor else {}
    return f"{source.library_url}/services/search/v1/scrape?{urlencode(query)}"


def parse_scrape(body: bytes, url: str) -> tuple[list[str], str | None]:
    """Return the identifiers in a piece of a search, and the cursor of the next one, None behind the last."""
    try:
        document = json.loads(body)
        names = [str(row["identifier"]) for row in document["items"]]
        cursor = document.get("cursor")
        return [name for name in names if check_identifier(name)], str(cursor) if cursor else None
    except (ValueError, RecursionError, KeyError, TypeError, AttributeError) as error:
        raise Rejected(RejectReason.BAD_METADATA, f"{url}: not a piece of search results: {error!r}") from error


def check_identifier(identifier: str) -> bool:
    """Whether ``identifier`` is one that the archive gives, and so may stand in an address."""
    return bool(re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,100}", identifier))


def metadata_url(source: AudiobookSource, identifier: str) -> str:
    """Return the address of what the archive states about an item."""
    return f"{source.library_url}/metadata/{identifier}"


def parse_item(body: bytes, url: str, identifier: str, source: AudiobookSource) -> Iterator[Recording]:
    """Yield the recordings of an item in the order of their names; `Rejected` for what is no item."""
    try:
        document = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise Rejected(RejectReason.BAD_METADATA, f"{url}: not JSON: {error}") from error
    files = document.get("files") if isinstance(document, dict) else None
    if not isinstance(files, list):
        raise Rejected(RejectReason.NOT_FOUND, f"{url}: the archive has no item {identifier!r}, or took it down")
    item = document.get("metadata")
    for file in best_files([file for file in files if isinstance(file, dict)]):
        yield _recording(file, item if isinstance(item, dict) else {}, identifier, source)


def best_files(files: list[dict]) -> list[dict]:
    """Return the best file of each recording. Derived files name the original they were made from."""
    groups: dict[str, list[dict]] = {}
    for file in files:
        if _rank(file) < len(FORMATS) and isinstance(file.get("name"), str) and not file.get("private"):
            original = file.get("original") if file.get("source") == "derivative" else file["name"]
            stem = str(original or file["name"]).rsplit(".", 1)[0]
            groups.setdefault(stem, []).append(file)
    return [min(group, key=_rank) for _, group in sorted(groups.items())]


def _rank(file: dict) -> int:
    name = str(file.get("format", "")).lower()
    return FORMATS.index(name) if name in FORMATS else len(FORMATS)


def _recording(file: dict, item: dict, identifier: str, source: AudiobookSource) -> Recording:
    source_id = f"archive.org/{identifier}/{file['name'].rsplit('.', 1)[0]}"
    extra = {
        "item": identifier,
        "track": file.get("track"),
        "declared_bytes": file.get("size"),
        "format": file.get("format"),
    }
    extra |= {f"declared_{name}": file.get(name) for name in ("sha1", "md5")}
    return Recording(
        recording_id=make_recording_id(source.name, source_id),
        source=source.name,
        source_kind=source.kind,
        source_id=source_id,
        url=f"{source.library_url}/download/{identifier}/{quote(file['name'])}",
        page_url=f"{source.library_url}/details/{identifier}",
        title=_first(file.get("title")) or file["name"].rsplit("/", 1)[-1],
        author=_first(file.get("artist")) or _first(item.get("creator")),
        collection=_first(item.get("title")),
        published=_first(item.get("date")),
        licence=_first(item.get("licenseurl")) or source.licence or _first(item.get("rights")),
        language=source.language or language_code(_first(item.get("language"))),
        duration_s=parse_duration(_first(file.get("length"))),
        status=Status.DISCOVERED,
        metadata={key: str(value) for key, value in extra.items() if value not in (None, "")},
    )


def _first(value: object) -> str | None:
    """Return the first text of a field, which the archive gives as a text or as a list of texts."""
    value = value[0] if isinstance(value, list) and value else value
    return str(value).strip() or None if isinstance(value, str | int | float) else None

"""The LibriVox catalogue of audiobooks: a section of a book is a recording."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from urllib.parse import urlencode

from triforce.ingest.config import AudiobookSource
from triforce.ingest.corpus.records import Recording, RejectReason, Status, make_recording_id
from triforce.ingest.errors import Rejected
from triforce.ingest.fetch.addresses import absolute
from triforce.ingest.fetch.transcripts import SHARED
from triforce.ingest.ledger import is_universal
from triforce.ingest.sources.base import SourceKind
from triforce.ingest.sources.fields import parse_duration
from triforce.ingest.sources.pages import Pages

LICENCE = "public domain"
"""Licence of every LibriVox recording, by the rule of that project."""

LANGUAGES = dict(
    pair.split(":")
    for pair in [
        "english:en",
        "german:de",
        "french:fr",
        "spanish:es",
        "italian:it",
        "dutch:nl",
        "portuguese:pt",
        "russian:ru",
        "chinese:zh",
        "japanese:ja",
        "polish:pl",
        "latin:la",
        "greek:el",
        "swedish:sv",
        "danish:da",
        "finnish:fi",
        "hungarian:hu",
        "czech:cs",
        "ukrainian:uk",
        "arabic:ar",
        "hebrew:he",
    ]
)
"""ISO 639-1 codes by the names that LibriVox gives its most common languages."""


class LibriVox(SourceKind[AudiobookSource]):
    """The books of the catalogue that fit ``author`` and ``title``, page by page."""

    @property
    def wants_transcripts(self) -> bool:
        return self.config.texts

    def listings(self, pages: Pages) -> Iterator[Iterator[Recording]]:
        yield self._catalogue(pages)

    def _catalogue(self, pages: Pages) -> Iterator[Recording]:
        offset, num_books = 0, self.config.page_size
        while num_books >= self.config.page_size:
            url = page_url(self.config, offset)
            try:
                document = pages.read(url)
            except Rejected as rejection:
                if offset and rejection.reason is RejectReason.NOT_FOUND:
                    return  # the catalogue answers 404 behind a last page that is full
                raise
            if document.body is None:
                num_books = int(pages.note_of(url).get("books") or 0)
            else:
                books = parse_page(document.body, url)
                for book in books:
                    yield from sections(book, document.url, self.config)
                num_books = len(books)
                pages.remember(url, document, books=num_books)
            offset += num_books


def page_url(source: AudiobookSource, offset: int) -> str:
    """Return the address of the catalogue page that begins with book ``offset``."""
    query = {"format": "json", "extended": "1", "limit": source.page_size, "offset": offset}
    query |= {key: f"^{value}" for key, value in (("author", source.author), ("title", source.title)) if value}
    return f"{source.library_url}{'&' if '?' in source.library_url else '?'}{urlencode(query)}"


def parse_page(body: bytes, url: str) -> list[dict]:
    """Return the books on a page, none behind the last page; `Rejected` for what is no catalogue."""
    try:
        document = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise Rejected(RejectReason.BAD_METADATA, f"{url}: not JSON: {error}") from error
    if isinstance(document, dict) and "error" in document and "books" not in document:
        return []
    books = document.get("books") if isinstance(document, dict) else None
    if isinstance(books, dict):  # the catalogue numbers its books when some were filtered out
        books = list(books.values())
    if not isinstance(books, list):
        raise Rejected(
            RejectReason.BAD_METADATA,
            f"{url}: a catalogue page has a list 'books'; this one has {str(document)[:80]!r}",
        )
    return [book for book in books if isinstance(book, dict)]


def sections(book: dict, url: str, source: AudiobookSource) -> Iterator[Recording]:
    """Yield the sections of a book that have an audio file, in their order."""
    listed = book.get("sections")
    if source.book_language and (_text(book.get("language")) or "").lower() != source.book_language.lower():
        return
    for section in listed if isinstance(listed, list) else []:
        if isinstance(section, dict) and isinstance(section.get("listen_url"), str) and section["listen_url"].strip():
            recording = _section(section, book, url, source)
            if not source.reader or source.reader.lower() in recording.metadata.get("reader", "").lower().split("; "):
                yield recording


def _section(section: dict, book: dict, url: str, source: AudiobookSource) -> Recording:
    listen_url = absolute(url, section["listen_url"])
    number, book_id = _text(section.get("section_number")), _text(book.get("id"))
    source_id = f"{book_id}/{number}" if book_id and number else listen_url
    if not is_universal(source_id):
        source_id = f"{source.library_url}#{source_id}"
    readers = "; ".join(filter(None, (_text(reader.get("display_name")) for reader in _dicts(section.get("readers")))))
    authors = "; ".join(filter(None, (_name(author) for author in _dicts(book.get("authors")))))
    metadata = {
        "book_id": book_id,
        "section_number": number,
        "book_author": authors,
        "reader": readers,
        "text_url": (text_url := _text(book.get("url_text_source"))),
        "transcript_url": plain_text_url(text_url) if text_url else None,
        "transcript_type": "text/plain" if text_url else None,
        SHARED: "book" if text_url else None,
        "book_language": _text(book.get("language")),
    }
    return Recording(
        recording_id=make_recording_id(source.name, source_id),
        source=source.name,
        source_kind=source.kind,
        source_id=source_id,
        url=listen_url,
        page_url=_text(book.get("url_librivox")),
        title=_text(section.get("title")),
        author=readers or authors or None,
        collection=_text(book.get("title")),
        published=_text(book.get("copyright_year")),
        licence=source.licence or LICENCE,
        language=source.language or _language(section.get("language")) or _language(book.get("language")),
        duration_s=parse_duration(_text(section.get("playtime"))),
        status=Status.DISCOVERED,
        metadata={key: value for key, value in metadata.items() if value},
    )


GUTENBERG = re.compile(r"https?://(?:www\.|dev\.)?gutenberg\.(?:org|net)/(?:ebooks|etext|files|cache/epub)/(\d+)\b")
ARCHIVE_ITEM = re.compile(r"https?://(?:www\.)?archive\.org/(?:details|stream|download)/([\w.-]+)")


def plain_text_url(url: str) -> str:
    """Return the address of a book's text, where a library's page about the book is given: Project Gutenberg's plain
    text, what archive.org read in its pages. Any other page is taken for the text."""
    if match := GUTENBERG.match(url):
        return f"https://www.gutenberg.org/cache/epub/{match[1]}/pg{match[1]}.txt"
    if match := ARCHIVE_ITEM.match(url):
        return f"https://archive.org/download/{match[1]}/{match[1]}_djvu.txt"
    return url


def _text(value: object) -> str | None:
    return str(value).strip() or None if isinstance(value, str | int | float) else None


def _dicts(value: object) -> list[dict]:
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def _name(person: dict) -> str | None:
    return " ".join(filter(None, (_text(person.get("first_name")), _text(person.get("last_name"))))) or None


def _language(value: object) -> str | None:
    name = (_text(value) or "").lower()
    return LANGUAGES.get(name) or (name if len(name) in (2, 3) and name.isalpha() else None)

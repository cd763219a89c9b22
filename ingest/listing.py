"""Discovery of one source: its pages, what of them is new, and what waits from earlier runs."""

from __future__ import annotations

import hashlib
import itertools
import traceback
from collections.abc import Callable, Iterator

from triforce.ingest import ledger, storage
from triforce.ingest.config import AudiobookSource, PodcastSource, Settings, Source
from triforce.ingest.corpus.schema import Recording, RejectReason, make_recording_id
from triforce.ingest.corpus.store import Corpus
from triforce.ingest.errors import Rejected
from triforce.ingest.fetch.web import Document, get_document
from triforce.ingest.sources import archive_org, audiobook, folder, podcast

KNOWN_IN_A_ROW = 60
"""A listing that is newest first is left after so many known entries: two pages of the largest sites. Assumed."""


PARSER_ERRORS = (ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError, OverflowError)
"""What a reader raises at a page that nobody foresaw. A mistake of ours, and no reason to leave all other pages."""


class Listing:
    """One look at a source: pages asked for conditionally, their validators kept only along with what they held."""

    def __init__(self, source: Source, settings: Settings, corpus: Corpus, on_problem: Callable[[Rejected], None]):
        self._source, self._settings, self._corpus, self._on_problem = source, settings, corpus, on_problem
        self._known = corpus.recording_ids(source.name)
        self._waiting = self._read_waiting()
        self._pages = ledger.read_pages(corpus, source.name)
        self._read, self._failures, self._changed = 0, [], False
        self._last_url = source.name

    def pending(self) -> Iterator[Recording]:
        """New recordings in the order of their pages, then those to try again; on record before any is yielded."""
        retry = dict(self._waiting)
        fresh: dict[str, Recording] = {}
        for recording in self._listed():
            if recording.recording_id not in self._known:
                retry.pop(recording.recording_id, None)
                fresh.setdefault(recording.recording_id, recording)
        unfetched = {key: value for key, value in retry.items() if key not in self._known}
        again = {key: value for key, value in retry.items() if key in self._known}
        everything = [*unfetched.values(), *fresh.values(), *again.values()]
        if self._changed or fresh or len(everything) != len(self._waiting):
            ledger.write_pending(self._corpus, self._source.name, everything)
            ledger.write_pages(self._corpus, self._source.name, self._pages)
        if self._failures and not self._read and not everything:
            raise self._failures[0]
        yield from everything

    def _read_waiting(self) -> dict[str, Recording]:
        """What earlier runs discovered and did not settle; read from the rows themselves where the list is lost."""
        remembered = ledger.read_pending(self._corpus, self._source.name)
        if remembered is None:
            rows = self._corpus.recordings(self._source.name) if self._known else []
            return {row.recording_id: row for row in rows if self._may_pass(row)}
        return {
            item.recording_id: item
            for item in remembered
            if item.recording_id not in self._known or self._is_open(item)
        }

    def _is_open(self, recording: Recording) -> bool:
        return self._may_pass(self._corpus.read_recording(recording.source, recording.recording_id))

    def _may_pass(self, row: Recording) -> bool:
        return not row.is_settled and int(row.metadata.get("runs", "0")) < self._settings.max_runs

    def _listed(self) -> Iterator[Recording]:
        if isinstance(self._source, PodcastSource):
            for url in self._feeds():
                yield from self._guarded(self._feed(url))
        elif isinstance(self._source, AudiobookSource):
            yield from self._books()
        else:
            from triforce.ingest.sources import youtube  # yt-dlp takes a second to import

            for url in self._source.urls:
                if any(failure.reason is RejectReason.BLOCKED for failure in self._failures):
                    return  # a site that blocks is not asked again in the same run
                entries = youtube.discover_entries(self._source, self._settings, url)
                yield from self._guarded(self._until_known(entries) if youtube.is_newest_first(url) else entries)

    def _guarded(self, recordings: Iterator[Recording]) -> Iterator[Recording]:
        """A feed, book or listing that cannot be read is told of, and stops no other."""
        try:
            yield from recordings
            self._read += 1
        except Rejected as rejection:
            self._tell(rejection)
        except PARSER_ERRORS as error:
            place = traceback.extract_tb(error.__traceback__)[-1]
            detail = f"{type(error).__name__} in {place.name}, line {place.lineno}: {error}"
            self._tell(Rejected(RejectReason.BAD_METADATA, f"{self._last_url}: {detail}"))

    def _tell(self, rejection: Rejected) -> None:
        self._failures.append(rejection)
        self._on_problem(rejection)

    def _until_known(self, recordings: Iterator[Recording]) -> Iterator[Recording]:
        in_a_row = 0
        for recording in recordings:
            in_a_row = in_a_row + 1 if recording.recording_id in self._known else 0
            if in_a_row >= KNOWN_IN_A_ROW:
                return
            yield recording

    def _document(self, url: str) -> Document:
        """The page at ``url``; its body is None if it has not changed since the pending recordings were written."""
        self._last_url, last = url, self._pages.get(url, {})
        document = get_document(url, self._settings, etag=last.get("etag"), last_modified=last.get("last_modified"))
        if document.body is None:
            return document
        sha256 = hashlib.sha256(document.body).hexdigest()
        if sha256 == last.get("sha256"):
            return Document(document.url, None)
        return document

    def _remember(self, url: str, document: Document, **extra) -> None:
        self._changed = True
        self._pages[url] = extra | {
            "etag": document.etag,
            "last_modified": document.last_modified,
            "sha256": hashlib.sha256(document.body).hexdigest(),
        }

    def _feeds(self) -> list[str]:
        """The feeds of a podcast source, those of its OPML list behind its own."""
        opml, listed = self._source.opml, []
        try:
            if opml and opml.startswith(("http://", "https://")):
                document = get_document(opml, self._settings)
                listed = list(podcast.parse_opml(document.body, document.url))
            elif opml:
                listed = list(podcast.parse_opml(_read_local(opml), opml))
        except Rejected as rejection:
            self._tell(rejection)
        return list(dict.fromkeys([*self._source.feeds, *listed]))

    def _feed(self, url: str) -> Iterator[Recording]:
        """A feed and its older pages (RFC 5005), as far back as there is something new or a page never read."""
        page, seen = url, set()
        while page and page not in seen and len(seen) < self._source.max_pages:
            seen.add(page)
            document = self._document(page)
            if document.body is None:
                page, new = self._pages[page].get("next"), False
            else:
                found, next_page = podcast.parse_feed(
                    document.body, url, self._source, base_url=document.url, known=self._known
                )
                self._remember(page, document, next=next_page)
                new = bool(found)
                yield from found
                page = next_page
            if not new and page in self._pages:
                return

    def _books(self) -> Iterator[Recording]:
        if self._source.library == "librivox":
            yield from self._guarded(self._catalogue())
        elif self._source.library == "folder":
            yield from self._guarded(self._files())
        else:
            identifiers = list(self._source.items)
            if self._source.query:
                identifiers += self._search()
            for identifier in dict.fromkeys(identifiers):
                yield from self._guarded(self._item(identifier))

    def _files(self) -> Iterator[Recording]:
        """Files that are new by their names; those with chapters are opened once, and again when they have changed."""
        for name in folder.list_files(self._source):
            if not folder.has_chapters(name):
                if make_recording_id(self._source.name, name) not in self._known:
                    yield from folder.recordings(name, self._source)
                continue
            version = folder.version_of(name, self._source)
            if self._pages.get(name, {}).get("version") != version:
                self._last_url = name
                yield from folder.recordings(name, self._source)
                self._pages[name], self._changed = {"version": version}, True

    def _search(self) -> list[str]:
        """The items that fit the query. Pages grow at their end, so all of them are asked for, conditionally."""
        found: list[str] = []
        try:
            for page in itertools.count(1):
                url = archive_org.search_url(self._source, page)
                document = self._document(url)
                if document.body is None:
                    identifiers = self._pages[url]["items"]
                else:
                    identifiers = archive_org.parse_search(document.body, url)
                    self._remember(url, document, items=identifiers)
                found += identifiers
                if len(identifiers) < archive_org.SEARCH_ROWS:
                    break
        except Rejected as rejection:
            self._tell(rejection)
        return found

    def _item(self, identifier: str) -> Iterator[Recording]:
        url = archive_org.metadata_url(self._source, identifier)
        if self._source.query and url in self._pages and identifier not in self._source.items:
            return  # a search finds thousands of items that never change again; they are asked for once
        document = self._document(url)
        if document.body is not None:
            yield from archive_org.parse_item(document.body, url, identifier, self._source)
            self._remember(url, document)

    def _catalogue(self) -> Iterator[Recording]:
        offset = 0
        while True:
            url = audiobook.page_url(self._source, offset)
            try:
                document = self._document(url)
            except Rejected as rejection:
                if offset and rejection.reason is RejectReason.NOT_FOUND:
                    return  # the catalogue answers 404 behind a last page that is full
                raise
            if document.body is None:
                num_books = int(self._pages[url].get("books") or 0)
            else:
                books = audiobook.parse_page(document.body, url)
                for book in books:
                    yield from audiobook.sections(book, document.url, self._source)
                num_books = len(books)
                self._remember(url, document, books=num_books)
            if num_books < self._source.page_size:
                return
            offset += num_books


def _read_local(path: str) -> bytes:
    try:
        return storage.read_bytes(path)
    except OSError as error:
        raise Rejected(RejectReason.NOT_FOUND, f"{path}: {error.strerror or error}") from error

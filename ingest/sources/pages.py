"""Pages that discovery reads again and again: asked for conditionally, so that an unchanged one costs one request."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection
from typing import Any

from triforce.ingest import ledger
from triforce.ingest.config import Settings
from triforce.ingest.corpus.records import RejectReason
from triforce.ingest.corpus.store import Corpus
from triforce.ingest.errors import Rejected
from triforce.ingest.fetch.web import Document, get_document


class Pages:
    """The pages of one source: what a `SourceKind` lists its recordings from.

    ``known`` are the ids of the recordings on record. Problems go to ``on_problem`` and are kept in `problems`.
    """

    def __init__(self, source: str, settings: Settings, corpus: Corpus, on_problem: Callable[[Rejected], None]):
        self._source, self._settings, self._corpus, self._on_problem = source, settings, corpus, on_problem
        self._notes = ledger.read_pages(corpus, source)
        self.known: Collection[str] = corpus.known_recordings(source)
        self.problems: list[Rejected] = []
        self.current = source
        """Address of the page that was asked for last, for messages."""
        self.changed = False
        """Whether a page was noted since the notes were read."""

    def read(self, url: str) -> Document:
        """Fetch the page at ``url``; its body is None if it has not changed since it was remembered."""
        self.current, last = url, self.note_of(url)
        document = get_document(url, self._settings, etag=last.get("etag"), last_modified=last.get("last_modified"))
        if document.body is None and not last:
            raise Rejected(RejectReason.BAD_METADATA, f"{url}: answers 'not modified' to one who never read it")
        if document.body is not None and _sha256(document.body) == last.get("sha256"):
            return Document(document.url, None)
        return document

    def remember(self, url: str, document: Document, **values: Any) -> None:
        """Note that what ``document`` lists was taken, with ``values`` that a source needs if it has not changed."""
        sha256 = _sha256(document.body or b"")
        self.note(url, **values, etag=document.etag, last_modified=document.last_modified, sha256=sha256)

    def note(self, name: str, **values: Any) -> None:
        """Note ``values`` about the page or file of this name."""
        self._notes[name], self.changed = values, True

    def note_of(self, name: str) -> dict[str, Any]:
        """Return what was noted about the page or file of this name; {} where nothing was."""
        return self._notes.get(name, {})

    def save(self) -> None:
        """Write the notes to the corpus; to be called after the recordings of the pages are on record."""
        ledger.write_pages(self._corpus, self._source, self._notes)

    def report(self, problem: Rejected) -> None:
        """Report a page that cannot be read, and go on."""
        self.problems.append(problem)
        self._on_problem(problem)

    @property
    def was_blocked(self) -> bool:
        """Whether the site has answered with a block in this run."""
        return any(problem.reason is RejectReason.BLOCKED for problem in self.problems)


def _sha256(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()

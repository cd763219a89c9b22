"""Discovery of one source: the recordings that are new, and those that wait from earlier runs."""

from __future__ import annotations

import datetime
import traceback
from collections.abc import Callable, Iterable, Iterator

from triforce.ingest import ledger
from triforce.ingest.config import Settings, Source
from triforce.ingest.corpus.records import Recording, RejectReason
from triforce.ingest.corpus.store import Corpus
from triforce.ingest.errors import Rejected
from triforce.ingest.sources.pages import Pages
from triforce.ingest.sources.registry import open_source

PARSER_ERRORS = (ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError, OverflowError)
"""Exceptions of a parser at a page that nobody foresaw: a bug of ours, and no reason to leave all other pages."""


def next_try(row: Recording, settings: Settings) -> datetime.datetime:
    """Return when a recording that failed in a passing way is tried next: in the next run, then hours later, then a
    day, so that ``max_runs`` tries outlast an outage of days however often the ingest runs."""
    runs = int(row.metadata.get("runs", "0"))
    if runs < 2 or not row.fetched_at:
        return datetime.datetime.min.replace(tzinfo=datetime.UTC)
    wait_s = min(settings.retry_wait_s * 2.0 ** min(runs - 2, 64), settings.max_retry_wait_s)
    return datetime.datetime.fromisoformat(row.fetched_at) + datetime.timedelta(seconds=wait_s)


class Listing:
    """One look at a source. Pages count as read only once the recordings they list are on record."""

    def __init__(self, source: Source, settings: Settings, corpus: Corpus, on_problem: Callable[[Rejected], None]):
        self._source, self._settings, self._corpus = source, settings, corpus
        self._pages = Pages(source.name, settings, corpus, on_problem)
        self._num_read = 0
        self._tried: dict[str, Recording] = {}
        """The rows of those that earlier runs tried and did not settle."""

    def pending(self) -> Iterator[Recording]:
        """Yield recordings to fetch: never tried, new in the order of their pages, then those whose next try is due.

        They are on record before the first is yielded. Raises `Rejected` where no page could be read and none waits.
        """
        waiting, known = self._read_waiting(), self._pages.known
        retry, fresh = dict(waiting), {}
        for recording in self._listed():
            if recording.recording_id not in known:
                retry.pop(recording.recording_id, None)
                fresh.setdefault(recording.recording_id, recording)
        unfetched = [recording for key, recording in retry.items() if key not in self._tried]
        again = [recording for key, recording in retry.items() if key in self._tried]
        everything = [*unfetched, *fresh.values(), *again]
        if self._pages.changed or fresh or len(everything) != len(waiting):
            ledger.write_pending(self._corpus, self._source.name, everything)
            self._pages.save()
        if self._pages.problems and not self._num_read and not everything:
            raise self._pages.problems[0]
        yield from [*unfetched, *fresh.values()]
        now = datetime.datetime.now(datetime.UTC)
        yield from (item for item in again if next_try(self._tried[item.recording_id], self._settings) <= now)

    def _read_waiting(self) -> dict[str, Recording]:
        """Return what earlier runs discovered and did not settle, from the rows themselves where the list is lost."""
        remembered, known = ledger.read_pending(self._corpus, self._source.name), self._pages.known
        if remembered is None:
            rows = self._corpus.recordings(self._source.name)
            self._tried = {row.recording_id: row for row in rows if not row.is_settled}
            return {key: row.untried() for key, row in self._tried.items()}
        waiting = {}
        for item in remembered:
            if item.recording_id in known:
                row = self._corpus.read_recording(item.source, item.recording_id)
                if row.is_settled:
                    continue
                self._tried[item.recording_id] = row
            waiting[item.recording_id] = item
        return waiting

    def _listed(self) -> Iterator[Recording]:
        for recordings in open_source(self._source, self._settings).listings(self._pages):
            yield from self._guarded(recordings)

    def _guarded(self, recordings: Iterable[Recording]) -> Iterator[Recording]:
        """Report a feed, book or listing that cannot be read; it stops no other."""
        try:
            yield from recordings
            self._num_read += 1
        except Rejected as rejection:
            self._pages.report(rejection)
        except PARSER_ERRORS as error:
            place = traceback.extract_tb(error.__traceback__)[-1]
            detail = f"{type(error).__name__} in {place.name}, line {place.lineno}: {error}"
            self._pages.report(Rejected(RejectReason.BAD_METADATA, f"{self._pages.current}: {detail}"))

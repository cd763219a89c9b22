"""Take rejected recordings up again: a limit was raised, a site came back, a mistake of ours was mended."""

from __future__ import annotations

import datetime
from collections.abc import Iterable, Iterator
from dataclasses import replace

from triforce.ingest import ledger, storage
from triforce.ingest.corpus.packs.change import remove_files
from triforce.ingest.corpus.records import IMPORTED, TAKEN_UP, Recording, RejectReason, Status
from triforce.ingest.corpus.stats import list_recordings
from triforce.ingest.corpus.store import Corpus
from triforce.ingest.locks import maintenance

DUPLICATES = frozenset(reason for reason in RejectReason if reason.startswith("duplicate_"))


def rejected(
    corpus: Corpus,
    *,
    source: str | None = None,
    reason: str | None = None,
    after: datetime.datetime | None = None,
    before: datetime.datetime | None = None,
) -> Iterator[Recording]:
    """Yield the recordings that were rejected, by source, reason and the time of the last try.

    Duplicates only if ``reason`` is one of theirs; those that were taken out of the corpus never.
    """
    status = Status.DUPLICATE if reason in DUPLICATES else Status.REJECTED
    for row in list_recordings(corpus, source=source, status=status, reason=reason):
        if "removed_at" in row.metadata:
            continue
        tried = datetime.datetime.fromisoformat(row.fetched_at) if row.fetched_at else None
        if (after is None or (tried and tried >= after)) and (before is None or (tried and tried < before)):
            yield row


def take_up(corpus: Corpus, recordings: Iterable[Recording]) -> int:
    """Let the next ingest try ``recordings`` again, whatever became of them; return their number.

    One whose media is in the corpus is cut again, any other is fetched again. A killed call is finished by the next
    one: the row, by which recordings are found, is written last.
    """
    chosen = list(recordings)
    for source in sorted({row.source for row in chosen}):
        rows = [row for row in chosen if row.source == source]
        lost = [row for row in rows if not _has_media(corpus, row)]
        _wait_again(corpus, source, lost)
        with maintenance(corpus.uri):
            names = {f"{row.recording_id}.parquet" for row in rows}
            remove_files(storage.join(corpus.uri, "clips", f"source={source}"), names)
            imported = {f"{row.recording_id}.parquet" for row in lost if row.source_kind in IMPORTED}
            remove_files(storage.join(corpus.uri, "recordings", f"source={source}"), imported)
            for row in rows:
                if row not in lost:
                    corpus.write_recording(replace(row, status=Status.FETCHED, reason=None, detail=None))
                elif row.source_kind not in IMPORTED:  # of those the next import takes what has no row
                    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
                    metadata = row.untried().metadata | {TAKEN_UP: now}
                    corpus.write_recording(replace(row, metadata=metadata))
    return len(chosen)


def _has_media(corpus: Corpus, row: Recording) -> bool:
    return bool(row.media_path) and storage.exists(storage.join(corpus.uri, row.media_path))


def _wait_again(corpus: Corpus, source: str, rows: list[Recording]) -> None:
    """Put recordings on the list of what waits. Where the list is lost, discovery reads the rows themselves."""
    waiting = ledger.read_pending(corpus, source)
    if waiting is not None:
        added = {row.recording_id: row.untried() for row in rows if row.source_kind not in IMPORTED}
        kept = [item for item in waiting if item.recording_id not in added]
        ledger.write_pending(corpus, source, [*kept, *added.values()])

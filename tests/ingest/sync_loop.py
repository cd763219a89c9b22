"""Discover and fetch a source with the product's functions, one recording after the other and without Prefect."""

from __future__ import annotations

import contextlib

from triforce.ingest.config import Settings, Source
from triforce.ingest.corpus.store import Corpus
from triforce.ingest.errors import Rejected
from triforce.ingest.sources.registry import open_source
from triforce.ingest.sync import BlockCounter, SyncSummary, discover, fetch


def sync_source(source: Source, settings: Settings, corpus: Corpus) -> SyncSummary:
    """Bring ``corpus`` up to date with one source; return the counts, as the flow's summary has them."""
    summary = SyncSummary(source.name)
    blocks = BlockCounter(open_source(source, settings).blocks_allowed)
    # `Rejected` is raised only when nothing could be read, and `on_problem` was told of each of those before.
    with contextlib.suppress(Rejected):
        for recording in discover(source, settings, corpus, on_problem=summary.add_problem):
            row = fetch(recording, source, settings, corpus)
            summary.discovered += 1
            summary.add(row)
            blocks.add(row.reason)
            if blocks.exceeded:
                summary.blocked = True
                break
    return summary

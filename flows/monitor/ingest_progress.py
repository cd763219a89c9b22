"""The progress of a source's ingest, as a bar among the artifacts of Prefect's dashboard."""

from __future__ import annotations

import contextlib
import logging
import time

import httpx
from prefect.artifacts import create_progress_artifact, update_progress_artifact

from triforce.flows.monitor.ingest_summary import SourceSummary, counted

logger = logging.getLogger(__name__)

INTERVAL_S = 2.0
"""Least time between two updates: each is a request to the server. Assumed."""


class IngestProgress:
    """The bar ``progress-<source>`` and a sentence below it, updated as recordings come in."""

    def __init__(self, summary: SourceSummary, total: int):
        self._summary, self._total = summary, total
        self._begin_s = self._shown_s = time.monotonic()
        key = f"progress-{summary.sync.source}"
        self._artifact = create_progress_artifact(self._percent(), key=key, description=self.sentence())

    def advance(self) -> None:
        """Log that one more recording is done; update the bar if the last update is `INTERVAL_S` ago."""
        logger.info("%s: %s", self._summary.sync.source, self.sentence())
        if time.monotonic() - self._shown_s >= INTERVAL_S:
            self.show()

    def show(self) -> None:
        """Update the bar now. A server that does not answer does not stop the ingest."""
        self._shown_s = time.monotonic()
        with contextlib.suppress(httpx.HTTPError):
            update_progress_artifact(self._artifact, self._percent(), description=self.sentence())

    def sentence(self) -> str:
        """Return the counts so far, and about how long the rest takes."""
        sync, summary = self._summary.sync, self._summary
        if not self._total:
            return f"could not be read: {sync.problems[0]}"[:300] if sync.problems else "nothing new"
        parts = [
            f"{summary.done} of {self._total} recordings",
            f"{sync.fetched} fetched, {sync.duplicates} duplicates",
            f"rejected {counted(summary.not_taken)}",
            f"{summary.clips} clips, {summary.kept} kept with {summary.kept_s / 3600:.2f} h",
        ]
        if summary.errors:
            parts.append(f"last error: {summary.errors[-1]}"[:300])
        if sync.blocked:
            parts.append("blocked by the site")
        if 0 < summary.done < self._total:
            left_s = (time.monotonic() - self._begin_s) / summary.done * (self._total - summary.done)
            parts.append(f"about {left_s / 60:.0f} min left")
        return "; ".join(parts)

    def _percent(self) -> float:
        return round(100 * self._summary.done / self._total, 1) if self._total else 100.0

"""Marks: what a person says of a clip that no score tells. `triforce.ingest.clips.refilter` honours them.

A mark is a file beside the corpus, ``marks/source=<source>/<clip_id>.json``::

    {"clip_id": "571dd85f3fe1a9c2-0000048000", "reason": "two people speak", "marked_at": "2026-03-01T10:00:00+00:00"}

The clip is wrong while the file is there, so marking and unmarking are one atomic step each, several persons may work
at once, and a listing tells which clips are marked. `reason` may be null.
"""

from __future__ import annotations

import datetime
from collections.abc import Collection

from pydantic import BaseModel, ConfigDict, Field, field_validator

from triforce.ingest import storage
from triforce.ingest.corpus.records import valid_text
from triforce.ingest.corpus.store import Corpus

MAX_REASON_CHARS = 500
"""Longest reason, characters. Assumed."""


class Mark(BaseModel):
    """A person's word that a clip is wrong."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    clip_id: str = Field(description="The clip.")
    reason: str | None = Field(None, max_length=MAX_REASON_CHARS, description="Why, in a person's words.")
    marked_at: datetime.datetime = Field(description="When, UTC.")

    @field_validator("reason", mode="before")
    @classmethod
    def _plain(cls, reason: object) -> object:
        """An empty reason is none; halves of surrogate pairs are replaced."""
        return (valid_text(reason.strip()) or None) if isinstance(reason, str) else reason


def mark_wrong(corpus: Corpus, source: str, clip_id: str, reason: str | None = None) -> Mark:
    """Mark a clip as wrong; again: with another reason. Raises ValueError for a reason that is too long.

    ``source`` and ``clip_id`` become part of a path: take them from the corpus, not from a request.
    """
    mark = Mark(clip_id=clip_id, reason=reason, marked_at=datetime.datetime.now(datetime.UTC).replace(microsecond=0))
    storage.write_bytes(_uri(corpus, source, clip_id), mark.model_dump_json().encode())
    return mark


def unmark(corpus: Corpus, source: str, clip_id: str) -> None:
    """Take a clip's mark back, if it has one."""
    storage.remove(_uri(corpus, source, clip_id))


def read_mark(corpus: Corpus, source: str, clip_id: str) -> Mark | None:
    """Return a clip's mark, if it has one; one whose file says nothing readable counts, without a reason."""
    try:
        data = storage.read_bytes(_uri(corpus, source, clip_id))
    except FileNotFoundError:
        return None
    try:
        return Mark.model_validate_json(data)
    except ValueError:
        return Mark(clip_id=clip_id, reason=None, marked_at=datetime.datetime.fromtimestamp(0, datetime.UTC))


def marked_ids(corpus: Corpus, source: str) -> set[str]:
    """Return the ids of a source's marked clips: one listing, no file is opened."""
    return {name.removesuffix(".json") for name in storage.list_files(_folder(corpus, source), ".json")}


def remove_marks(corpus: Corpus, source: str, recording_ids: Collection[str]) -> None:
    """Remove the marks of the clips of these recordings."""
    for clip_id in marked_ids(corpus, source):
        if clip_id.rpartition("-")[0] in recording_ids:
            unmark(corpus, source, clip_id)


def _folder(corpus: Corpus, source: str) -> str:
    return storage.join(corpus.uri, "marks", f"source={source}")


def _uri(corpus: Corpus, source: str, clip_id: str) -> str:
    return storage.join(_folder(corpus, source), f"{clip_id}.json")

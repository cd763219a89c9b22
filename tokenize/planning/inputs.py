"""What shards are made of: their clips as the corpus has them now, a hash of these, and which hashes are known to hold.

``checked.json`` beside the shards remembers of which files, by their stamps, each shard's record was found to be true.
It may be lost: then the clips of every shard are read once more.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
from typing import Any

import pyarrow as pa
import pyarrow.dataset as pads
import pyarrow.parquet as pq

from triforce.ingest import storage
from triforce.ingest.corpus.packs import overlay
from triforce.ingest.corpus.store import Corpus
from triforce.tokenize.planning.plan_files import Member
from triforce.tokenize.token_sample import METADATA, WORDS

FILES_IN_MEMORY = 8
"""Clip files whose rows are kept for the next shard. Assumed."""


def inputs_sha256(rows: list[dict[str, Any]], *, words: bool) -> str:
    """Hash the ids and metadata of a shard's clips; with their words where these decide what it holds."""
    names = ("clip_id", *METADATA, *([WORDS] if words else []))
    found = [{name: row[name] for name in names} for row in rows]
    return hashlib.sha256(json.dumps(found, sort_keys=True).encode()).hexdigest()


def read_rows(corpus: Corpus, members: list[Member], modality: str | None, columns: list[str]) -> list[dict[str, Any]]:
    """Return the rows of a shard's clips in its order, with ``columns`` and `METADATA`: those that are kept and of the
    medium, or all of them where it is None. A clip that is gone from the corpus is left out.

    Of a long recording only the row groups between the shard's first and last clip are read.
    """
    by_file: dict[str, list[str]] = {}
    for clip_id, recording_id, source in members:
        by_file.setdefault(corpus.clips_uri(source, recording_id), []).append(clip_id)
    rows: dict[str, dict[str, Any]] = {}
    names = list(dict.fromkeys(["clip_id", *columns, *METADATA, "drop_reason"]))
    for uri, wanted in by_file.items():
        if not overlay.exists(uri):
            continue
        field = pads.field("clip_id")
        between = (field >= min(wanted)) & (field <= max(wanted)) & field.isin(wanted)
        table = corpus.dataset(files=[uri]).to_table(columns=names, filter=between, use_threads=False)
        rows |= {row["clip_id"]: row for row in _of_medium(table.to_pylist(), modality)}
    return [rows[member.clip_id] for member in members if member.clip_id in rows]


def _of_medium(rows: list[dict[str, Any]], modality: str | None) -> list[dict[str, Any]]:
    if modality is None:
        return rows
    named = [row | {"modality": row["modality"] or "speech"} for row in rows if row["drop_reason"] is None]
    return [row for row in named if row["modality"] == modality]


class InputHasher:
    """Hashes the inputs of one shard after the other, from their clip files without media."""

    def __init__(self, corpus: Corpus, modality: str, *, words: bool) -> None:
        self._corpus, self._modality, self._words = corpus, modality, words
        self._file = functools.lru_cache(FILES_IN_MEMORY)(self._read)

    def __call__(self, members: list[Member]) -> tuple[list[str], str]:
        """Return the ids of a shard's clips that are kept, and the hash that its record has if it is made of them."""
        found = (self._file(member.source, member.recording_id).get(member.clip_id) for member in members)
        rows = [row for row in found if row is not None]
        return [row["clip_id"] for row in rows], inputs_sha256(rows, words=self._words)

    def _read(self, source: str, recording_id: str) -> dict[str, dict[str, Any]]:
        names = ["clip_id", *METADATA, "drop_reason", *([WORDS] if self._words else [])]
        try:
            with (
                overlay.open_file(self._corpus.clips_uri(source, recording_id)) as file,
                pq.ParquetFile(file) as parquet,
            ):
                there = [name for name in names if name in parquet.schema_arrow.names]
                table: pa.Table = parquet.read(columns=there, use_threads=False)
        except FileNotFoundError:
            return {}
        absent = {name: None for name in names if name not in there}
        return {row["clip_id"]: row for row in _of_medium([absent | row for row in table.to_pylist()], self._modality)}


class Checked:
    """Which shards' records are known to be true, and of which files."""

    def __init__(self, tokens: str) -> None:
        self._uri = storage.join(tokens, "checked.json")
        self._known: dict[str, list[str]] = {}
        with contextlib.suppress(FileNotFoundError, ValueError):
            self._known = json.loads(storage.read_bytes(self._uri))
        self._found: dict[str, list[str]] = {}

    def holds(self, index: int, stamp: str, sha256: str) -> bool:
        """Whether a shard was found to be made of inputs of this hash when its files had this stamp."""
        return bool(stamp) and self._known.get(str(index)) == [stamp, sha256]

    def add(self, index: int, stamp: str, sha256: str) -> None:
        """Note that a shard's record is true of the files of this stamp."""
        if stamp:
            self._found[str(index)] = [stamp, sha256]

    def save(self) -> None:
        """Write what was noted, and nothing else, where that is news."""
        if self._found != self._known:
            storage.write_bytes(self._uri, json.dumps(self._found).encode())
            self._known = self._found

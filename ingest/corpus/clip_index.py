"""What clip files hold, in brief: which clips are kept and where they lie, and counts of all.

It is remembered in ``state/source=<source>/clip-index/``, see `file_index`: whoever asks after a run that added one
recording opens one clip file.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from triforce.ingest import storage
from triforce.ingest.corpus.file_index import FileIndex
from triforce.ingest.corpus.packs import overlay
from triforce.ingest.corpus.records import make_clip_id
from triforce.ingest.corpus.store import Corpus

COUNT = pa.struct(
    [("drop_reason", pa.string()), ("language", pa.string()), ("num_clips", pa.int64()), ("duration_s", pa.float64())]
)
SCHEMA = pa.schema(
    [
        ("digest", pa.string()),  # SHA-256 of the kept clips' ids in their order, one a line; null: none is kept
        ("starts", pa.list_(pa.int64())),  # of each kept clip its first sample,
        ("groups", pa.list_(pa.int32())),  # the row group that it is in,
        ("draws", pa.list_(pa.uint32())),  # the first 32 bits of its id's SHA-256,
        ("modalities", pa.list_(pa.int8())),  # and its medium's place in the next column
        ("modality_names", pa.list_(pa.string())),
        ("counts", pa.list_(COUNT)),  # of all clips, by reason and language
    ]
)
COLUMNS = ["clip_id", "drop_reason", "modality", "duration_s", "language"]
READ_AHEAD_BYTES = 1 << 18
"""Bytes that a request to an object store reads ahead: the columns lie together, and the sound between them, 5 MB a row
group, would come along with more. Assumed."""
SPEECH = "speech"
"""The modality of a clip whose row names none."""


@dataclass(frozen=True)
class KeptClips:
    """The kept clips of a recording that has any, in their order."""

    source: str
    recording_id: str
    stamp: str
    """Changes with the clip file; empty where that is too young to tell."""
    digest: str
    """SHA-256 of their ids."""
    starts: np.ndarray
    """First samples, int64 ``(N,)``."""
    groups: np.ndarray
    """Row groups of the file, int32 ``(N,)``."""
    draws: np.ndarray
    """The first 32 bits of their ids' SHA-256, uint32 ``(N,)``: what training draws its validation clips by."""


def clip_index(corpus: Corpus, source: str) -> FileIndex:
    """Return the index of a source's clip files."""
    return FileIndex(
        storage.join(corpus.uri, "clips", f"source={source}"),
        storage.join(corpus.uri, "state", f"source={source}", "clip-index"),
        SCHEMA,
        summarise,
        list_stamps=overlay.list_stamps,
    )


def summarise(uri: str, recording_id: str) -> dict[str, Any]:
    """Return the row of a clip file. Raises ValueError for a clip whose id is not its recording's."""
    with overlay.open_file(uri, block_size=READ_AHEAD_BYTES) as file, pq.ParquetFile(file) as parquet:
        sizes = [parquet.metadata.row_group(group).num_rows for group in range(parquet.num_row_groups)]
        table = parquet.read(columns=COLUMNS, use_threads=False).to_pydict()  # of old versions some are missing
    reasons, durations = table["drop_reason"], table["duration_s"]
    none: list[str | None] = [None] * len(reasons)
    languages, modalities = table.get("language", none), table.get("modality", none)
    kept = [row for row, reason in enumerate(reasons) if reason is None]
    ids = [table["clip_id"][row] for row in kept]
    starts = [int(clip_id.rpartition("-")[2]) for clip_id in ids]
    for clip_id, start in zip(ids, starts, strict=True):
        if clip_id != make_clip_id(recording_id, start):
            raise ValueError(f"{uri}: clip {clip_id} is of another recording: run `triforce corpus verify --repair`")
    named = [modalities[row] or SPEECH for row in kept]
    names = sorted(set(named))
    counts: dict[tuple[str | None, str | None], list[float]] = {}
    for reason, language, duration_s in zip(reasons, languages, durations, strict=True):
        count = counts.setdefault((reason, language), [0, 0.0])
        count[0] += 1
        count[1] += duration_s or 0.0
    return {
        "digest": hashlib.sha256("\n".join(ids).encode()).hexdigest() if ids else None,
        "starts": starts,
        "groups": np.repeat(np.arange(len(sizes)), sizes)[kept].tolist(),
        "draws": [draw(clip_id) for clip_id in ids],
        "modalities": [names.index(name) for name in named],
        "modality_names": names,
        "counts": [
            {"drop_reason": reason, "language": language, "num_clips": int(num), "duration_s": seconds}
            for (reason, language), (num, seconds) in counts.items()
        ],
    }


def draw(clip_id: str) -> int:
    """Return the first 32 bits of the SHA-256 of a clip's id."""
    return int.from_bytes(hashlib.sha256(clip_id.encode()).digest()[:4], "big")


def kept_clips(corpus: Corpus, modality: str | None = None) -> Iterator[KeptClips]:
    """Yield each recording's kept clips, all or those of a medium, by source and id."""
    for source in corpus.clip_sources():
        for batch in clip_index(corpus, source).batches():
            yield from _of_batch(source, batch.combine_chunks(), modality)


def _of_batch(source: str, batch: pa.Table, modality: str | None) -> Iterator[KeptClips]:
    names, stamps, digests, known = (batch[name].to_pylist() for name in ("name", "stamp", "digest", "modality_names"))
    lists = {name: batch[name].chunk(0) for name in ("starts", "groups", "draws", "modalities")} if len(batch) else {}
    values = {name: array.values.to_numpy() for name, array in lists.items()}
    offsets = lists["starts"].offsets.to_numpy() if lists else ()
    for row, digest in enumerate(digests):
        if digest is None or not (modality is None or modality in known[row]):
            continue
        span = slice(offsets[row], offsets[row + 1])
        columns = [values[name][span] for name in ("starts", "groups", "draws")]
        if modality is not None and len(known[row]) > 1:
            wanted = values["modalities"][span] == known[row].index(modality)
            columns = [column[wanted] for column in columns]
        yield KeptClips(source, names[row], stamps[row], digest, *columns)


def kept_digest(corpus: Corpus) -> str | None:
    """Return a hash of which clips of a corpus are kept, made of one hash a recording; None where there are none."""
    total, found = hashlib.sha256(), False
    for recording in kept_clips(corpus):
        total.update(f"{recording.source}/{recording.recording_id} {recording.digest}\n".encode())
        found = True
    return total.hexdigest() if found else None

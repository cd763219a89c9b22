"""The clips that an evaluation runs on."""

from __future__ import annotations

import hashlib
import heapq
from collections.abc import Callable
from typing import Any

import pyarrow as pa
import pyarrow.dataset as pads

from triforce.ingest.corpus.records import Clip
from triforce.ingest.corpus.store import Corpus

MIN_DURATION_S = 1.0
"""Shortest clip that is evaluated by default. Assumed."""
MAX_DURATION_S = 29.0
"""Longest clip that is evaluated: the judge's window holds 30 s, with a pause."""


COLUMNS = ("clip_id", "text", "duration_s", "source", "title", "asr_model")


def clip_seed(seed: int, clip_id: str) -> int:
    """Return a seed of 31 bits that depends on ``seed`` and the clip alone, whatever else is evaluated."""
    return int.from_bytes(hashlib.sha256(f"{seed} {clip_id}".encode()).digest()[:4], "big") >> 1


def select_clips(
    corpus_uri: str,
    *,
    seed: int = 0,
    limit: int | None = None,
    min_duration_s: float = MIN_DURATION_S,
    max_duration_s: float = MAX_DURATION_S,
) -> list[Clip]:
    """Return kept clips with text and a fit length, in an order that the seed fixes; ``limit`` of them at most.

    A clip's place depends on its id alone, so a larger limit only adds clips. Raises ValueError where the corpus has no
    clips at all.
    """
    corpus = Corpus(corpus_uri)
    if not corpus.clip_files():
        raise ValueError(f"{corpus_uri!r} holds no clips: name a corpus that `triforce ingest` wrote")
    wanted = pads.field("drop_reason").is_null()
    batches = corpus.dataset().to_batches(columns=[*COLUMNS, "recording_id"], filter=wanted)
    fit = (
        row
        for batch in batches
        for row in batch.to_pylist()
        if row["text"] and min_duration_s <= row["duration_s"] <= max_duration_s
    )
    rows = sorted(fit, key=_place(seed)) if limit is None else heapq.nsmallest(limit, fit, key=_place(seed))
    if not rows:
        return []
    files = sorted({corpus.clips_uri(row["source"], row.pop("recording_id")) for row in rows})
    wanted = pads.field("clip_id").isin(pa.array([row["clip_id"] for row in rows], pa.string()))
    sounds = corpus.dataset(files=files).to_table(columns=["clip_id", "audio"], filter=wanted).to_pylist()
    audio = {row["clip_id"]: row["audio"] for row in sounds}
    return [Clip.from_row(row | {"audio": audio[row["clip_id"]]}) for row in rows]


def _place(seed: int) -> Callable[[dict[str, Any]], tuple[int, str]]:
    return lambda row: (clip_seed(seed, row["clip_id"]), row["clip_id"])

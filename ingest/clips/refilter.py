"""Decide again which clips of a finished corpus are dropped: by their stored scores, without decoding any audio."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from triforce.ingest import storage
from triforce.ingest.clips.filters import FilterConfig, drop_reason, letters_per_s
from triforce.ingest.corpus.records import MEDIA_COLUMNS, Clip, DropReason
from triforce.ingest.corpus.rewrite import replace_columns
from triforce.ingest.corpus.store import Corpus

CHANGE_COLUMNS = ("source", "recording_id", "clip_id", "before", "after")
MIN_CLIPS_FOR_RATE = 20
"""Clips of a source from which its speaking rate is known well enough to drop outliers; after Emilia."""


def refilter(corpus: Corpus, config: FilterConfig, *, dry_run: bool = False) -> pa.Table:
    """Decide again, from the stored scores, which clips are dropped; return the clips whose reason changed.

    Columns: source, recording_id, clip_id, before, after. No audio is decoded. Only files with a change are written,
    each atomically; ``dry_run`` writes none.
    """
    changes: list[dict[str, str | None]] = []
    for source in corpus.sources():
        files = corpus.clip_files(source)
        limits = _rate_limits(files, config)
        for uri in files:
            clips, after = _judge_file(uri, config, limits)
            changed = [
                {
                    "source": source,
                    "recording_id": clip.recording_id,
                    "clip_id": clip.clip_id,
                    "before": clip.drop_reason,
                    "after": new,
                }
                for clip, new in zip(clips, after, strict=True)
                if clip.drop_reason != new
            ]
            changes += changed
            if changed and not dry_run:
                replace_columns(uri, {"drop_reason": after})
    return pa.Table.from_pylist(changes, schema=pa.schema([(name, pa.string()) for name in CHANGE_COLUMNS]))


def _read_scores(uri: str) -> list[Clip]:
    """The clips of a file without their media."""
    fs, path = storage.resolve(uri)
    with fs.open(path, "rb") as file:
        parquet = pq.ParquetFile(file)
        names = [name for name in parquet.schema_arrow.names if name not in MEDIA_COLUMNS]
        return [Clip.from_row(row) for row in parquet.read(columns=names).to_pylist()]


def _judge_file(
    uri: str, config: FilterConfig, limits: tuple[float, float] | None
) -> tuple[list[Clip], list[str | None]]:
    clips = _read_scores(uri)
    reasons: list[str | None] = []
    for clip in clips:
        reason, rate = drop_reason(clip, config), letters_per_s(clip)
        if reason is None and limits and rate is not None and not limits[0] <= rate <= limits[1]:
            reason = DropReason.SPEAKING_RATE
        reasons.append(reason and str(reason))
    return clips, reasons


def _rate_limits(files: list[str], config: FilterConfig) -> tuple[float, float] | None:
    """The lowest and highest rate of a source's clips that no outlier has, from those that are otherwise kept."""
    if config.max_rate_iqr is None:
        return None
    rates: list[float] = []
    for uri in files:
        judged = zip(*_judge_file(uri, config, None), strict=True)
        rates += [rate for clip, reason in judged if reason is None and (rate := letters_per_s(clip)) is not None]
    if len(rates) < MIN_CLIPS_FOR_RATE:
        return None
    low, high = np.percentile(rates, [25, 75])
    return float(low - config.max_rate_iqr * (high - low)), float(high + config.max_rate_iqr * (high - low))

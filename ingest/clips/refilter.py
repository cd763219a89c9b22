"""Decide again which clips of a finished corpus are dropped: by their stored scores and by what persons
marked as wrong, without decoding any audio."""

from __future__ import annotations

from array import array
from collections.abc import Collection

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from triforce.ingest.clips.filters import FilterConfig, drop_reason, letters_per_s
from triforce.ingest.clips.marks import marked_ids
from triforce.ingest.corpus.packs import overlay
from triforce.ingest.corpus.records import Clip, DropReason
from triforce.ingest.corpus.rewrite import replace_columns
from triforce.ingest.corpus.store import Corpus

SCORES = [
    *("clip_id", "recording_id", "drop_reason", "modality", "duration_s", "text", "asr_model", "text_source"),
    *("language", "language_probability"),
    *("avg_logprob", "no_speech_prob", "compression_ratio", "chars_per_s", "snr_db", "bandwidth_hz", "clipped_share"),
    *("rms_dbfs", "modulation_db", "edge_db", "cut_blind", "voice_similarity", "dnsmos_ovrl"),
    *("agreement", "overlap_share"),
]
"""Columns that `filters.drop_reason` judges by, but for the words."""
CHANGE_COLUMNS = ("source", "recording_id", "clip_id", "before", "after")
MIN_CLIPS_FOR_RATE = 20
"""Clips of a source from which its speaking rate is known well enough to drop outliers; after Emilia."""


def refilter(corpus: Corpus, config: FilterConfig, *, dry_run: bool = False) -> pa.Table:
    """Decide again, from the stored scores, which clips are dropped; return the clips whose reason changed.

    A clip that a person marked is dropped for `DropReason.MARKED_WRONG`, whatever its scores. Columns: source,
    recording_id, clip_id, before, after. No audio is decoded. Only files with a change are written,
    each atomically; ``dry_run`` writes none.
    """
    schema = pa.schema([(name, pa.string()) for name in CHANGE_COLUMNS])
    tables = [schema.empty_table()]
    for source in corpus.sources():
        files = corpus.clip_files(source)
        marked = marked_ids(corpus, source)
        limits = _rate_limits(files, config, marked)
        for uri in files:
            clips, after = _judge_file(uri, config, limits, marked)
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
            if changed:
                tables.append(pa.Table.from_pylist(changed, schema=schema))
            if changed and not dry_run:
                replace_columns(uri, {"drop_reason": after})
    return pa.concat_tables(tables)


def _read_scores(uri: str, config: FilterConfig) -> list[Clip]:
    """The clips of a file with what they are judged by. Their words, which take longer to read than all else, come
    along only where a clip is so loud at an end that they decide.
    """
    with overlay.open_file(uri) as file, pq.ParquetFile(file) as parquet:
        table = parquet.read(columns=SCORES, use_threads=False)
        loudest = pc.max(table["edge_db"]).as_py() if "edge_db" in table.column_names else None
        rows = table.to_pylist()
        if loudest is not None and loudest > config.max_edge_db:
            words = parquet.read(columns=["words"], use_threads=False).to_pylist()
            rows = [row | one for row, one in zip(rows, words, strict=True)]
    return [Clip.from_row(row) for row in rows]


def _judge_file(
    uri: str, config: FilterConfig, limits: tuple[float, float] | None, marked: Collection[str]
) -> tuple[list[Clip], list[str | None]]:
    clips = _read_scores(uri, config)
    reasons: list[str | None] = []
    for clip in clips:
        reason = DropReason.MARKED_WRONG if clip.clip_id in marked else drop_reason(clip, config)
        rate = letters_per_s(clip)
        if reason is None and limits and rate is not None and not limits[0] <= rate <= limits[1]:
            reason = DropReason.SPEAKING_RATE
        reasons.append(reason and str(reason))
    return clips, reasons


def _rate_limits(files: list[str], config: FilterConfig, marked: Collection[str]) -> tuple[float, float] | None:
    """The lowest and highest rate of a source's clips that no outlier has, from those that are otherwise kept."""
    if config.max_rate_iqr is None:
        return None
    rates = array("f")
    for uri in files:
        judged = zip(*_judge_file(uri, config, None, marked), strict=True)
        rates.extend(rate for clip, reason in judged if reason is None and (rate := letters_per_s(clip)) is not None)
    if len(rates) < MIN_CLIPS_FOR_RATE:
        return None
    low, high = np.percentile(np.asarray(rates, np.float64), [25, 75])
    return float(low - config.max_rate_iqr * (high - low)), float(high + config.max_rate_iqr * (high - low))

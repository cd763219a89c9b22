"""Columns of clip files as arrays, and those that `verdicts.judge` decides by."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from triforce.ingest.clips.columns.text_scores import text_scores
from triforce.ingest.clips.columns.verdicts import Columns, Names
from triforce.ingest.clips.filters import EDGE_WORD_S, FilterConfig
from triforce.ingest.corpus.arrow_schema import CLIP_SCHEMA
from triforce.ingest.corpus.clip_index import READ_AHEAD_BYTES
from triforce.ingest.corpus.packs import overlay

IDS = ("clip_id", "recording_id", "drop_reason")
NUMBERS = (
    *("duration_s", "language_probability", "avg_logprob", "no_speech_prob", "compression_ratio", "chars_per_s"),
    *("snr_db", "bandwidth_hz", "clipped_share", "rms_dbfs", "modulation_db", "edge_db", "voice_similarity"),
    *("dnsmos_ovrl", "agreement", "overlap_share"),
)
FEW_TEXTS = ("modality", "asr_model", "text_source", "language")
"""Columns of few different texts."""


class JudgedColumns(NamedTuple):
    """What clips are judged by."""

    ids: dict[str, pa.Array]
    """Which clips they are, and why they are dropped until now: `IDS`."""
    clips: Columns
    names: Names


def read_judged(uri: str, config: FilterConfig) -> pa.Table:
    """Read of a clip file what `judged_columns` takes. Words, which take longer to read than all else, are looked at
    only where a clip is so loud at an end that they decide."""
    with overlay.open_file(uri, block_size=READ_AHEAD_BYTES) as file, pq.ParquetFile(file) as parquet:
        table = parquet.read(columns=[*IDS, *NUMBERS, *FEW_TEXTS, "text", "cut_blind"], use_threads=False)
        if "edge_db" not in table.column_names or not _is_above(table["edge_db"], config.max_edge_db):
            return table
        words = parquet.read(columns=word_times(parquet), use_threads=False)
    return table.append_column("touches_edge", pa.array(touches_edge(words, numbers(table, "duration_s"))))


def judged_columns(tables: list[pa.Table], config: FilterConfig) -> JudgedColumns:
    """Return what the clips of some files are judged by by `verdicts.judge`: together, as each step over few clips
    takes as long as over many. Shares of different words hold for the limit of ``config`` alone, see `text_scores`."""
    table = pa.concat_tables(tables, promote_options="permissive").combine_chunks()
    clips: dict[str, np.ndarray] = {name: numbers(table, name) for name in NUMBERS}
    clips |= text_scores(column(table, "text"), clips["chars_per_s"], exact_share_up_to=config.min_unique_word_share)
    clips["cut_blind"] = column(table, "cut_blind").fill_null(False).to_numpy(zero_copy_only=False)
    clips["touches_edge"] = np.zeros(len(table), np.int8)
    if "touches_edge" in table.column_names:
        clips["touches_edge"] = table["touches_edge"].combine_chunks().fill_null(0).to_numpy()
    names: dict[str, list[str | None]] = {}
    for name in FEW_TEXTS:
        encoded = column(table, name).dictionary_encode(null_encoding="encode")
        names[name], clips[name] = encoded.dictionary.to_pylist(), encoded.indices.to_numpy()
    return JudgedColumns({name: column(table, name) for name in IDS}, clips, names)


def _is_above(values: pa.ChunkedArray, limit: float) -> bool:
    highest = pc.max(values).as_py()
    return highest is not None and highest > limit


def column(table: pa.Table, name: str) -> pa.Array:
    """Return a column of a clip file in one piece; nulls where an older version did not write it."""
    if name not in table.column_names:
        return pa.nulls(len(table), CLIP_SCHEMA.field(name).type)
    return table[name].combine_chunks()


def numbers(table: pa.Table, name: str) -> np.ndarray:
    """Return a column of numbers, of float32 NaN where there are none."""
    if name not in table.column_names:  # of an older version
        return np.full(len(table), np.nan, np.float32)
    return table[name].to_numpy()


def leaves(parquet: pq.ParquetFile) -> list[str]:
    """Return the paths of the Parquet columns of a file."""
    return [parquet.schema.column(index).path for index in range(len(parquet.schema))]


def word_times(parquet: pq.ParquetFile) -> list[str]:
    """Return the paths of the times of words, without the words."""
    return [path for path in leaves(parquet) if path.startswith("words.") and path.endswith((".start_s", ".end_s"))]


def touches_edge(table: pa.Table, duration_s: np.ndarray) -> np.ndarray:
    """Return whether a clip's first word begins, or its last one ends, at the clip's end, int8 ``(N,)``."""
    touches = np.zeros(len(duration_s), np.int8)
    if "words" not in table.column_names:
        return touches
    first = 0
    for chunk in table["words"].chunks:
        offsets, times = chunk.offsets.to_numpy(), chunk.values
        starts, ends = (times.field(name).to_numpy(zero_copy_only=False) for name in ("start_s", "end_s"))
        rows = np.flatnonzero(np.diff(offsets) > 0)
        # In float64, as `filters` computes: a limit in float32 would lie elsewhere.
        at_start = starts[offsets[rows]].astype(np.float64) < EDGE_WORD_S
        last = ends[offsets[rows + 1] - 1].astype(np.float64)
        at_end = last > np.nan_to_num(duration_s[first + rows].astype(np.float64)) - EDGE_WORD_S
        touches[first + rows] = at_start | at_end
        first += len(chunk)
    return touches

"""What every clip of a corpus is filtered and searched by, remembered by clip file: scores, texts and origin.

It lies in ``state/source=<source>/score-index-<version>/``, see `triforce.ingest.corpus.file_index`: whoever asks after
a run that added one recording opens one clip file. A row holds the clips of a file as lists, one for each column; of
texts and words it also holds what `triforce.ingest.clips.filters` makes of them, so that thresholds can be tried
without reading a clip again.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from triforce.ingest import storage
from triforce.ingest.clips.columns.read_columns import column, leaves, numbers, touches_edge, word_times
from triforce.ingest.clips.columns.text_scores import text_scores
from triforce.ingest.corpus.clip_index import READ_AHEAD_BYTES
from triforce.ingest.corpus.file_index import FileIndex
from triforce.ingest.corpus.packs import overlay
from triforce.ingest.corpus.store import SHARED_COLUMNS, Corpus

VERSION = 2
"""To be raised where a column of `TEXT_SCORES` means something else than before."""
SCORES = (
    *("duration_s", "language_probability", "avg_logprob", "no_speech_prob", "compression_ratio", "temperature"),
    *("chars_per_s", "snr_db", "bandwidth_hz", "clipped_share", "silence_share", "rms_dbfs", "loudness_lufs"),
    *("modulation_db", "edge_db", "voice_similarity", "dnsmos_ovrl", "dnsmos_sig", "dnsmos_bak", "agreement"),
    "overlap_share",
)
"""Columns of float32; NaN where a clip has none."""
TEXT_SCORES = ("letters_per_s", "unique_word_share", "longest_word")
"""Columns of float64, made of the text: letters of an alphabet a second, share of different words of ten or more, and
characters of the longest word; NaN where there are none."""
INTEGERS = ("start_sample", "end_sample", "sample_rate_hz")
FLAGS = ("cut_blind", "no_words", "is_phantom", "touches_edge", "has_words", "has_conditioning")
"""Columns of 1, 0 and -1 for unknown: a text without words, one that is a phantom phrase, a word at an end."""
NAMES = ("asr_model", "text_source", "language", "speaker", "drop_reason", "modality")
"""Columns of few different texts."""
ORIGIN = SHARED_COLUMNS
"""Columns that clips of a recording mostly share: one value for a run of clips, which `origin_starts` begins."""

SCHEMA = pa.schema(
    [
        *((name, pa.list_(pa.float32())) for name in SCORES),
        *((name, pa.list_(pa.float64())) for name in TEXT_SCORES),
        *((name, pa.list_(pa.int64())) for name in INTEGERS),
        *((name, pa.list_(pa.int8())) for name in FLAGS),
        *((name, pa.list_(pa.string())) for name in (*NAMES, "text", *ORIGIN)),
        ("origin_starts", pa.list_(pa.int32())),
    ]
)


def score_index(corpus: Corpus, source: str) -> FileIndex:
    """Return the index of a source's clips."""
    return FileIndex(
        storage.join(corpus.uri, "clips", f"source={source}"),
        storage.join(corpus.uri, "state", f"source={source}", f"score-index-{VERSION}"),
        SCHEMA,
        summarise,
        list_stamps=overlay.list_stamps,
    )


def summarise(uri: str, _: str) -> dict[str, Any]:
    """Return the row of a clip file."""
    with overlay.open_file(uri, block_size=READ_AHEAD_BYTES) as file, pq.ParquetFile(file) as parquet:
        wanted = [*SCORES, *INTEGERS, "cut_blind", *NAMES, "text", *ORIGIN]
        wanted += word_times(parquet) + [path for path in leaves(parquet) if path.startswith("conditioning.")]
        table = parquet.read(columns=wanted, use_threads=False)
    count = len(table)
    row: dict[str, Any] = {name: numbers(table, name) for name in SCORES}
    row |= {name: numbers(table, name).astype(np.int64) for name in INTEGERS}
    row |= {name: _texts(table, name) for name in (*NAMES, "text")}
    row["cut_blind"] = [-1 if value is None else int(value) for value in _texts(table, "cut_blind")]
    row |= {f"has_{name}": _is_there(table, name) for name in ("words", "conditioning")}
    row["touches_edge"] = touches_edge(table, row["duration_s"])
    found = text_scores(column(table, "text"), row["chars_per_s"])
    row |= {name: found[name] for name in TEXT_SCORES}
    row |= {name: found[name].astype(np.int8) for name in ("no_words", "is_phantom")}
    origins = list(zip(*(_texts(table, name) for name in ORIGIN), strict=True))
    starts = [at for at in range(count) if at == 0 or origins[at] != origins[at - 1]]
    row |= {name: [origins[at][place] for at in starts] for place, name in enumerate(ORIGIN)}
    return row | {"origin_starts": starts}


def _texts(table: pa.Table, name: str) -> list[Any]:
    return table[name].to_pylist() if name in table.column_names else [None] * len(table)


def _is_there(table: pa.Table, name: str) -> np.ndarray:
    if name not in table.column_names:
        return np.zeros(len(table), np.int8)
    return table[name].is_valid().to_numpy().astype(np.int8)

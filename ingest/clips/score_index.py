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
from triforce.ingest.asr.writing import plain_words, repeatable_units, spaced_words, spoken_letters
from triforce.ingest.clips.filters import EDGE_WORD_S, MIN_UNITS, is_phantom_phrase
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
    with overlay.open_file(uri) as file, pq.ParquetFile(file) as parquet:
        wanted = [*SCORES, *INTEGERS, "cut_blind", *NAMES, "text", *ORIGIN]
        table = parquet.read(columns=[*wanted, *_light_leaves(parquet)], use_threads=False)
    count = len(table)
    row: dict[str, Any] = {name: _numbers(table, name, np.float32) for name in SCORES}
    row |= {name: _numbers(table, name, np.int64) for name in INTEGERS}
    row |= {name: _texts(table, name) for name in (*NAMES, "text")}
    row["cut_blind"] = [-1 if value is None else int(value) for value in _texts(table, "cut_blind")]
    row |= {f"has_{name}": _is_there(table, name) for name in ("words", "conditioning")}
    row["touches_edge"] = _touches_edge(table, row["duration_s"])
    row |= _text_scores(row["text"], row["chars_per_s"])
    origins = list(zip(*(_texts(table, name) for name in ORIGIN), strict=True))
    starts = [at for at in range(count) if at == 0 or origins[at] != origins[at - 1]]
    row |= {name: [origins[at][place] for at in starts] for place, name in enumerate(ORIGIN)}
    return row | {"origin_starts": starts}


def _light_leaves(parquet: pq.ParquetFile) -> list[str]:
    """The times of words without the words, and the clips to condition on; voices would be most of what is read."""
    paths = [parquet.schema.column(index).path for index in range(len(parquet.schema))]
    ends = (".start_s", ".end_s")
    return [path for path in paths if path.startswith("words.") and path.endswith(ends)] + [
        path for path in paths if path.startswith("conditioning.")
    ]


def _numbers(table: pa.Table, name: str, kind: type) -> np.ndarray:
    if name not in table.column_names:  # of an older version
        return np.full(len(table), np.nan, np.float32)
    return table[name].to_numpy().astype(kind)


def _texts(table: pa.Table, name: str) -> list[Any]:
    return table[name].to_pylist() if name in table.column_names else [None] * len(table)


def _is_there(table: pa.Table, name: str) -> np.ndarray:
    if name not in table.column_names:
        return np.zeros(len(table), np.int8)
    return table[name].is_valid().to_numpy().astype(np.int8)


def _touches_edge(table: pa.Table, duration_s: np.ndarray) -> np.ndarray:
    """Whether a clip's first word begins, or its last one ends, at the clip's end."""
    touches = np.zeros(len(table), np.int8)
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


def _text_scores(texts: list[str | None], chars_per_s: np.ndarray) -> dict[str, list[float] | list[int]]:
    rates, shares, longest, no_words, phantoms = [], [], [], [], []
    for text, rate in zip(texts, chars_per_s.tolist(), strict=True):
        units = repeatable_units(text)
        rates.append(rate * spoken_letters(text) / len(text) if text else rate)
        shares.append(len(set(units)) / len(units) if len(units) >= MIN_UNITS else np.nan)
        longest.append(max(map(len, spaced_words(text)), default=np.nan))
        no_words.append(int(text is not None and not plain_words(text)))
        phantoms.append(int(is_phantom_phrase(text)))
    return {
        "letters_per_s": rates,
        "unique_word_share": shares,
        "longest_word": longest,
        "no_words": no_words,
        "is_phantom": phantoms,
    }

"""What `triforce.ingest.clips.filters` judges of texts, for many texts at once.

Texts in ASCII are looked at as one array of bytes, others one by one.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import pyarrow as pa

from triforce.ingest.asr.writing import plain_words, spoken_letters, units_of
from triforce.ingest.clips.filters import MIN_UNITS, PLAIN_PHANTOMS

BASE = 0x9E3779B97F4A7C15
"""Base of the polynomial that words are hashed by, modulo 2^64. Any odd number with many bits will do."""
MAX_ASCII = 127
_WORD_BYTES = b"abcdefghijklmnopqrstuvwxyz0123456789'_"
_LETTER = np.zeros(256, np.uint8)
"""Of each byte the lower-case one that it is in a word; 0: it is in none."""
_LETTER[list(_WORD_BYTES)] = list(_WORD_BYTES)
_LETTER[list(_WORD_BYTES[:26].upper())] = list(_WORD_BYTES[:26])


def _size(num_words: Any, num_letters: Any) -> Any:
    """One number for how many words and letters a text has."""
    return num_words * 4096 + num_letters


_PHANTOM_SIZES = np.unique([_size(len(text.split()), len(text.replace(" ", ""))) for text in PLAIN_PHANTOMS])


def text_scores(
    texts: pa.StringArray, chars_per_s: np.ndarray, *, exact_share_up_to: float = np.inf
) -> dict[str, np.ndarray]:
    """Return ``letters_per_s``, ``unique_word_share`` and ``longest_word``, float64 ``(N,)`` and NaN where there is
    none; ``no_words``, ``is_phantom`` and ``text_is_null``, bool ``(N,)``. ``chars_per_s`` is float32 ``(N,)``.

    A share over ``exact_share_up_to`` may be a little too small, yet is over it: to find it exactly takes longer.
    """
    is_null = texts.is_null().to_numpy(zero_copy_only=False)
    data, offsets = _utf8(texts)
    num_bytes = np.diff(offsets)
    scores, is_ascii = _ascii_scores(data, offsets)
    scores["no_words"] &= ~is_null
    letters, length = num_bytes.astype(np.float64), num_bytes.astype(np.float64)
    doubtful = is_ascii & (scores["unique_word_share"] <= exact_share_up_to)
    doubtful |= is_ascii & scores["is_phantom"]
    for row in np.flatnonzero(doubtful | ~is_ascii).tolist():
        text = texts[row].as_py()
        letters[row], length[row] = spoken_letters(text), len(text)
        for name, value in _of_words(plain_words(text)).items():
            scores[name][row] = value
    rates = chars_per_s.astype(np.float64)
    filled = num_bytes > 0
    rates[filled] = rates[filled] * letters[filled] / length[filled]
    return scores | {"letters_per_s": rates, "text_is_null": is_null}


def _of_words(words: list[str]) -> dict[str, float | bool]:
    """The same of one text, by its plain words."""
    units, spaced = units_of(words)
    return {
        "unique_word_share": len(set(units)) / len(units) if len(units) >= MIN_UNITS else np.nan,
        "longest_word": max(map(len, spaced), default=np.nan),
        "no_words": not words,
        "is_phantom": " ".join(words) in PLAIN_PHANTOMS,
    }


def _utf8(texts: pa.StringArray) -> tuple[np.ndarray, np.ndarray]:
    """The bytes of texts one behind another, uint8 ``(B,)``, and where each begins and the last ends, ``(N + 1,)``; a
    null is empty."""
    texts = texts.fill_null("")
    _, ends, data = texts.buffers()
    offsets = np.frombuffer(ends, np.int32)[texts.offset : texts.offset + len(texts) + 1].astype(np.int64)
    whole = np.frombuffer(data, np.uint8) if data is not None and data.size else np.zeros(0, np.uint8)
    return whole[offsets[0] : offsets[-1]], offsets - offsets[0]


def _ascii_scores(data: np.ndarray, offsets: np.ndarray) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """The scores of texts in ASCII, and which texts are such, bool ``(N,)``. Of ``unique_word_share`` it is a lower
    bound; ``is_phantom`` says that a text may be one."""
    count = len(offsets) - 1
    letters = _LETTER[data]
    starts, ends = _words(letters, offsets)
    firsts = np.searchsorted(starts, offsets)
    num_words, filled = np.diff(firsts), firsts[:-1] < firsts[1:]
    longest, num_letters = np.full(count, np.nan), np.zeros(count, np.int64)
    if len(starts):
        longest[filled] = np.maximum.reduceat(ends - starts, firsts[:-1][filled])
        num_letters[filled] = np.add.reduceat(ends - starts, firsts[:-1][filled])
    share = np.full(count, np.nan)
    enough = num_words >= MIN_UNITS
    rows = np.repeat(np.arange(count), num_words)
    share[enough] = _num_different(letters, starts, ends, rows, count)[enough] / num_words[enough]
    other = np.concatenate([[0], np.cumsum(data > MAX_ASCII)])
    scores = {
        "unique_word_share": share,
        "longest_word": longest,
        "no_words": ~filled,
        "is_phantom": _is_one_of(_size(num_words, num_letters), _PHANTOM_SIZES),
    }
    return scores, other[offsets[1:]] == other[offsets[:-1]]


def _is_one_of(values: np.ndarray, few: np.ndarray) -> np.ndarray:
    """Whether each value is one of few sorted ones; a tenth of what `np.isin` takes for some hundred values."""
    return few[np.minimum(np.searchsorted(few, values), len(few) - 1)] == values


def _words(letters: np.ndarray, offsets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where words begin and end; none goes over the border of two texts."""
    inside = letters != 0
    before, behind = np.zeros_like(inside), np.zeros_like(inside)
    before[1:], behind[:-1] = inside[:-1], inside[1:]
    borders = offsets[(offsets > 0) & (offsets < len(letters))]
    before[borders], behind[borders - 1] = False, False
    return np.flatnonzero(inside & ~before), np.flatnonzero(inside & ~behind) + 1


def _num_different(
    letters: np.ndarray, starts: np.ndarray, ends: np.ndarray, rows: np.ndarray, count: int
) -> np.ndarray:
    """How many different words each text has, at least: two may have the same hash."""
    powers = _powers(1 << (2 * len(letters)).bit_length())
    sums = np.zeros(len(letters) + 1, np.uint64)
    np.cumsum(letters * powers[: len(letters)], out=sums[1:])
    hashes = (sums[ends] - sums[starts]) * powers[len(letters) - starts]
    row_bits = np.uint64(max(1, count.bit_length()))
    keys = np.sort((rows.astype(np.uint64) << (np.uint64(64) - row_bits)) | (hashes >> row_bits))
    is_new = np.ones(len(keys), bool)
    is_new[1:] = keys[1:] != keys[:-1]
    return np.bincount((keys[is_new] >> (np.uint64(64) - row_bits)).astype(np.int64), minlength=count)


@functools.lru_cache(maxsize=4)
def _powers(count: int) -> np.ndarray:
    """Powers of `BASE` modulo 2^64 from the first on, uint64 ``(count,)``."""
    return np.cumprod(np.full(count, BASE, np.uint64), dtype=np.uint64)

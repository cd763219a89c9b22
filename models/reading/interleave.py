"""Reading: text, and speech in which the pieces of each word stand before the codes that say it.

A document is ``<text> pieces </text> <reading> codes pieces-of-word-1 codes pieces-of-word-2 ... </reading>``. A code
belongs to the word in which its centre lies; codes before the first word's start come first. In training the network
decides when a word begins (the word's first piece) and what it sounds like (the codes); the other pieces are given.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np

from triforce.models.reading.phonemes import PhonemeTokenizer, WordPieces

TimedWord = tuple[str, float, float]
"""A word as it is written, its start and end in seconds from the clip's start."""


def time_words(
    reader: PhonemeTokenizer, text: str, words: Sequence[TimedWord]
) -> tuple[list[WordPieces], np.ndarray] | None:
    """Return the words of ``text`` as `PhonemeTokenizer.words` has them and the start of each, s ``(W,)``.

    ``words`` are those of the recogniser or synthesiser. Where one of them is several words when it is normalised
    (1984), these share its time. Returns None where the two do not match word for word, or times run backwards.
    """
    found = reader.words(text)
    starts: list[float] = []
    if len(found) == len(words):
        starts = [start for _, start, _ in words]
    else:
        for written, start, end in words:
            count = len(reader.words(written))
            starts += [start + (end - start) * i / count for i in range(count)]
    if len(starts) != len(found) or not found or any(b < a for a, b in itertools.pairwise(starts)):
        return None
    return found, np.array(starts)


def codes_before(starts_s: np.ndarray, num_codes: int, codes_per_s: float) -> np.ndarray:
    """Return how many codes ``(W,)`` int64 come before each word: those whose centre is before its start."""
    before = np.ceil(np.asarray(starts_s, dtype=np.float64) * codes_per_s - 0.5)
    return np.clip(before, 0, num_codes).astype(np.int64)


def interleave(codes: np.ndarray, words: Sequence[np.ndarray], before: np.ndarray, num_codes: int) -> np.ndarray:
    """Return the codes of a ``reading`` segment: ``codes`` with the pieces of each word, numbered from ``num_codes``,
    where ``before`` ``(W,)`` of the codes have passed.
    """
    codes = np.asarray(codes, dtype=np.int64).reshape(-1)
    places = np.repeat(before, [len(pieces) for pieces in words])
    return np.insert(codes, places, np.concatenate(words) + num_codes)


def reading_weights(codes: np.ndarray, num_codes: int, boundary: int) -> np.ndarray:
    """Return the weight in the loss of each token of a ``reading`` segment with its markers, ``(L + 2,)`` float32.

    1 for codes, the first piece of a word and the end; 0 for the begin marker and pieces that are given.
    """
    decided = (codes < num_codes) | (codes == num_codes + boundary)
    return np.concatenate([[False], decided, [True]]).astype(np.float32)

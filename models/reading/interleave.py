"""Reading: text, and speech in which the pieces of text stand before the codes that say them.

A document is ``<text> pieces </text> <reading> codes pieces codes pieces ... </reading>``. A code belongs to the word,
or the piece, in which its centre lies; codes before the first word's start come first. In training the network decides
when a word or a piece begins and what it sounds like (the codes). By words, all pieces of a word stand before its
codes, and those after the first are given. By pieces, each phoneme or letter stands before its own codes; of the time
of a word each takes a share by `DURATIONS`, and punctuation behind a word takes what is left before the next. Then a
code's sound is that of the last piece before it, and the network need not learn where in a word it is.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from triforce.models.reading.lexicon import VOWELS
from triforce.models.reading.phonemes import BOUNDARY, PUNCTUATION, SYMBOLS, PhonemeTokenizer, WordPieces
from triforce.models.vocabulary import ReadingUnits

VOWEL_DURATION = 1.4
"""Duration of a vowel, where that of a consonant or letter is 1. Assumed."""
DURATIONS = np.array(
    [
        0.0 if symbol == " " or symbol in PUNCTUATION else VOWEL_DURATION if symbol[:-1] in VOWELS else 1.0
        for symbol in SYMBOLS
    ]
)
"""Relative duration of each piece within its word."""
TimedWord = tuple[str, float, float]
"""A word as it is written, its start and end in seconds from the clip's start."""


class WordTimes(NamedTuple):
    """Words and when they are said."""

    words: list[WordPieces]
    starts_s: np.ndarray
    """Start of each word in seconds, ``(W,)``."""
    ends_s: np.ndarray
    """End of each word in seconds, ``(W,)``, at most the start of the next."""


def time_words(reader: PhonemeTokenizer, text: str, words: Sequence[TimedWord]) -> WordTimes | None:
    """Return the words of ``text`` as `PhonemeTokenizer.words` has them with their times.

    ``words`` are those of the recogniser or synthesiser. Where one of them is several words when it is normalised
    (1984), these share its time; one that goes on behind a hyphen, as Whisper splits them ("non", "-stop"), is part of
    the one before. Returns None where the two do not match word for word, or times run backwards.
    """
    found = reader.words(text)
    words = _joined_at_hyphens(words)
    times: list[tuple[float, float]] = []
    if len(found) == len(words):
        times = [(start, end) for _, start, end in words]
    else:
        for written, start, end in words:
            count = len(reader.words(written))
            step = (end - start) / max(1, count)
            times += [(start + step * i, start + step * (i + 1)) for i in range(count)]
    if len(times) != len(found) or not found or any(b < a for (a, _), (b, _) in itertools.pairwise(times)):
        return None
    starts, ends = np.array(times).T
    ends = np.maximum(starts, np.minimum(ends, np.append(starts[1:], np.inf)))
    return WordTimes(found, starts, ends)


def piece_times(pieces: np.ndarray, words: np.ndarray, starts_s: np.ndarray, ends_s: np.ndarray) -> np.ndarray:
    """Return the start in seconds of each piece ``(L,)`` of words ``(L,)``, which are numbered in ascending order.

    ``starts_s`` and ``ends_s`` ``(W,)`` are the words' times.
    """
    durations = DURATIONS[pieces]
    total = np.bincount(words, weights=durations, minlength=len(starts_s))
    behind = np.concatenate([[0.0], durations.cumsum()])
    first = np.searchsorted(words, np.arange(len(starts_s)))
    before = behind[:-1] - behind[first][words]
    share = np.where(total[words] > 0, before / np.maximum(total[words], 1e-9), 0.0)
    return starts_s[words] + (ends_s - starts_s)[words] * np.clip(share, 0.0, 1.0)


def begins_unit(pieces: np.ndarray, units: ReadingUnits) -> np.ndarray:
    """Return for each of the pieces ``(L,)`` of whole words whether the network decides that it begins, bool.

    By words that is a word's boundary; by pieces, also every piece but those up to the first sound of a word.
    """
    pieces = np.asarray(pieces, dtype=np.int64)
    boundary = pieces == BOUNDARY
    if units == "words":
        return boundary
    places = np.arange(len(pieces))
    word = np.maximum.accumulate(np.where(boundary, places, -1))
    sound = np.maximum.accumulate(np.where(DURATIONS[pieces] > 0, places, -1))
    sounded = np.concatenate([[-1], sound[:-1]]) > word
    return boundary | sounded


def _joined_at_hyphens(words: Sequence[TimedWord]) -> list[TimedWord]:
    joined: list[TimedWord] = []
    for written, start, end in words:
        if joined and written.startswith("-"):
            before, start, _ = joined.pop()
            written = before + written
        joined.append((written, start, end))
    return joined


def codes_before(starts_s: np.ndarray, num_codes: int, codes_per_s: float) -> np.ndarray:
    """Return how many codes ``(W,)`` int64 come before each word: those whose centre is before its start."""
    before = np.ceil(np.asarray(starts_s, dtype=np.float64) * codes_per_s - 0.5)
    return np.clip(before, 0, num_codes).astype(np.int64)


def interleave(codes: np.ndarray, pieces: np.ndarray, before: np.ndarray, num_codes: int) -> np.ndarray:
    """Return the codes of a ``reading`` segment: ``codes`` with the pieces ``(L,)``, numbered from ``num_codes``, where
    ``before`` ``(L,)`` of the codes have passed.
    """
    return np.insert(np.asarray(codes, dtype=np.int64).reshape(-1), before, pieces + num_codes)


def reading_weights(codes: np.ndarray, num_codes: int, units: ReadingUnits = "words") -> np.ndarray:
    """Return the weight in the loss of each token of a ``reading`` segment with its markers, ``(L + 2,)`` float32.

    1 for codes, pieces that begin a unit and the end; 0 for the begin marker and pieces that are given.
    """
    decided = codes < num_codes
    decided[~decided] = begins_unit(codes[~decided] - num_codes, units)
    return np.concatenate([[False], decided, [True]]).astype(np.float32)
